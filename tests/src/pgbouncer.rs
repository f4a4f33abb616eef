use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use event_box::EventBox;
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;

use crate::PATIENCE;

const DOCUMENTED: &str = include_str!("../../docs/pgbouncer.md");

/// A real PgBouncer in transaction mode in front of a server, with the settings that `docs/pgbouncer.md` names and no others that matter. Ends with
/// this value.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    database: String,
    dir: TempDir,
    child: Mutex<Option<Child>>,
}

impl PgBouncer {
    /// Starts it before the server and database of a URL, with at most so many connections to them.
    ///
    /// # Panics
    /// Where there is no PgBouncer: `cargo xtask setup` installs it.
    pub fn start(url: &str, connections: usize) -> Self {
        let server = PgConnectOptions::from_str(url).expect("a URL");
        let password = server.to_url_lossy().password().map(|password| format!(" password={password}"));
        let dir = tempfile::tempdir().expect("a directory");
        // PgBouncer refuses to run as root, and gives up being so after it has begun.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let port = free_port();
        let configuration = format!(
            "[databases]\n* = host={} port={} user={}{}\n\n[pgbouncer]\n{}\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\nmax_client_conn = 1000\nlogfile = {}\ndefault_pool_size = {connections}\n",
            server.get_host(),
            server.get_port(),
            server.get_username(),
            password.unwrap_or_default(),
            documented(),
            dir.path().join("log").display(),
        );
        fs::write(dir.path().join("pgbouncer.ini"), configuration).expect("its configuration");
        let database = server.get_database().expect("a database").to_owned();
        let pgbouncer = Self { port, database, dir, child: Mutex::default() };
        pgbouncer.restart();
        pgbouncer
    }

    /// The log behind it, by a pool of its own, as `docs/pgbouncer.md` says.
    pub async fn log(&self) -> EventBox {
        let url = format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.database);
        let options = PgConnectOptions::from_str(&url).expect("a URL").statement_cache_capacity(0);
        let pool = PgPoolOptions::new().max_connections(20).connect_with(options).await.expect("a pool");
        EventBox::new(pool).behind_pooler()
    }

    /// Kills it, where it runs, and starts it again.
    pub fn restart(&self) {
        self.kill();
        let mut command = Command::new(program());
        if self.dir.path().metadata().is_ok_and(|metadata| metadata.uid() == 0) {
            command.args(["-u", unprivileged()]);
        }
        command.arg("-q").arg(self.dir.path().join("pgbouncer.ini"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("PgBouncer: `cargo xtask setup` installs it");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = child.try_wait().expect("a status");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "PgBouncer does not listen: {ended:?}\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The settings that operators are told.
fn documented() -> &'static str {
    let (_, from) = DOCUMENTED.split_once("```ini\n").expect("settings");
    from.split_once("```").expect("an end").0
}

/// Distributions put it where services live, which not everybody's path names.
fn program() -> PathBuf {
    let found = ["/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
    found.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| "pgbouncer".into())
}

fn unprivileged() -> &'static str {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = passwd.lines().any(|line| line.starts_with("postgres:"));
    if known { "postgres" } else { "nobody" }
}

/// Below the range from which the system gives ports to connections.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return port,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}"),
        }
    }
}
