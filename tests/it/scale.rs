//! Time and scale. Each test prints what it measured; its verdict rests on counts and sizes, never on time. `EVENT_BOX_FULL=1` takes the
//! sizes that take minutes.

mod backlog;
mod groups;
mod hot_key;
mod long_transaction;
mod open_transactions;
mod own;
mod starvation;

use std::process::{Child, Command, ExitStatus};

use event_box_tests::{TestLog, peak_memory};

const MIB: u64 = 1024 * 1024;

/// A `draining-member`, killed with the test.
struct Member(Child);

impl Member {
    fn spawn(log: &TestLog, group: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_draining-member");
        Self(Command::new(program).args([log.url(), group]).spawn().expect("the member starts"))
    }

    /// The most memory that it held, in bytes; 0 where the system does not tell.
    fn peak(&self) -> u64 {
        peak_memory(self.0.id()).unwrap_or(0)
    }

    /// Asks it to stop, and waits.
    fn terminate(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        self.0.wait().expect("the member ends")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
