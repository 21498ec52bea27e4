//! Tells the binary which commit it is built from: `OPENTAB_COMMIT` if that is set, else what Git says.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=OPENTAB_COMMIT");
    let commit = std::env::var("OPENTAB_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    // Git appends to this file at every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rustc-env=OPENTAB_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// One line of Git's output; `None` without Git or outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
