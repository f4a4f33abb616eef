use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

pub(crate) fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Where tools are installed that are missing.
pub(crate) fn tools_dir() -> PathBuf {
    env::var_os("EVENT_BOX_TOOLS_DIR").map_or_else(|| target_dir().join("tools"), |dir| root().join(dir))
}

/// `cargo <args>` in the workspace. The queries are checked against what event-box/.sqlx says, never against a database that
/// the caller happens to have exported.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command.env_remove("EVENT_BOX_BUILD_DATABASE_URL").env_remove("SQLX_OFFLINE_DIR");
    command
}

/// Prints the command and waits for it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = display(command);
    println!("$ {text}");
    let status = command.status().with_context(|| format!("`{text}` does not run"))?;
    if !status.success() {
        bail!("`{text}` ended with {status}");
    }
    Ok(())
}

/// Whether the command runs and succeeds, without a word.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) => status.success(),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => {
            eprintln!("{}: {error}", display(command));
            false
        }
    }
}

fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
