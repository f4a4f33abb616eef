use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A child that stops the server of a directory and removes the directory when we are gone, whichever way: its standard input is
/// a pipe that only we hold.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
}

impl Watchdog {
    pub(crate) fn spawn(dir: &Path) -> io::Result<Self> {
        let child = Command::new("sh")
            .args(["-c", include_str!("watchdog.sh"), "event-box-watchdog"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_took_the_number_lives_on() {
        let dir = tempfile::tempdir().expect("a directory").keep();
        let mut innocent = Command::new("sleep").arg("60").spawn().expect("a process");
        std::fs::create_dir(dir.join("data")).expect("a directory");
        std::fs::write(dir.join("data/postmaster.pid"), format!("{}\n", innocent.id())).expect("a file");

        drop(Watchdog::spawn(&dir).expect("a watchdog"));
        assert!(!dir.exists());
        assert!(innocent.try_wait().expect("a status").is_none());
        innocent.kill().expect("kills");
        innocent.wait().expect("ends");
    }
}
