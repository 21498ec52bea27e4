//! The command line.

use std::process::ExitCode;

use clap::Parser;
use opentab::commands::{Cli, run};

fn main() -> ExitCode {
    // Two TLS providers in one process would make rustls panic at the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    run(Cli::parse())
}
