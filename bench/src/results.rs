//! Tables for people, and `RESULTS.md`, whose sections are each the last run's of one kind.

use std::{fmt::Write, fs, path::Path};

use crate::{comparison::Comparison, figure::Figure, suites::Measured};

/// A section of `RESULTS.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// event-box beside PostgreSQL itself.
    Raw,
    /// Other crates too.
    Peers,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Peers => "peers",
        }
    }

    fn bounds(self) -> (String, String) {
        (format!("<!-- begin {} -->\n", self.name()), format!("<!-- end {} -->\n", self.name()))
    }

    fn empty(self) -> &'static str {
        match self {
            Self::Raw => "## event-box beside PostgreSQL itself\n\nNot measured yet: `cargo xtask bench`.\n",
            Self::Peers => "## event-box beside its peers\n\nNot measured yet: `cargo xtask bench --peers`.\n",
        }
    }
}

const HEAD: &str = "# Results\n\nWritten by `cargo xtask bench` and `cargo xtask bench --peers`: not by hand. \
[README.md](README.md) says what is measured, and how.\n";

/// Puts the text in the place of the section's last one.
///
/// # Errors
/// Where the file cannot be read or written.
pub fn write(section: Section, text: &str) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, replaced(&old, section, text))?;
    Ok(())
}

fn replaced(old: &str, section: Section, text: &str) -> String {
    let mut new = HEAD.to_owned();
    for each in [Section::Raw, Section::Peers] {
        let (begin, end) = each.bounds();
        let before = old.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
        let body = if each == section { text } else { before.unwrap_or(each.empty()) };
        new.extend(["\n", &begin, body, &end]);
    }
    new
}

/// A section's text: heading, where it was measured, the table, what was missed, and the figures.
///
/// # Errors
/// None.
pub fn section(title: &str, where_and_how: &str, measured: &Measured) -> anyhow::Result<String> {
    let mut text = format!("## {title}\n\n{where_and_how}\n");
    writeln!(text, "{}", markdown(&measured.comparisons))?;
    text += &missed(&measured.comparisons)?;
    let notes: Vec<_> = measured.comparisons.iter().filter_map(|row| Some((row, row.note.as_ref()?))).collect();
    if !notes.is_empty() {
        writeln!(text, "\nNotes:\n")?;
        for (row, note) in notes {
            writeln!(text, "- {}: {note}.", row.what)?;
        }
    }
    if !measured.figures.is_empty() {
        writeln!(text, "\n### Also measured\n\n{}", figures(&measured.figures))?;
    }
    Ok(text)
}

fn missed(comparisons: &[Comparison]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let rows: Vec<_> = comparisons.iter().filter(|row| row.reached == Some(false)).collect();
    if rows.is_empty() {
        text += if comparisons.iter().any(|row| row.line.is_some()) { "Every line was reached.\n" } else { "" };
        return Ok(text);
    }
    writeln!(text, "Not reached:\n")?;
    for row in rows {
        let line = row.line.unwrap_or_default();
        writeln!(
            text,
            "- {}: {} instead of {} {}.",
            row.what,
            short(row.ratio),
            row.bound.unwrap_or_default(),
            short(line)
        )?;
    }
    Ok(text)
}

fn markdown(comparisons: &[Comparison]) -> String {
    let mut text = "| what | ratio | min to max | line | reached | measured (min to max) | beside (min to max) |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in comparisons {
        let line = row.line.zip(row.bound).map_or("–".to_owned(), |(line, bound)| format!("{bound} {}", short(line)));
        let reached = row.reached.map_or("–", |reached| if reached { "yes" } else { "**no**" });
        let side = |side: &crate::comparison::Spread| {
            format!("{} {} ({} to {})", short(side.median), row.unit, short(side.min), short(side.max))
        };
        text += &format!(
            "| {} | {} | {} to {} | {line} | {reached} | {} | {} |\n",
            row.what,
            short(row.ratio),
            short(row.ratio_min),
            short(row.ratio_max),
            side(&row.ours),
            side(&row.beside)
        );
    }
    text
}

fn figures(figures: &[Figure]) -> String {
    let mut text = "| what | event-box | raw |\n|---|---|---|\n".to_owned();
    for row in figures {
        let raw = row.raw.map_or("–".to_owned(), |raw| format!("{} {}", short(raw), row.unit));
        text += &format!("| {} | {} {} | {raw} |\n", row.what, short(row.value), row.unit);
    }
    text
}

/// For the terminal: a line each.
pub fn table(measured: &Measured) -> String {
    let mut lines = vec![format!("{:<98} {:>7}  {:<17} {:<15} reached", "what", "ratio", "(min to max)", "line")];
    lines.extend(measured.comparisons.iter().map(line));
    if !measured.figures.is_empty() {
        lines.push(String::new());
    }
    lines.extend(measured.figures.iter().map(figure));
    lines.join("\n")
}

/// One comparison's line of the table.
pub fn line(row: &Comparison) -> String {
    let spread = format!("({} to {})", short(row.ratio_min), short(row.ratio_max));
    let line = row.line.zip(row.bound).map_or(String::new(), |(line, bound)| format!("{bound} {}", short(line)));
    let reached = row.reached.map_or("", |reached| if reached { "yes" } else { "NO" });
    let sides = format!("{} {} and {}", short(row.ours.median), row.unit, short(row.beside.median));
    format!("{:<98} {:>7}  {spread:<17} {line:<15} {reached:<8} {sides}", row.what, short(row.ratio))
}

/// One figure's line of the table.
pub fn figure(row: &Figure) -> String {
    let raw = row.raw.map_or(String::new(), |raw| format!("  (raw: {})", short(raw)));
    format!("{:<98} {:>12} {}{raw}", row.what, short(row.value), row.unit)
}

/// Three digits that matter; whole where there are more.
fn short(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        0.1.. => format!("{number:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{number:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_own_alone() {
        let first = replaced("", Section::Peers, "peers 1\n");
        assert!(first.contains("Not measured yet: `cargo xtask bench`."), "{first}");
        let second = replaced(&first, Section::Raw, "raw 1\n");
        let third = replaced(&second, Section::Raw, "raw 2\n");
        assert!(third.contains("peers 1\n") && third.contains("raw 2\n") && !third.contains("raw 1"), "{third}");
        assert_eq!(third.matches("<!-- begin").count(), 2);
    }
}
