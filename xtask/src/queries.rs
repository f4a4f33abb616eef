use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The files that sqlx's macros write, one for each query, by name.
pub(crate) type Queries = BTreeMap<String, Vec<u8>>;

/// Those of a directory; none where it does not exist.
pub(crate) fn read(dir: &Path) -> Result<Queries> {
    let mut queries = Queries::new();
    if !dir.exists() {
        return Ok(queries);
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            queries.insert(
                name,
                fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?,
            );
        }
    }
    Ok(queries)
}

/// What must be done to `old` so that it becomes `new`, a line each.
pub(crate) fn differences(old: &Queries, new: &Queries) -> Vec<String> {
    let written = new.iter().filter_map(|(name, content)| match old.get(name) {
        None => Some(format!("missing: {name}")),
        Some(old) if old != content => Some(format!("stale: {name}")),
        Some(_) => None,
    });
    let removed = old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("superfluous: {name}"));
    written.chain(removed).collect()
}

/// Makes the directory hold `new`, touching only what differs.
pub(crate) fn replace(dir: &Path, old: &Queries, new: &Queries) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, content) in new.iter().filter(|(name, content)| old.get(*name) != Some(*content)) {
        fs::write(dir.join(name), content).with_context(|| format!("cannot write {name}"))?;
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        fs::remove_file(dir.join(name)).with_context(|| format!("cannot remove {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(files: &[(&str, &str)]) -> Queries {
        files.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
    }

    #[test]
    fn every_kind_of_difference_is_named_and_mended() {
        let old = queries(&[("query-a.json", "1"), ("query-b.json", "1"), ("query-c.json", "1")]);
        let new = queries(&[("query-a.json", "1"), ("query-b.json", "2"), ("query-d.json", "1")]);
        assert_eq!(
            differences(&old, &new),
            ["stale: query-b.json", "missing: query-d.json", "superfluous: query-c.json"]
        );

        let dir = tempfile::tempdir().expect("a directory");
        let sqlx = dir.path().join(".sqlx");
        assert_eq!(read(&sqlx).expect("nothing"), Queries::new());
        replace(&sqlx, &Queries::new(), &old).expect("writes");
        fs::write(sqlx.join("README"), "stays").expect("a file");
        replace(&sqlx, &old, &new).expect("writes");
        assert_eq!(read(&sqlx).expect("files"), new);
        assert!(sqlx.join("README").exists());
        assert_eq!(differences(&new, &new), [""; 0]);
    }
}
