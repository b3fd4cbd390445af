//! `cargo xtask tables`: writes the tables that restate code, such as the parity table.
//!
//! A table stands between two marker lines of a Markdown file:
//!
//! ```text
//! <!-- table:NAME -->
//! ...
//! <!-- /table:NAME -->
//! ```
//!
//! What goes between comes from a small program that knows the library: it prints one JSON
//! object, from each NAME to its Markdown. With `--check` nothing is written; a table that is out
//! of date is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::failure::{Context, Result, fail};
use crate::workspace;

/// The program that prints the tables, as arguments of cargo.
const PROGRAM: &[&str] =
    &["run", "--quiet", "--package", "posthaste", "--all-features", "--example", "tables"];

/// Does `tables [--check]`.
pub(crate) fn run(check: bool) -> Result<ExitCode> {
    let mut marked = Vec::new();
    for path in workspace::files()? {
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(workspace::root().join(&path))
                .context(|| format!("reading {}", path.display()))?;
            if !names(&text).is_empty() {
                marked.push((path, text));
            }
        }
    }
    if marked.is_empty() {
        println!("no file has a generated table");
        return Ok(ExitCode::SUCCESS);
    }
    let tables = generate()?;
    let mut used = BTreeSet::new();
    let mut stale = 0;
    for (path, text) in marked {
        used.extend(names(&text));
        let new = replace(&text, &tables).context(|| path.display().to_string())?;
        if new == text {
            continue;
        }
        stale += 1;
        if check {
            println!("{}: out of date; run `cargo xtask tables`", path.display());
        } else {
            write(&path, &new)?;
        }
    }
    if let Some(unused) = tables.keys().find(|name| !used.contains(*name)) {
        return fail(format!("the table `{unused}` has no place in any file"));
    }
    println!("{} tables, {stale} files {}", tables.len(), if check { "differ" } else { "written" });
    Ok(if check && stale > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The tables by name.
type Tables = BTreeMap<String, String>;

fn generate() -> Result<Tables> {
    let output = workspace::run(workspace::cargo().args(PROGRAM))?;
    serde_json::from_slice(&output).context(|| "reading the generated tables".to_owned())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(workspace::root().join(path), text)
        .context(|| format!("writing {}", path.display()))?;
    println!("{}: written", path.display());
    Ok(())
}

/// The name in an opening marker line.
fn opening(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- table:")?.strip_suffix("-->").map(str::trim)
}

/// The name in a closing marker line.
fn closing(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- /table:")?.strip_suffix("-->").map(str::trim)
}

/// The names of the tables that a text has places for. Fenced code shows markers, and has none.
fn names(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut names = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced && let Some(name) = opening(line) {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The text with every table in its place.
///
/// # Errors
/// A marker without its partner, or a table that nobody generates.
fn replace(text: &str, tables: &Tables) -> Result<String> {
    let mut new = String::with_capacity(text.len());
    let mut open: Option<&str> = None;
    let mut fenced = false;
    for line in text.split_inclusive('\n') {
        if open.is_none() {
            fenced ^= line.trim_start().starts_with("```");
        }
        if fenced {
            new.push_str(line);
            continue;
        }
        if let Some(name) = opening(line) {
            if let Some(outer) = open {
                return fail(format!("table `{name}` begins inside `{outer}`"));
            }
            let Some(table) = tables.get(name) else {
                return fail(format!("nothing generates the table `{name}`"));
            };
            open = Some(name);
            new.push_str(line);
            // Blank lines: else Markdown takes the table for a part of the comment.
            new.push_str(&format!("\n{}\n\n", table.trim()));
        } else if let Some(name) = closing(line) {
            if open.take() != Some(name) {
                return fail(format!("`/table:{name}` ends what did not begin"));
            }
            new.push_str(line);
        } else if open.is_none() {
            new.push_str(line);
        }
    }
    match open {
        Some(name) => fail(format!("the table `{name}` has no end")),
        None => Ok(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        BTreeMap::from([("parity".to_owned(), "| a |\n|---|\n".to_owned())])
    }

    const OLD: &str = "# T\n<!-- table:parity -->\nold\nlines\n<!-- /table:parity -->\nend\n";

    #[test]
    fn what_is_between_the_markers_is_replaced_and_nothing_else() {
        let new = replace(OLD, &tables()).unwrap();
        let want = "# T\n<!-- table:parity -->\n\n| a |\n|---|\n\n<!-- /table:parity -->\nend\n";
        assert_eq!(new, want);
        assert_eq!(replace(&new, &tables()).unwrap(), want, "a second time changes nothing");
        assert_eq!(names(OLD), BTreeSet::from(["parity".to_owned()]));
    }

    #[test]
    fn a_text_without_markers_or_with_markers_in_code_stays() {
        for text in ["a\nb", "```text\n<!-- table:x -->\n```\nafter\n", ""] {
            assert!(names(text).is_empty());
            assert_eq!(replace(text, &tables()).unwrap(), text);
        }
    }

    #[test]
    fn broken_markers_are_errors() {
        let wrong = |text: &str| replace(text, &tables()).unwrap_err().to_string();
        assert!(wrong("<!-- table:parity -->\n").contains("no end"));
        assert!(wrong("<!-- /table:parity -->\n").contains("did not begin"));
        assert!(wrong("<!-- table:other -->\n<!-- /table:other -->\n").contains("nothing"));
        let nested = "<!-- table:parity -->\n<!-- table:parity -->\n";
        assert!(wrong(nested).contains("inside"));
        let crossed = "<!-- table:parity -->\n<!-- /table:other -->\n";
        assert!(wrong(crossed).contains("did not begin"));
    }
}
