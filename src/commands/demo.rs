//! Demo.
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {}
pub async fn demo(_: DemoArgs) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
