//! `opentab reconcile`: compare ledger and drafts with what Stripe holds, say every difference, and put right what policy
//! allows.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::open;
use crate::app::App;
use crate::commands::out::say;
use crate::config::Config;
use crate::jobs::work;
use crate::workflows::ask::settled;
use crate::workflows::drift::{self, Comparison, Difference, Extent, Repair};
use crate::workflows::reads::Stopped;
use opentab_billing::{Currency, Money};

/// Shown below the help.
pub(super) const EXIT_CODES: &str =
    "Exit codes: 0 everything is equal, 1 there are differences, 2 it could not be compared to the end.";
/// How long the drafts that are put right may take, each.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(super) struct ReconcileArgs {
    /// Put right what policy allows: drafts are brought in step, Stripe's states and amounts are adopted, orphan drafts and
    /// pending items of ours are deleted. The rest becomes incidents
    #[arg(long)]
    repair: bool,
    /// Every invoice there ever was, not only what may have changed since all was equal
    #[arg(long)]
    all: bool,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// 0: equal. 1: differences. 2: not compared to the end.
pub(super) async fn reconcile(config: Config, args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    open::need_stripe_key(&config)?;
    let app = open::for_a_command(config).await?;
    let extent = if args.all { Extent::All } else { Extent::Recent };
    let mut found = compare(&app, extent).await?;
    let mut repaired = Vec::new();
    if args.repair && !found.differences.is_empty() {
        let before = std::mem::take(&mut found.differences);
        put_right(&app, &before).await?;
        found = compare(&app, extent).await?;
        repaired = before.into_iter().filter(|old| !found.differences.contains(old)).collect();
    }
    if args.json {
        say!("{}", as_json(&found, &repaired))
    } else {
        show(&found, &repaired)
    }
    let code = exit_code(&found);
    if args.repair {
        drift::report(&app, found).await?;
    }
    Ok(code)
}

fn exit_code(found: &Comparison) -> ExitCode {
    match (&found.stopped, found.differences.is_empty()) {
        (Some(stopped), _) => {
            eprintln!("opentab: not compared to the end: {stopped}");
            ExitCode::from(2)
        }
        (None, false) => ExitCode::from(1),
        (None, true) => ExitCode::SUCCESS,
    }
}

/// With a progress bar where somebody watches.
async fn compare(app: &App, extent: Extent) -> anyhow::Result<Comparison> {
    let bar = ProgressBar::new(u64::try_from(drift::extent(app, extent).await?).unwrap_or(0));
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} invoices  {per_sec}  {eta} left")?);
    let found = drift::compare(app, extent, &|done| bar.set_position(done as u64)).await;
    bar.finish_and_clear();
    Ok(found?)
}

async fn put_right(app: &App, differences: &[Difference]) -> anyhow::Result<()> {
    // Beside a server its workers do the same jobs; without one ours do.
    let stop = CancellationToken::new();
    let workers = tokio::spawn(work(app.clone(), stop.clone()));
    let outcome = match drift::repair(app, differences, Repair::Delete).await {
        Ok(repaired) => {
            let jobs: Vec<String> = repaired.jobs.into_iter().collect();
            settled(app, &jobs, PATIENCE).await.map(drop).map_err(Stopped::Failed)
        }
        Err(stopped) => Err(stopped),
    };
    stop.cancel();
    workers.await?;
    // Whatever stopped it: the comparison that follows says what is left.
    if let Err(stopped) = outcome {
        eprintln!("opentab: not everything could be put right: {stopped}");
    }
    Ok(())
}

fn show(found: &Comparison, repaired: &[Difference]) {
    repaired.iter().for_each(|difference| show_difference("put right: ", difference));
    found.differences.iter().for_each(|difference| show_difference("", difference));
    for (currency, value) in &found.value {
        say!(
            "{} of {} proven equal ({})",
            money(value.proven, currency),
            money(value.all, currency),
            share(value.proven, value.all)
        );
    }
    let waiting = match found.under_way {
        0 => String::new(),
        count => format!(", {count} of them being written or waiting for a sync"),
    };
    let repaired = match repaired.len() {
        0 => String::new(),
        count => format!(" left, {count} put right"),
    };
    say!(
        "Invoices compared: {}{waiting}. Differences: {}{repaired}. Reads: {} of {} in 30 days",
        found.invoices,
        found.differences.len(),
        found.reads.used,
        found.reads.allowed
    );
}

fn show_difference(mark: &str, difference: &Difference) {
    let amount = |amount: Option<i64>| {
        amount.map_or_else(|| "none".to_owned(), |amount| money(amount, &difference.currency))
    };
    let amounts = match (difference.ours, difference.at_stripe) {
        (None, None) => String::new(),
        (ours, at_stripe) => format!("  {} here, {} at Stripe", amount(ours), amount(at_stripe)),
    };
    let about =
        [&difference.customer_id, &difference.invoice_id, &difference.stripe_id, &difference.item_key];
    let about: Vec<&str> = about.into_iter().filter_map(|id| id.as_deref()).collect();
    let detail = difference.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    say!("{mark}{}{amounts}{detail}\n    {}", difference.reason.says(), about.join("  "));
}

fn money(amount: i64, currency: &str) -> String {
    match Currency::parse(currency) {
        Ok(currency) => Money::new(amount, currency).to_string(),
        Err(_) => format!("{amount} {currency}"),
    }
}

/// Rounded down: what is not all is never shown as all.
fn share(proven: i64, all: i64) -> String {
    let hundredths = if all == 0 { 10_000 } else { i128::from(proven) * 10_000 / i128::from(all) };
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

fn as_json(found: &Comparison, repaired: &[Difference]) -> String {
    json!({
        "equal": found.is_equal(),
        "differences": found.differences,
        "repaired": repaired,
        "invoices": found.invoices,
        "under_way": found.under_way,
        "value": found.value,
        "reads": { "used": found.reads.used, "allowed": found.reads.allowed },
        "stopped": found.stopped.as_ref().map(ToString::to_string),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_not_all_never_looks_like_all() {
        assert_eq!(share(999_999_999, 1_000_000_000), "99.99 %");
        assert_eq!((share(5, 5), share(0, 0)), ("100.00 %".to_owned(), "100.00 %".to_owned()));
    }
}
