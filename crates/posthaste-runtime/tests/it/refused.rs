//! Wrong handlers, with the compiler's words as golden files: `TRYBUILD=overwrite` writes them anew.

#[test]
fn a_wrong_handler_is_told_what_is_wrong_with_it() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
