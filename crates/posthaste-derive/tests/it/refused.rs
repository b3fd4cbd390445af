//! Wrong input, with the compiler's words as golden files: `TRYBUILD=overwrite` writes them anew.

#[test]
fn wrong_input_is_told_at_its_place() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
