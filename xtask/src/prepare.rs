use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use event_box_dev::{Server, ServerOptions, migrate_for_build};

use crate::cargo::{cargo, root, run as execute, target_dir};
use crate::queries::{self, Queries};

pub(crate) fn write() -> Result<()> {
    let (old, new) = (queries::read(&directory())?, build()?);
    for difference in queries::differences(&old, &new) {
        println!("{difference}");
    }
    queries::replace(&directory(), &old, &new)?;
    println!("event-box/.sqlx holds {} queries", new.len());
    Ok(())
}

pub(crate) fn check() -> Result<()> {
    let (old, new) = (queries::read(&directory())?, build()?);
    let differences = queries::differences(&old, &new);
    if !differences.is_empty() {
        bail!("event-box/.sqlx is out of date, run `cargo xtask prepare`:\n  {}", differences.join("\n  "));
    }
    println!("event-box/.sqlx holds all {} queries", new.len());
    Ok(())
}

fn directory() -> PathBuf {
    root().join("event-box/.sqlx")
}

/// Compiles event-box against a database that has its tables; sqlx's macros write the files while it does.
fn build() -> Result<Queries> {
    // Apart from other builds, which must never see this database.
    let target_dir = target_dir().join("sqlx");
    fs::create_dir_all(&target_dir).with_context(|| format!("cannot create {}", target_dir.display()))?;
    let written = tempfile::tempdir_in(&target_dir)?;
    let server = Server::from_env_or_start_with(&ServerOptions::new().setting("fsync", "off"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let database = runtime.block_on(async {
        let database = server.create_database("prepare").await?;
        migrate_for_build(database.url()).await?;
        anyhow::Ok(database)
    })?;

    // cargo does not know that the macros read these variables: an unchanged crate would not be compiled again.
    execute(cargo(["clean", "--quiet", "--package", "event-box"]).env("CARGO_TARGET_DIR", &target_dir))?;
    execute(
        cargo(["check", "--package", "event-box", "--all-features"])
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("EVENT_BOX_BUILD_DATABASE_URL", database.url())
            .env("SQLX_OFFLINE", "false")
            .env("SQLX_OFFLINE_DIR", written.path()),
    )?;
    runtime.block_on(database.close())?;

    let queries = queries::read(written.path())?;
    if queries.is_empty() {
        bail!("event-box compiled without writing a query: it uses none of sqlx's `query!` macros");
    }
    Ok(queries)
}
