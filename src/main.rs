//! The `opentab` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Two TLS providers in one process would make rustls panic at the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    opentab::commands::run(env!("OPENTAB_COMMIT"))
}
