//! `opentab sync`: bring drafts in step from the shell, or show what that would change.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::open;
use crate::app::App;
use crate::billing::Money;
use crate::commands::out::say;
use crate::config::Config;
use crate::jobs::work;
use crate::store::Job;
use crate::store::customers::Customer;
use crate::workflows::ask::{Asked, ask_for_changed, settled, sync_now};
use crate::workflows::preview::{Preview, preview};
use crate::workflows::reads;

#[derive(Debug, Args)]
pub struct SyncArgs {
    /// One customer, by ot_cus_… or your own id; all that changed where it is not given
    #[arg(long)]
    customer: Option<String>,
    /// Show the difference, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// 0: in step. 1: something did not go through, and is shown.
pub async fn sync(config: Config, args: SyncArgs) -> anyhow::Result<ExitCode> {
    if !args.dry_run {
        open::need_stripe_key(&config)?;
    }
    let app = open::for_a_command(config).await?;
    let customer = match &args.customer {
        None => None,
        Some(id) => match app.store.customer_by_any_id(id).await? {
            Some(customer) => Some(customer),
            None => anyhow::bail!("there is no customer {id}"),
        },
    };
    if args.dry_run {
        return show(&app, customer).await;
    }
    // Beside a server its workers do the same jobs; without one ours do.
    let stop = CancellationToken::new();
    let workers = tokio::spawn(work(app.clone(), stop.clone()));
    let code = carry_out(&app, customer).await;
    stop.cancel();
    workers.await?;
    reads::record(&app).await?;
    code
}

async fn carry_out(app: &App, customer: Option<Customer>) -> anyhow::Result<ExitCode> {
    let patience = Duration::from_secs(3_600);
    let jobs = match customer {
        Some(customer) => match sync_now(app, &customer.id, patience).await? {
            Asked::Done(job) | Asked::Running(job) | Asked::NotYet(job) => vec![job],
        },
        None => all(app, patience).await?,
    };
    let failed: Vec<&Job> = jobs.iter().filter(|job| job.state != "done").collect();
    for job in &failed {
        eprintln!("{}: {}", job.subject, job.last_error.as_deref().unwrap_or("still running"));
    }
    say!("{} in step, {} not", jobs.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Everything that changed, with a progress bar where somebody watches.
async fn all(app: &App, patience: Duration) -> anyhow::Result<Vec<Job>> {
    let asked = ask_for_changed(app).await?;
    let bar = ProgressBar::new(asked.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} drafts  {per_sec}  {eta} left")?);
    let mut jobs = Vec::with_capacity(asked.len());
    for id in asked {
        jobs.extend(settled(app, &[id], patience).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(jobs)
}

async fn show(app: &App, customer: Option<Customer>) -> anyhow::Result<ExitCode> {
    let customers = match customer {
        Some(customer) => vec![customer],
        None => changed(app).await?,
    };
    for customer in &customers {
        if let Some(found) = preview(app, customer).await? {
            print_preview(customer, &found);
        }
    }
    if customers.is_empty() {
        say!("Every draft is in step.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn changed(app: &App) -> anyhow::Result<Vec<Customer>> {
    let mut customers = Vec::new();
    let mut after = String::new();
    loop {
        let page = app.store.customers_to_sync(app.clock.now_ms(), &after, 500).await?;
        let Some(last) = page.last() else { return Ok(customers) };
        after.clone_from(&last.customer_id);
        for found in &page {
            customers.extend(app.store.customer(&found.customer_id).await?);
        }
    }
}

fn print_preview(customer: &Customer, found: &Preview) {
    let money = |amount| Money::new(amount, customer.currency);
    say!("{} ({}): {}", customer.name, customer.id, money(found.total));
    for line in &found.plan.remove {
        say!("  - {}  {}", money(line.amount), line.description);
    }
    for (before, after) in &found.plan.update {
        say!("  ~ {} -> {}  {}", money(before.amount), money(after.amount), after.description);
    }
    for line in &found.plan.add {
        say!("  + {}  {}", money(line.amount), line.description);
    }
}
