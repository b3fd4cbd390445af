//! A text file as the rules see it: its lines, and what each line of a Rust file is.

/// A tracked text file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What a line of a Rust file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Code,
    /// `//!` or `///`.
    Doc,
    /// A comment that is no documentation, or nothing.
    Quiet,
    /// Anything inside a `#[cfg(test)]` module.
    Test,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A file that holds nothing but tests: under `tests/` or `benches/`, or called `tests.rs`.
    pub(crate) fn is_test_file(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "benches" | "tests.rs"))
    }

    /// A file whose every byte is what a test compares with: under `fixtures/`.
    pub(crate) fn is_golden(&self) -> bool {
        self.path.split('/').any(|part| part == "fixtures")
    }

    /// The lines with their 1-based numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Number, text and kind of each line of a Rust file.
    ///
    /// It relies on rustfmt: a test module begins at the left margin and ends with a `}` there.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (usize, &str, Kind)> {
        let all_test = self.is_test_file();
        let mut attribute = false;
        let mut in_tests = false;
        self.lines().map(move |(number, line)| {
            let bare = line.trim_start();
            if line == "#[cfg(test)]" {
                attribute = true;
                return (number, line, Kind::Test);
            }
            let begins = attribute && !line.starts_with("#[");
            if begins {
                attribute = false;
                in_tests = is_module_with_body(line);
            }
            let kind = if in_tests || begins || attribute || all_test {
                Kind::Test
            } else if bare.starts_with("//!") || bare.starts_with("///") {
                Kind::Doc
            } else if bare.is_empty() || bare.starts_with("//") {
                Kind::Quiet
            } else {
                Kind::Code
            };
            if line == "}" {
                in_tests = false;
            }
            (number, line, kind)
        })
    }
}

fn is_module_with_body(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "mod") && line.ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let text = "//! Doc.\n\n// Why.\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n\
                    fn c() {}\n#[cfg(test)]\nmod more;\n/// Doc.\nfn d() {}\n";
        let kinds: Vec<Kind> =
            Source::new("src/a.rs", text).kinds().map(|(_, _, kind)| kind).collect();
        use Kind::{Code, Doc, Quiet, Test};
        let want = [Doc, Quiet, Quiet, Code, Test, Test, Test, Test, Code, Test, Test, Doc, Code];
        assert_eq!(kinds, want);
    }

    #[test]
    fn test_files_are_known_by_their_place() {
        let is_test = |path: &str| Source::new(path, "").is_test_file();
        assert!(is_test("crates/a/tests/it/main.rs"));
        assert!(is_test("crates/a/src/b/tests.rs"));
        assert!(!is_test("crates/a/src/latests.rs"));
        assert!(Source::new("tests/fixtures/a.json", "").is_golden());
        assert!(!Source::new("tests/fixtures.rs", "").is_golden());
        assert!(Source::new("tests/a.rs", "fn a() {}").kinds().all(|(_, _, k)| k == Kind::Test));
    }
}
