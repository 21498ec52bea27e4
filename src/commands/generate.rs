//! `opentab invoices generate`: a month's statements, amounts and drafts, from the shell.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::month::month;
use super::open;
use super::work_off::{all_settled, say_what_failed, with_workers};
use crate::app::App;
use crate::commands::out::say;
use crate::config::{Config, duration};
use crate::store::Job;
use crate::workflows::amounts::LOOK_UP;
use crate::workflows::ask::{SYNC, ask_for_changed};
use crate::workflows::generate::{self, Generated, Planned, count_amounts};
use opentab_billing::{Currency, Money};

/// What scripts may rely on.
pub(super) const EXIT_CODES: &str = "Exit codes: 0: every draft is in step and every amount is known. 1: something is not, and \
                              is told; a running server goes on with it. 2: it could not run to the end; again is safe.";
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The month in which the billing cycles begin, such as 2026-11
    #[arg(long, value_parser = month)]
    month: String,
    /// Say of each customer what they would be billed, or why they are left out; change nothing. With --json it is one object
    /// for each, and the sum as the last one
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for amounts that are looked up
    #[arg(long, default_value = "60s", value_parser = duration)]
    wait: Duration,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub(super) async fn generate(config: Config, args: GenerateArgs) -> anyhow::Result<ExitCode> {
    if !args.dry_run {
        open::need_stripe_key(&config)?;
    }
    let app = open::for_a_command(config).await?;
    if args.dry_run {
        let found = generate::plan(&app, &args.month, |planned| show(planned, args.json)).await?;
        print(&found, &[], args.json);
        return Ok(ExitCode::SUCCESS);
    }
    let (found, failed) =
        with_workers(&app, &[generate::GENERATE, LOOK_UP, SYNC], carry_out(&app, &args)).await?;
    print(&found, &failed, args.json);
    let whole = failed.is_empty() && found.amounts_asking + found.amounts_missing == 0;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn carry_out(app: &App, args: &GenerateArgs) -> anyhow::Result<(Generated, Vec<Job>)> {
    let (mut found, jobs) = generate::generate(app, &args.month).await?;
    let mut all = all_settled(app, &jobs, "customers").await?;
    let looks = args.wait.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..=looks {
        count_amounts(app, &mut found).await?;
        if found.amounts_asking == 0 {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    all.extend(all_settled(app, &ask_for_changed(app).await?, "drafts").await?);
    all.retain(|job| job.state != "done");
    Ok((found, all))
}

fn show(planned: &Planned, json: bool) {
    if json {
        return say!("{}", serde_json::json!(planned));
    }
    let name: String = planned.customer_name.chars().filter(|c| !c.is_control()).take(28).collect();
    let id = planned.external_id.as_deref().unwrap_or(&planned.customer);
    match planned.left_out {
        Some(why) => say!("{name:<28}  {id:<20}  left out: {}", why.replace('_', " ")),
        None => say!("{name:<28}  {id:<20}  {}  {:>16}{}", planned.cycle, owed(planned), awaited(planned)),
    }
}

fn owed(planned: &Planned) -> String {
    match Currency::parse(&planned.currency) {
        Ok(currency) => Money::new(planned.owed, currency).to_string(),
        Err(_) => format!("{} {}", planned.owed, planned.currency),
    }
}

fn awaited(planned: &Planned) -> String {
    match planned.awaited {
        0 => String::new(),
        1 => "  and an amount that is not known yet".to_owned(),
        more => format!("  and {more} amounts that are not known yet"),
    }
}

fn print(found: &Generated, failed: &[Job], json: bool) {
    say_what_failed(failed);
    if json {
        let mut shown = serde_json::json!(found);
        shown["not_in_step"] = failed.len().into();
        return say!("{shown}");
    }
    say!(
        "{}: {} of {} customers are billed; amounts: {} known, {} asked for, {} missing; {} drafts not in step",
        found.month,
        found.billed,
        found.customers,
        found.amounts_known,
        found.amounts_asking,
        found.amounts_missing,
        failed.len()
    );
}
