use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use event_box::failpoints::Point;
use tokio::time::Instant;

use super::mode::Mode;

/// A process of a consumer group, killed with the test.
pub(super) struct Member {
    child: Child,
    reached: Arc<AtomicBool>,
}

/// What it does where it first comes to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Fail,
    Stall,
    Panic,
    Abort,
}

impl Member {
    pub(super) fn spawn(url: &str, group: &str, name: &str, mode: Mode, interrupted: Option<(Point, Action)>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash-member"));
        command.args([url, group, name]).arg(format!("{mode:?}"));
        if let Some((point, action)) = interrupted {
            command.arg(format!("{point:?}")).arg(format!("{action:?}"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the member starts");
        let reached = Arc::new(AtomicBool::new(false));
        let (said, heard) = (child.stdout.take().expect("its output"), reached.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                heard.fetch_or(line == "reached", Ordering::Relaxed);
            }
        });
        Self { child, reached }
    }

    /// Waits until it has come to its point.
    pub(super) async fn reaches(&mut self, what: &str) {
        let deadline = Instant::now() + event_box_tests::PATIENCE;
        while !self.reached.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "{what}: it is never reached");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ends(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + event_box_tests::PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: the process does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// It stalls no longer.
    pub(super) fn release(&mut self) {
        let mut stdin = self.child.stdin.take().expect("its input");
        stdin.write_all(b"\n").expect("it listens");
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Asks it to stop, and waits.
    pub(super) async fn terminate(mut self, what: &str) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill runs").success(), "{what}");
        let status = self.ends(what).await;
        assert!(status.success(), "{what}: {status}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
