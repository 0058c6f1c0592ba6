//! What a test binary without the usual harness owes to a test runner.

/// Prints the names of the tests where the runner asks for them, as the usual harness does. Whether it asked.
pub(crate) fn lists(tests: &[String]) -> bool {
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    if asked("--list") && !asked("--ignored") {
        tests.iter().for_each(|test| println!("{test}: test"));
    }
    asked("--list")
}
