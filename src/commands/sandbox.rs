//! `opentab sandbox`: the stand-in for Stripe on a port of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use crate::commands::out::say;
use opentab_sandbox::{Fault, Options, Sandbox, serve};

#[derive(Debug, Args)]
pub(super) struct SandboxArgs {
    /// Address and port to serve on
    #[arg(long, default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where to send signed webhooks, such as http://127.0.0.1:8080/webhooks/stripe
    #[arg(long)]
    webhook_url: Option<String>,
    /// The webhooks' signing secret; a new one is made and printed where it is not given
    #[arg(long, requires = "webhook_url")]
    webhook_secret: Option<String>,
    /// What goes wrong: a kind alone once, with =N in so many of a thousand cases; @ and what it happens to, such as
    /// dropped_after=20 or 'error_500_stored@POST /v1/invoices'. May be given again
    #[arg(long = "fault", value_name = "KIND[=PER_MILLE][@OPERATION]", value_parser = Planned::parse)]
    faults: Vec<Planned>,
    /// Which history of faults it is: the same requests meet the same ones again
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A fault that was asked for at the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    fault: Fault,
    /// None: once.
    per_mille: Option<u32>,
    /// How the operations, or the types of the events, begin that it happens to.
    matcher: String,
}

impl Planned {
    fn parse(text: &str) -> Result<Planned, String> {
        let (what, matcher) = text.split_once('@').unwrap_or((text, "*"));
        let (kind, rate) = what.split_once('=').map_or((what, None), |(kind, rate)| (kind, Some(rate)));
        let fault =
            Fault::named(kind).ok_or_else(|| format!("there is no `{kind}`; there are {}", kinds()))?;
        let per_mille = rate.map(|rate| rate.parse().map_err(|_| format!("`{rate}` is no number")));
        Ok(Planned { fault, per_mille: per_mille.transpose()?, matcher: matcher.to_owned() })
    }

    fn plan(self, sandbox: &Sandbox) {
        match self.per_mille {
            Some(per_mille) => sandbox.faults().often(&self.matcher, self.fault, per_mille),
            None => sandbox.faults().next(&self.matcher, self.fault),
        }
    }
}

/// The names of all kinds.
fn kinds() -> String {
    Fault::kinds().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// Serves until Ctrl-C. Everything in it is gone then.
pub(super) async fn sandbox(args: SandboxArgs) -> anyhow::Result<ExitCode> {
    super::log::start("info", false)?;
    let sandbox = Sandbox::new(Options { seed: args.seed, ..Options::default() });
    args.faults.into_iter().for_each(|planned| planned.plan(&sandbox));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_can_be_asked_for_at_the_command_line() {
        for (name, fault) in Fault::kinds() {
            let all = [(name.clone(), None, "*"), (format!("{name}=20@POST /v1/"), Some(20), "POST /v1/")];
            for (text, per_mille, matcher) in all {
                let expected = Planned { fault: fault.clone(), per_mille, matcher: matcher.to_owned() };
                assert_eq!(Planned::parse(&text), Ok(expected));
            }
        }
        assert!(Planned::parse("nonsense").unwrap_err().contains("dropped_after"));
        assert!(Planned::parse("slow=often").unwrap_err().contains("often"));
    }
}
