//! `opentab invoices generate`: a month's statements, amounts and drafts, from the shell.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::open;
use super::work_off::{all_settled, say_what_failed, with_workers};
use crate::app::App;
use crate::commands::out::say;
use crate::config::{Config, duration};
use crate::store::Job;
use crate::workflows::amounts::LOOK_UP;
use crate::workflows::ask::{SYNC, ask_for_changed};
use crate::workflows::generate::{self, Generated, count_amounts};
use crate::workflows::imports::first_of;

/// What scripts may rely on.
pub const EXIT_CODES: &str = "Exit codes: 0: every draft is in step and every amount is known. 1: something is not, and \
                              is told; a running server goes on with it. 2: it could not run to the end; again is safe.";
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The month in which the billing cycles begin, such as 2026-11
    #[arg(long, value_parser = month)]
    month: String,
    /// Say who would be billed, change nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for amounts that are looked up
    #[arg(long, default_value = "60s", value_parser = duration)]
    wait: Duration,
    /// For scripts
    #[arg(long)]
    json: bool,
}

fn month(text: &str) -> Result<String, String> {
    let known = first_of(text).map(|_| text.to_owned());
    known.ok_or_else(|| "must be a month such as 2026-11".to_owned())
}

pub async fn generate(config: Config, args: GenerateArgs) -> anyhow::Result<ExitCode> {
    if !args.dry_run {
        open::need_stripe_key(&config)?;
    }
    let app = open::for_a_command(config).await?;
    if args.dry_run {
        let (found, _) = generate::generate(&app, &args.month, true).await?;
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
    let (mut found, jobs) = generate::generate(app, &args.month, false).await?;
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
