use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use event_box_tests::TestLog;

/// The quickstart, built. (Run through cargo, a signal would reach cargo.)
fn quickstart() -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo).args(["build", "--quiet", "-p", "quickstart"]).status().expect("cargo runs");
    assert!(built.success());
    // Beside the test programs' own directory.
    let program = PathBuf::from(env!("CARGO_BIN_EXE_group-member")).with_file_name("quickstart");
    let mut command = Command::new(program);
    command.env_remove("EVENT_BOX_DATABASE_URL");
    command
}

fn assert_books_agree(mut quickstart: Command) {
    let ran = quickstart.output().expect("it runs");
    let (printed, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{printed}\n{errors}");
    for line in ["events emitted                360", "declined, rolled back          40", "the books agree"] {
        assert!(printed.contains(line), "`{line}` is missing:\n{printed}");
    }
    // sqlx warns of statements and connections that take a second or two, as they may on a busy machine, and of one that was closed while it
    // was asked whether it is well.
    let closed_while_asked = " sqlx_core::pool::connection: error occurred while testing the connection on-release";
    let of_sqlx = |line: &&str| line.contains(" sqlx::") || line.contains(closed_while_asked);
    let worries: Vec<_> = errors.lines().filter(|line| !of_sqlx(line)).collect();
    assert!(worries.is_empty(), "nothing to worry a newcomer: {errors}");
}

/// The README's first command, with no server running and no variable set.
#[test]
fn the_books_agree_on_a_server_of_its_own() {
    assert_books_agree(quickstart());
}

#[tokio::test]
async fn the_books_agree_on_a_given_server_which_is_left_as_it_was() {
    let log = TestLog::empty().await;
    let mut command = quickstart();
    command.env("EVENT_BOX_DATABASE_URL", log.url());
    assert_books_agree(command);
    assert_eq!(log.number("select count(*) from pg_database where datname ~ '^quickstart_[0-9a-f]{32}$'").await, 0);
    log.close().await;
}

/// Ctrl-C in the middle of serving: it ends in good order, and its server and directory are gone.
#[test]
fn it_serves_until_ctrl_c() {
    let mut child = quickstart().arg("--serve").stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let database = lines.find(|line| line.starts_with("the database is ")).expect("it says where its database is");
    lines.find(|line| line == "Ctrl-C stops it").expect("it says how it stops");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let port =
        database.rsplit(':').next().and_then(|rest| rest.split('/').next()).and_then(|port| port.parse::<u16>().ok());
    let port = port.unwrap_or_else(|| panic!("no port in `{database}`"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "its PostgreSQL still runs");
}
