//! The test runner's protocol, for test binaries without the usual harness.

/// Prints the names of the tests if the runner asks for them, like the usual harness. Returns whether it asked.
pub(crate) fn lists(tests: &[String]) -> bool {
    if asked("--list") && !asked("--ignored") {
        tests.iter().for_each(|test| println!("{test}: test"));
    }
    asked("--list")
}

/// Whether this flag was given.
pub(crate) fn asked(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}
