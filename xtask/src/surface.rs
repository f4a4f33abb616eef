//! The public surface of event-box as a list that is committed, read from what rustdoc makes of it: its JSON needs a nightly toolchain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, root, run as execute, target_dir};

pub(crate) fn write() -> Result<()> {
    let items = items()?;
    fs::write(file(), text(&items))?;
    println!("docs/public-api.txt holds {} lines", items.len());
    Ok(())
}

pub(crate) fn check() -> Result<()> {
    let (new, old) = (items()?, fs::read_to_string(file()).unwrap_or_default());
    let old: BTreeSet<String> = old.lines().map(str::to_owned).collect();
    let added = new.difference(&old).map(|line| format!("added: {line}"));
    let removed = old.difference(&new).map(|line| format!("removed: {line}"));
    let differences: Vec<_> = added.chain(removed).collect();
    if !differences.is_empty() {
        bail!(
            "the public surface has changed; if that is meant, run `cargo xtask surface`:\n  {}",
            differences.join("\n  ")
        );
    }
    println!("docs/public-api.txt holds all {} lines", new.len());
    Ok(())
}

fn file() -> PathBuf {
    root().join("docs/public-api.txt")
}

fn text(items: &BTreeSet<String>) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

/// Every item that rustdoc lists, and what it has of its own: methods, variants, fields.
fn items() -> Result<BTreeSet<String>> {
    let target = target_dir().join("surface");
    execute(
        cargo(["doc", "--quiet", "--package", "event-box", "--no-deps", "--all-features"])
            .env("CARGO_TARGET_DIR", &target),
    )?;
    let pages = target.join("doc/event_box");
    let all = fs::read_to_string(pages.join("all.html")).context("rustdoc wrote no list of all items")?;
    let mut items = BTreeSet::new();
    for page in between(&all, "<li><a href=\"", "\"").filter(|page| page.ends_with(".html")) {
        let Some((kind, name)) = item(Path::new(page)) else { bail!("`{page}` is no page of an item") };
        items.insert(format!("{kind} {name}"));
        let html = fs::read_to_string(pages.join(page))?;
        items.extend(members(&html).map(|member| format!("{kind} {name} {member}")));
    }
    if items.is_empty() {
        bail!("rustdoc lists no item: its pages look otherwise than this reads them");
    }
    Ok(items)
}

/// `testing/fn.drain.html` is the function `testing::drain`.
fn item(page: &Path) -> Option<(String, String)> {
    let (kind, name) = page.file_stem()?.to_str()?.split_once('.')?;
    let module = page.parent()?.to_str()?.replace('/', "::");
    let path = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
    Some((kind.to_owned(), path))
}

/// What stands before the implementations of traits, which are not of its own.
fn members(html: &str) -> impl Iterator<Item = &str> {
    let own = [
        "id=\"trait-implementations\"",
        "id=\"synthetic-implementations\"",
        "id=\"blanket-implementations\"",
        "id=\"implementors\"",
    ];
    let end = own.iter().filter_map(|mark| html.find(mark)).min().unwrap_or(html.len());
    // rustdoc numbers what comes again, in implementations for other types.
    between(&html[..end], "id=\"", "\"").filter(|id| !id.contains('-')).filter(|id| {
        let kinds = ["method.", "tymethod.", "variant.", "structfield.", "associatedconstant.", "associatedtype."];
        kinds.iter().any(|kind| id.starts_with(kind))
    })
}

fn between<'t>(text: &'t str, start: &'t str, end: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split(end).next())
}
