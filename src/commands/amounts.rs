//! `opentab amounts`: look at what the user's own API says, and ask again.

use std::process::ExitCode;

use clap::Subcommand;

use super::month::month;
use super::open;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::{AmountFilter, LookedUpAmount, Page};
use crate::workflows::amounts;
use crate::workflows::by::By;

#[derive(Debug, Subcommand)]
pub(super) enum AmountsCommand {
    /// List amounts, newest first, and why those that are not known are not. Exit code 1 where there is such a one, shown or
    /// beyond the limit
    List {
        /// Only of billing cycles that begin in this month, such as 2026-11
        #[arg(long, value_parser = month)]
        month: Option<String>,
        /// Only asking, known or missing; or differs where a later answer is another one
        #[arg(long, value_parser = ["asking", "known", "missing", "differs"])]
        state: Option<String>,
        /// How many
        #[arg(long, default_value_t = 1_000)]
        limit: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Ask again for every amount of a month that is not known; a running server does so
    Retry {
        /// Of billing cycles that begin in it, such as 2026-11
        #[arg(long, value_parser = month)]
        month: String,
        /// Also for what is known: an answer that differs is reported, and the first one stands
        #[arg(long)]
        known_too: bool,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Take a later answer that differs
    Accept {
        /// ot_amt_…
        id: String,
        /// The later answer as it is listed, in minor units: where another one has come by then, nothing changes
        #[arg(allow_negative_numbers = true)]
        amount: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
}

/// 0: done; of a list: everything is known, also what is beyond its limit. 1: something is not.
pub(super) async fn amounts(config: Config, command: AmountsCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        AmountsCommand::List { month, state, limit, json } => {
            let page = Page { limit: limit.max(0), after: String::new(), before: String::new() };
            let filter = AmountFilter { month: month.unwrap_or_default(), state: state.unwrap_or_default() };
            let (found, more) = app.store.looked_up_amounts(&page, &filter).await?;
            for amount in &found {
                say!("{}", if json { as_json(amount) } else { as_text(amount) });
            }
            if more {
                tracing::warn!("There are more than {limit} amounts: --limit shows them.");
            }
            return Ok(ExitCode::from(u8::from(app.store.is_any_amount_unknown(&filter).await?)));
        }
        AmountsCommand::Retry { month, known_too, json } => {
            let asked = amounts::ask_again(&app, &month, known_too, &By::operator()).await?;
            if json {
                say!("{}", serde_json::json!({ "asked": asked }))
            } else {
                say!(
                    "{asked} amounts are asked for by a running server; `opentab amounts list` shows what comes of it."
                )
            }
        }
        AmountsCommand::Accept { id, amount, json } => {
            match amounts::accept(&app, &id, amount, &By::operator()).await {
                Ok(amount) if json => say!("{}", as_json(&amount)),
                Ok(_) => say!("{id} is {amount} from now on."),
                Err(error) => anyhow::bail!("{id}: {error}"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(amount: &LookedUpAmount) -> String {
    let known = amount.amount.map(|amount| amount.to_string()).unwrap_or_default();
    let other = amount.other_amount.map(|other| format!(" (later: {other})")).unwrap_or_default();
    let why = amount.reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
    let detail = amount.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!(
        "{}  {}  {}  {}  {}{known}{other}{why}{detail}",
        amount.cycle,
        amount.id,
        amount.customer_id,
        amount.state,
        if known.is_empty() { "" } else { " " },
    )
}

fn as_json(amount: &LookedUpAmount) -> String {
    serde_json::json!({
        "id": amount.id, "customer": amount.customer_id, "service": amount.service_id, "cycle": amount.cycle,
        "lookup": amount.lookup, "state": amount.state, "amount": amount.amount,
        "other_amount": amount.other_amount, "reason": amount.reason, "detail": amount.detail,
        "attempts": amount.attempts, "updated_at": from_ms(amount.updated_at),
    })
    .to_string()
}
