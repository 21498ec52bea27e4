//! `opentab dunning`: what follows a charge that failed.

use std::process::ExitCode;

use clap::Subcommand;

use crate::commands::out::say;
use crate::config::{Collection, Config};
use opentab_billing::{Reason, Strategy};

/// Look at what follows a charge that failed
#[derive(Debug, Subcommand)]
pub enum DunningCommand {
    /// Show the ladder of each reason, as the settings have it
    Show,
}

/// Prints each reason's retry ladder, and a warning if Stripe collects and the ladders have no effect.
pub fn dunning(config: &Config, command: &DunningCommand) -> ExitCode {
    match command {
        DunningCommand::Show => {
            if config.collection == Collection::Stripe {
                say!(
                    "OPENTAB_COLLECTION is stripe: Stripe tries by its own rules, and these ladders rest.\n"
                );
            }
            for reason in Reason::ALL {
                say!("{}", ladder(reason, &config.dunning.of(reason)));
            }
            say!(
                "Change one in opentab.toml:\n[dunning.declined]\nretry_after = [\"3d\", \"4d\"]  # waits between tries"
            );
            say!(
                "then_every = \"\"             # and after those, again and again\ntell = \"customer\"          # nobody, customer, operator"
            );
            say!("finally = \"suspend\"        # wait, suspend, needs_attention");
        }
    }
    ExitCode::SUCCESS
}

/// One ladder, for people.
pub fn ladder(reason: Reason, strategy: &Strategy) -> String {
    let mut at = 0;
    let mut steps = vec!["at once".to_owned()];
    for wait in &strategy.retry_after {
        at += wait;
        steps.push(span(at));
    }
    let mut text = format!("{reason}: {}\n  tries: {}", reason.what(), steps.join(", "));
    if let Some(every) = strategy.then_every {
        text += &format!(", then every {}", span(every));
    }
    text += &format!("\n  tells: {}, once", strategy.tell.as_str());
    if strategy.provider_down_after > 0 {
        text += &format!("; the operator that Stripe is down, after {} tries", strategy.provider_down_after);
    }
    text + &format!("\n  finally: {}\n", strategy.finally.as_str().replace('_', " "))
}

/// In the largest unit that comes out even.
fn span(ms: i64) -> String {
    let seconds = ms / 1_000;
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds >= length && seconds % length == 0 {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}
