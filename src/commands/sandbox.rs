//! `opentab sandbox`: the stand-in for Stripe on a port of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use crate::commands::out::say;
use crate::sandbox::{Options, Sandbox, serve};

#[derive(Debug, Args)]
pub struct SandboxArgs {
    /// Address and port to serve on
    #[arg(long, default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where to send signed webhooks, such as http://127.0.0.1:8080/webhooks/stripe
    #[arg(long)]
    webhook_url: Option<String>,
    /// The webhooks' signing secret; a new one is made and printed where it is not given
    #[arg(long, requires = "webhook_url")]
    webhook_secret: Option<String>,
}

/// Serves until Ctrl-C. Everything in it is gone then.
pub async fn sandbox(args: SandboxArgs) -> anyhow::Result<ExitCode> {
    super::log::start("info", false)?;
    let sandbox = Sandbox::new(Options::default());
    say!("The sandbox stands in for Stripe at http://{}/ with the key sk_test_sandbox", args.listen);
    if let Some(url) = &args.webhook_url {
        let (id, secret) = sandbox.create_webhook_endpoint(url, &["*"], args.webhook_secret.clone());
        say!("Webhooks go to {url} ({id}), signed with {secret}");
    }
    tokio::select! {
        served = serve(args.listen, sandbox) => served?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(ExitCode::SUCCESS)
}
