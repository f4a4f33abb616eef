use std::{
    path::Path,
    process::{Command, Output},
};

use event_box_tests::TestLog;

/// Builds the core crate anew, with these variables alone.
fn build(variables: &[(&str, &str)]) -> Output {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(&cargo);
        for variable in ["DATABASE_URL", "EVENT_BOX_DATABASE_URL", "EVENT_BOX_BUILD_DATABASE_URL", "SQLX_OFFLINE"] {
            command.env_remove(variable);
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("builds");
        command.current_dir(&root).args(arguments).arg("--target-dir").arg(target).envs(variables.iter().copied());
        command.output().expect("cargo runs")
    };
    // Macros' variables are no reason for cargo to build again.
    run(&["clean", "--quiet", "-p", "event-box"], &[]);
    run(&["check", "--quiet", "-p", "event-box"], variables)
}

#[track_caller]
fn assert_built(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Offline from any database, whatever the user's own variables name; checked against one by event-box's own variable alone.
#[tokio::test]
async fn the_build_heeds_its_own_variable_alone() {
    let log = TestLog::empty().await;
    assert_built(&build(&[]));
    assert_built(&build(&[("DATABASE_URL", log.url()), ("EVENT_BOX_DATABASE_URL", log.url())]));

    let unchecked = build(&[("EVENT_BOX_BUILD_DATABASE_URL", log.url())]);
    assert!(!unchecked.status.success(), "queries were not checked against the database");
    let errors = String::from_utf8_lossy(&unchecked.stderr).into_owned();
    assert!(errors.contains("relation \"event_box.events_sequence_seq\" does not exist"), "{errors}");

    event_box_dev::migrate_for_build(log.url()).await.expect("the tables, without event-box");
    assert_built(&build(&[("EVENT_BOX_BUILD_DATABASE_URL", log.url())]));
    log.close().await;
}

/// The workspace's tests have the feature `opentelemetry`, as cargo unites features; here the crate is built alone, without any.
#[test]
fn the_core_crate_behaves_without_its_features() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tested = Command::new(cargo)
        .current_dir(root)
        .args(["test", "--quiet", "-p", "event-box", "--lib", "trace::tests::without"])
        .output()
        .expect("cargo runs");
    assert_built(&tested);
    let printed = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(printed.contains("test result: ok. 1 passed"), "{printed}");
}
