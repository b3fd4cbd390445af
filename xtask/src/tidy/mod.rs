//! `cargo xtask tidy`: the house rules that no compiler checks.
//!
//! Each rule is a small function with a test on a bad sample. A rule has no list of exceptions by
//! file: what it does not apply to is part of the rule.

mod graph;
mod invariants;
mod names;
mod rust;
mod source;
mod text;

use std::fs;
use std::process::ExitCode;

use self::source::Source;
use crate::failure::{Context, Result};
use crate::workspace;

/// One breach of a rule, as it is printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the root; a package's name for rules about dependencies.
    pub(crate) place: String,
    /// 1-based; `None` for a whole file.
    pub(crate) line: Option<usize>,
    pub(crate) message: String,
}

impl Finding {
    fn new(place: &str, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line, message: message.into() }
    }
}

/// Rules about any text file.
const TEXT_RULES: &[fn(&Source) -> Vec<Finding>] = &[
    text::trailing_white_space,
    text::last_line_ends,
    text::no_path_of_a_machine,
    text::no_registry,
    text::lock_file_is_public,
];

/// Rules about Rust files.
const RUST_RULES: &[fn(&Source) -> Vec<Finding>] =
    &[rust::opens_with_docs, rust::is_short, rust::no_ignored_test, rust::no_should_panic];

/// Does `tidy`. Fails when a rule is broken.
pub(crate) fn run() -> Result<ExitCode> {
    let graph = graph::Graph::read(&workspace::metadata()?)?;
    let mut findings = Vec::new();
    let mut paths = Vec::new();
    for path in workspace::files()? {
        let name = path.to_string_lossy().replace('\\', "/");
        let bytes = fs::read(workspace::root().join(&path))
            .context(|| format!("reading {}", path.display()))?;
        paths.push(name.clone());
        // What is not text (a picture, a golden fixture) has no lines to check.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if text.contains('\0') {
            continue;
        }
        let source = Source::new(name, text);
        findings.extend(TEXT_RULES.iter().flat_map(|rule| rule(&source)));
        if source.is_rust() {
            findings.extend(RUST_RULES.iter().flat_map(|rule| rule(&source)));
        }
    }
    findings.extend(names::say_what_is_in_them(&paths));
    findings.extend(names::adapters_look_alike(&paths));
    findings.extend(invariants::check(&graph));

    for Finding { place, line, message } in &findings {
        match line {
            Some(line) => println!("{place}:{line}: {message}"),
            None => println!("{place}: {message}"),
        }
    }
    println!("tidy: {} files, {} findings", paths.len(), findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
