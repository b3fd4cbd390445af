//! Rules about Rust files: documentation, size, and tests that always run.

use super::Finding;
use super::source::{Kind, Source};

/// A file is one idea. Lines of code: neither documentation nor comment, blank or test.
const CODE_LINES: usize = 400;
/// All lines of any file, tests among them.
const ALL_LINES: usize = 600;

/// A module opens with `//!`: what it is for, and what it does not do. (A crate's root may take
/// its documentation from a file.)
///
/// This holds for tests and examples too. Only compile-fail samples, under a folder `fail`, are
/// free of it: they are input, not code.
pub(crate) fn opens_with_docs(source: &Source) -> Vec<Finding> {
    if source.path.split('/').any(|part| part == "fail") {
        return Vec::new();
    }
    let first = source.text.lines().map(str::trim).find(|line| {
        // A plain comment in front may say something about the file as a file.
        !line.is_empty() && !line.starts_with("#!/") && (!is_plain_comment(line))
    });
    if first.is_some_and(|line| line.starts_with("//!") || line.starts_with("#![doc")) {
        return Vec::new();
    }
    vec![Finding::new(&source.path, Some(1), "the module does not open with `//!`")]
}

fn is_plain_comment(line: &str) -> bool {
    line.starts_with("//") && !line.starts_with("//!") && !line.starts_with("///")
}

/// No file has more than 400 lines of code, or 600 lines in all.
pub(crate) fn is_short(source: &Source) -> Vec<Finding> {
    let code = source.kinds().filter(|(_, _, kind)| *kind == Kind::Code).count();
    let all = source.text.lines().count();
    let mut findings = Vec::new();
    if code > CODE_LINES {
        let message = format!("{code} lines of code; {CODE_LINES} are enough for one idea");
        findings.push(Finding::new(&source.path, None, message));
    }
    if all > ALL_LINES {
        let message = format!("{all} lines; {ALL_LINES} is the limit with docs and tests");
        findings.push(Finding::new(&source.path, None, message));
    }
    findings
}

/// No test is ignored: one that cannot run here says so by itself, by name.
pub(crate) fn no_ignored_test(source: &Source) -> Vec<Finding> {
    attribute(source, "ignore")
}

/// No test is satisfied by any panic: it names what it expects.
pub(crate) fn no_should_panic(source: &Source) -> Vec<Finding> {
    attribute(source, "should_panic")
}

/// Every line that carries the attribute `name`.
fn attribute(source: &Source, name: &str) -> Vec<Finding> {
    let has = |line: &str| {
        let line = line.trim_start();
        let arguments = line.strip_prefix("#[").and_then(|rest| rest.strip_prefix(name));
        arguments.is_some_and(|rest| rest.starts_with([']', '(', ' ']))
    };
    let bad = source.lines().filter(|(_, line)| has(line));
    bad.map(|(n, _)| Finding::new(&source.path, Some(n), format!("#[{name}]"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Source) -> Vec<Finding>, text: &str) -> usize {
        rule(&Source::new("src/a.rs", text)).len()
    }

    #[test]
    fn a_module_without_docs_is_found() {
        assert_eq!(found(opens_with_docs, "use std::fmt;\n//! Late.\n"), 1);
        assert_eq!(found(opens_with_docs, "/// Of the item.\nfn a() {}\n"), 1);
        assert_eq!(found(opens_with_docs, ""), 1);
        assert_eq!(found(opens_with_docs, "// Licence.\n\n//! What.\n"), 0);
        assert_eq!(found(opens_with_docs, "#![doc = include_str!(\"docs.md\")]\n"), 0);
        assert!(opens_with_docs(&Source::new("tests/fail/a.rs", "fn a() {}")).is_empty());
    }

    #[test]
    fn long_files_are_found_by_code_and_by_all_lines() {
        assert_eq!(found(is_short, &"x();\n".repeat(CODE_LINES)), 0);
        assert_eq!(found(is_short, &"x();\n".repeat(CODE_LINES + 1)), 1);
        assert_eq!(found(is_short, &"/// Doc.\n".repeat(ALL_LINES)), 0);
        assert_eq!(found(is_short, &"/// Doc.\n".repeat(ALL_LINES + 1)), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    x();\n".repeat(500));
        assert_eq!(found(is_short, &tests), 0);
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(found(no_ignored_test, "    #[ignore]\n#[ignore = \"later\"]\n"), 2);
        assert_eq!(found(no_ignored_test, "//! no `#[ignore]` here\n#[ignored]\n"), 0);
    }

    #[test]
    fn tests_that_any_panic_satisfies_are_found() {
        assert_eq!(found(no_should_panic, "#[should_panic(expected = \"x\")]\n"), 1);
        assert_eq!(found(no_should_panic, "let a = \"#[should_panic]\";\n"), 0);
    }
}
