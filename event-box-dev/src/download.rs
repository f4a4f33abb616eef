use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the first of `commands` that is installed. Its failure is the last line that it printed.
pub(crate) fn run_any(commands: impl IntoIterator<Item = Command>) -> Result<Output, String> {
    let mut missing = Vec::new();
    for mut command in commands {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(output),
            Ok(output) => return Err(last_line(&output)),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Err(format!("{} not installed", missing.join(", ")))
}

/// Gives up after 5 to 15 s where the other side does not answer.
pub(crate) fn download(url: &str, file: &Path) -> Result<(), String> {
    let mut curl = Command::new("curl");
    curl.args(["-fsSL", "--connect-timeout", "5", "--max-time", "600", "-o"]).arg(file).arg(url);
    let mut wget = Command::new("wget");
    wget.args(["-nv", "--tries=1", "--timeout=15", "-O"]).arg(file).arg(url);
    run_any([curl, wget]).map(drop)
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map_or_else(|| output.status.to_string(), str::to_owned)
}
