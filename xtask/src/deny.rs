use std::env;

use anyhow::Result;

use crate::cargo::{cargo, run as execute, succeeds, tools_dir};

/// Licences, duplicates and origins of the dependencies, by cargo-deny, which is installed where it is missing. Advisories are
/// left out: they change without a change of ours.
pub(crate) fn run() -> Result<()> {
    let tools = tools_dir();
    let path = env::var_os("PATH").unwrap_or_default();
    // Behind the caller's own: a cargo-deny that is installed is preferred.
    let path = env::join_paths(env::split_paths(&path).chain([tools.join("bin")]))?;
    if !succeeds(cargo(["deny", "--version"]).env("PATH", &path)) {
        execute(cargo(["install", "cargo-deny", "--locked", "--root"]).arg(&tools).env_remove("CARGO_TARGET_DIR"))?;
    }
    execute(
        cargo([
            "deny",
            "--workspace",
            "--all-features",
            "check",
            "--hide-inclusion-graph",
            "licenses",
            "bans",
            "sources",
        ])
        .env("PATH", &path),
    )
}
