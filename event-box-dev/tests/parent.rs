//! A server does not outlive the process that started it.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use event_box_dev::{Server, ServerOptions};

struct Parent {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Parent {
    fn spawn(url: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_event-box-dev"));
        command.arg("fsync=off").stdout(Stdio::piped()).env_remove("EVENT_BOX_DATABASE_URL");
        if let Some(url) = url {
            command.env("EVENT_BOX_DATABASE_URL", url);
        }
        let mut process = command.spawn().expect("a process");
        let output = BufReader::new(process.stdout.take().expect("is piped"));
        Self { process, output }
    }

    fn line(&mut self, name: &str) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().strip_prefix(name).unwrap_or_else(|| panic!("expected {name}, got {line}")).to_owned()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn dies_with(end: impl FnOnce(&mut Child)) {
    let mut parent = Parent::spawn(None);
    let url = parent.line("url: ");
    let directory = PathBuf::from(parent.line("data: ")).parent().expect("its directory").to_owned();
    let port = url.split(&[':', '/'][..]).rev().nth(1).expect("a port").to_owned();
    let connect = || TcpStream::connect(format!("127.0.0.1:{port}"));
    connect().expect("runs");

    end(&mut parent.process);
    parent.process.wait().expect("ends");
    wait_until("the directory is removed", || !directory.exists());
    wait_until("nothing listens", || connect().is_err());
}

#[test]
fn a_killed_parent_takes_its_server_along() {
    dies_with(|parent| parent.kill().expect("kills"));
}

#[test]
fn an_interrupted_parent_takes_its_server_along() {
    dies_with(|parent| {
        let status = Command::new("kill").args(["-s", "INT", &parent.id().to_string()]).status().expect("kill");
        assert!(status.success());
    });
}

#[test]
fn a_url_in_the_environment_is_used() {
    let server = Server::start(&ServerOptions::new().setting("fsync", "off")).expect("a server");
    assert_eq!(Parent::spawn(Some(server.url())).line("url: "), server.url());
}
