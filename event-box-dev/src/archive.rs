use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::download::{download, run_any};
use crate::wanted::Wanted;

const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries/releases/download";
const VERSIONS: [(u32, &str); 4] = [(15, "15.15.0"), (16, "16.11.0"), (17, "17.7.0"), (18, "18.1.0")];

/// Downloads, checks and unpacks an archive into `dir`.
pub(crate) fn fetch(dir: &Path, wanted: &Wanted) -> Result<PathBuf, String> {
    let version = wanted.newest(&VERSIONS)?;
    let name = format!("postgresql-{version}-{}", target()?);
    eprintln!("event-box-dev: fetching {name} from GitHub");
    let (archive, checksum) = (dir.join("archive.tar.gz"), dir.join("archive.sha256"));
    let url = format!("{RELEASES}/{version}/{name}.tar.gz");
    download(&format!("{url}.sha256"), &checksum)?;
    download(&url, &archive)?;
    verify(&archive, &checksum)?;

    let unpacked = dir.join("unpacked");
    fs::create_dir(&unpacked).map_err(|error| error.to_string())?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(&unpacked).arg("--strip-components=1");
    run_any([tar])?;
    Ok(unpacked)
}

fn target() -> Result<String, String> {
    match OS {
        "linux" => Ok(format!("{ARCH}-unknown-linux-{}", if cfg!(target_env = "musl") { "musl" } else { "gnu" })),
        "macos" => Ok(format!("{ARCH}-apple-darwin")),
        _ => Err(format!("none for {OS}")),
    }
}

fn verify(archive: &Path, checksum: &Path) -> Result<(), String> {
    let expected = fs::read_to_string(checksum).map_err(|error| error.to_string())?;
    let bytes = fs::read(archive).map_err(|error| error.to_string())?;
    let actual: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    // The file's name may precede or follow the sum.
    if expected.split_whitespace().any(|word| word.eq_ignore_ascii_case(&actual)) {
        Ok(())
    } else {
        Err(format!("its SHA-256 is {actual}, expected {}", expected.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_archive_of_the_checksum_passes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (archive, checksum) = (dir.path().join("archive"), dir.path().join("checksum"));
        fs::write(&archive, "hello").expect("a file");
        fs::write(&checksum, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  archive\n")
            .expect("a file");
        assert_eq!(verify(&archive, &checksum), Ok(()));
        fs::write(&archive, "hallo").expect("a file");
        assert!(verify(&archive, &checksum).expect_err("another archive").contains("expected 2cf24d"));
    }
}
