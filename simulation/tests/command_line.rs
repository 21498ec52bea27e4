//! The `simulate` binary: its exit code says whether the histories that were asked for were run and kept every promise.

use std::process::Command;

fn simulate(arguments: &[&str]) -> i32 {
    Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap().status.code().unwrap()
}

#[test]
fn histories_that_were_asked_for_and_not_run_are_a_failure() {
    assert_eq!(simulate(&["--schedules", "2", "--minutes", "0"]), 1);
    assert_eq!(simulate(&["--exhaustive", "--minutes", "0"]), 0);
    assert_eq!(simulate(&["--schedules", "1"]), 0);
}

#[test]
fn a_mutant_breaks_a_promise() {
    assert_eq!(simulate(&["--mutants", "--mutant", "no_next_invoice", "--schedules", "0"]), 0);
    assert_eq!(simulate(&["--mutant", "no_such_mutant"]), 2);
}
