//! Binary: the `opentab` that users run, built without features; one with failpoints or mutants in it is refused.

use std::process::Command;
use std::sync::OnceLock;

/// The path of the binary.
pub(crate) fn opentab() -> &'static str {
    static PATH: OnceLock<&str> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = env!("CARGO_BIN_EXE_opentab");
        let output = Command::new(path).arg("--version").output().unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        assert!(version.contains("(commit "), "{version:?} does not name the commit");
        assert!(
            !version.contains("failpoints") && !version.contains("mutants"),
            "{version:?}: this test judges the binary that users run; build it alone: cargo test -p opentab"
        );
        path
    })
}
