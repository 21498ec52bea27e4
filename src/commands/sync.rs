//! `opentab sync`: bring drafts in step from the shell, or show what that would change.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::open;
use super::work_off::{all_settled, say_what_failed, with_workers};
use crate::app::App;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::customers::Customer;
use crate::workflows::ask::{Asked, SYNC, ask_for_changed, sync_now};
use crate::workflows::preview::{Preview, preview};
use opentab_billing::Money;

/// What scripts may rely on.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 every draft is in step, 1 one is not, and is told, 2 it could not run to the end; again is safe.";
const PATIENCE: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// One customer, by ot_cus_… or your own id; all that changed where it is not given
    #[arg(long)]
    customer: Option<String>,
    /// Show the difference, change nothing
    #[arg(long)]
    dry_run: bool,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub(super) async fn sync(config: Config, args: SyncArgs) -> anyhow::Result<ExitCode> {
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
        return show(&app, customer, args.json).await;
    }
    let jobs = with_workers(&app, &[SYNC], async {
        let ids = match customer {
            None => ask_for_changed(&app).await?,
            Some(customer) => match sync_now(&app, &customer.id, PATIENCE).await? {
                Asked::Done(job) | Asked::Running(job) | Asked::NotYet(job) => return Ok(vec![job]),
            },
        };
        all_settled(&app, &ids, "drafts").await
    })
    .await?;
    let failed = say_what_failed(&jobs);
    let in_step = jobs.len() - failed;
    if args.json {
        say!("{}", json!({ "in_step": in_step, "not_in_step": failed }))
    } else {
        say!("{in_step} in step, {failed} not")
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn show(app: &App, customer: Option<Customer>, json: bool) -> anyhow::Result<ExitCode> {
    let customers = match customer {
        Some(customer) => vec![customer],
        None => changed(app).await?,
    };
    for customer in &customers {
        if let Some(found) = preview(app, customer).await? {
            if json { say!("{}", as_json(customer, &found)) } else { print_preview(customer, &found) }
        }
    }
    if customers.is_empty() && !json {
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

/// One line for each draft. Amounts in minor units.
fn as_json(customer: &Customer, found: &Preview) -> Value {
    let line = |key: &str, amount: i64, description: &str| json!({ "item_key": key, "amount": amount, "description": description });
    let plan = &found.plan;
    let update = plan.update.iter().map(|(before, after)| {
        let mut changed = line(&after.key, after.amount, &after.description);
        changed["amount_before"] = json!(before.amount);
        changed
    });
    json!({
        "customer": customer.id, "currency": customer.currency.as_str(), "total": found.total,
        "remove": plan.remove.iter().map(|item| line(&item.key, item.amount, &item.description)).collect::<Vec<_>>(),
        "update": update.collect::<Vec<_>>(),
        "add": plan.add.iter().map(|item| line(&item.key, item.amount, &item.description)).collect::<Vec<_>>(),
    })
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
