//! `opentab invoices`: see which invoices are paid, and do by hand what the ladders do not.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::work_off::{all_settled, say_what_failed, until_none_is_due, with_workers};
use super::{generate, open};
use crate::app::App;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::{Charge, ChargeFilter, Invoice, Page};
use crate::workflows::amounts::LOOK_UP;
use crate::workflows::ask::{SYNC, ask_for_due};
use crate::workflows::by::By;
use crate::workflows::charge::{self, Asked, ManualError};
use crate::workflows::reads;
use opentab_billing::cycle::month_span;
use opentab_billing::{ChargeState, Currency, Money, Reason};

const FINALIZE_EXIT_CODES: &str = "Exit codes: 0 nothing is left that is due, 1 something is, and is told, 2 it could not \
                                   run to the end; again is safe.";
const CHARGE_EXIT_CODES: &str = "Exit codes: 0 paid, 1 something is not, and is told, 2 it could not run to the end; again \
                                 is safe.";

#[derive(Debug, Subcommand)]
pub(super) enum InvoicesCommand {
    /// List finalized invoices and how getting them paid stands, newest first
    List(ListArgs),
    /// See to it that everybody who is billed for a month has their amounts and their draft; safe however often
    #[command(after_help = generate::EXIT_CODES)]
    Generate(generate::GenerateArgs),
    /// Finalize every draft whose cycle and grace are over, now
    #[command(after_help = FINALIZE_EXIT_CODES)]
    Finalize {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Charge one invoice now, or all that are due, and say what came of it
    #[command(after_help = CHARGE_EXIT_CODES)]
    Charge {
        /// ot_inv_…
        #[arg(required_unless_present = "due")]
        id: Option<String>,
        /// Everything that is past due, and failed charges whose next try is due
        #[arg(long, conflicts_with = "id")]
        due: bool,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Have failed charges tried now: one invoice, or all that failed, by reason and month
    Retry(RetryArgs),
    /// Cancel a finalized invoice at Stripe for ever; it stays counted as billed
    Void {
        /// ot_inv_…
        id: String,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Say that nobody expects it to be paid; it still may be
    MarkUncollectible {
        /// ot_inv_…
        id: String,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Bill again what stood on a void invoice, or what somebody took off a finalized one
    Rebill {
        /// ot_inv_…
        id: String,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// pending, in_progress, paid, failed, needs_attention, uncollectible or void
    #[arg(long, value_parser = status)]
    status: Option<String>,
    #[command(flatten)]
    which: Which,
    /// How many
    #[arg(long, default_value_t = 50)]
    limit: i64,
    /// For scripts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// ot_inv_…; everything that failed where it is not given
    id: Option<String>,
    #[command(flatten)]
    which: Which,
    /// For scripts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// Only what failed for this reason, such as network or insufficient_funds
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    /// Only what was due in this month, by UTC, such as 2026-12
    #[arg(long, value_parser = month)]
    month: Option<(i64, i64)>,
}

fn status(text: &str) -> Result<String, String> {
    if ChargeState::NAMES.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be one of {}", ChargeState::NAMES.join(", ")))
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    text.parse().map_err(|_| format!("must be one of {}", Reason::ALL.map(Reason::as_str).join(", ")))
}

fn month(text: &str) -> Result<(i64, i64), String> {
    month_span(text).ok_or_else(|| "must be a month such as 2026-12".to_owned())
}

pub(super) async fn invoices(config: Config, command: InvoicesCommand) -> anyhow::Result<ExitCode> {
    if let InvoicesCommand::Generate(args) = command {
        return generate::generate(config, args).await;
    }
    let asks_stripe = !matches!(command, InvoicesCommand::List(_) | InvoicesCommand::Rebill { .. });
    if asks_stripe {
        open::need_stripe_key(&config)?;
    }
    let app = open::for_a_command(config).await?;
    let by = By::operator();
    let code = match command {
        InvoicesCommand::Generate(_) => ExitCode::SUCCESS,
        InvoicesCommand::List(args) => list(&app, args).await?,
        InvoicesCommand::Retry(args) => retry(&app, args, &by).await?,
        InvoicesCommand::Finalize { json } => finalize(&app, json).await?,
        InvoicesCommand::Charge { id: Some(id), json, .. } => {
            say_what_came(charge::pay(&app, &id, &by).await, json)?
        }
        InvoicesCommand::Charge { id: None, json, .. } => charge_due(&app, json).await?,
        InvoicesCommand::Void { id, json } => say_what_came(charge::void(&app, &id, &by).await, json)?,
        InvoicesCommand::MarkUncollectible { id, json } => {
            say_what_came(charge::mark_uncollectible(&app, &id, &by).await, json)?
        }
        InvoicesCommand::Rebill { id, json } => {
            let said = format!("{id} is owed again: the next sync puts it on the draft.");
            say_asked(charge::rebill(&app, &id, &by).await, &said, json)?
        }
    };
    if asks_stripe {
        reads::record(&app).await?;
    }
    Ok(code)
}

/// What the schedule does every minute.
async fn finalize(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let (due, jobs) = with_workers(app, &[SYNC, LOOK_UP], async {
        let due = app.store.customers_to_close(app.clock.now_ms()).await?.len();
        all_settled(app, &ask_for_due(app).await?, "invoices").await?;
        // What waits for amounts is closed once they are here.
        until_none_is_due(app, &[LOOK_UP], "amounts").await?;
        Ok((due, all_settled(app, &ask_for_due(app).await?, "invoices").await?))
    })
    .await?;
    say_what_failed(&jobs);
    let left = app.store.customers_to_close(app.clock.now_ms()).await?;
    let mut waiting = 0;
    for (customer_id,) in &left {
        waiting += usize::from(waits_for_amounts(app, customer_id).await?);
    }
    let (done, left) = (due.saturating_sub(left.len()), left.len());
    if json {
        say!("{}", json!({ "finalized": done, "not_finalized": left, "waiting_for_amounts": waiting }))
    } else {
        say!("{done} finalized, {left} not")
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Whether the customer's draft is not closed for want of amounts, which is told.
async fn waits_for_amounts(app: &App, customer_id: &str) -> anyhow::Result<bool> {
    let Some(invoice) = app.store.current_invoice(customer_id).await? else { return Ok(false) };
    let amounts = app.store.amounts_of_cycle(customer_id, &invoice.cycle).await?;
    let awaited = amounts.iter().filter(|amount| amount.state == "asking").count();
    if awaited > 0 {
        eprintln!(
            "{customer_id}: waits for {awaited} amounts; `opentab amounts list --month {}` says why",
            invoice.cycle.get(..7).unwrap_or_default()
        );
    }
    Ok(awaited > 0)
}

/// What the schedule does on the first of the month.
async fn charge_due(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let asked = with_workers(app, &[charge::CHARGE], async {
        let asked = charge::ask_for_due(app, "").await?;
        until_none_is_due(app, &[charge::CHARGE], "charges").await?;
        Ok(asked)
    })
    .await?;
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for id in &asked {
        let charge = app.store.charge(id).await?;
        *states.entry(charge.map_or_else(|| "gone".to_owned(), |charge| charge.state)).or_default() += 1;
    }
    let all_paid = states.keys().all(|state| state == "paid");
    if json {
        say!("{}", json!({ "charged": asked.len(), "states": states }))
    } else {
        let each: Vec<String> = states.iter().map(|(state, times)| format!("{times} {state}")).collect();
        say!(
            "{} charged: {}",
            asked.len(),
            if each.is_empty() { "none was due".to_owned() } else { each.join(", ") }
        );
    }
    Ok(if all_paid { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// 0: it is as it was asked for. 1: Stripe said no, or nobody knows yet.
fn say_what_came(asked: Result<Asked, ManualError>, json: bool) -> anyhow::Result<ExitCode> {
    let asked = found(asked)?;
    let Asked { charge, invoice } = &asked;
    let why = charge.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let said = charge.message.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    if json {
        say!("{}", as_json(charge, &amount_of(invoice)))
    } else {
        say!("{} is {}{why}{said}", invoice.number.as_deref().unwrap_or(&invoice.id), charge.state)
    }
    let reached = matches!(charge.state.as_str(), "paid" | "void" | "uncollectible");
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What was asked for is written down; the rest comes of itself.
fn say_asked(asked: Result<Asked, ManualError>, said: &str, json: bool) -> anyhow::Result<ExitCode> {
    let Asked { charge, invoice } = found(asked)?;
    if json {
        say!("{}", as_json(&charge, &amount_of(&invoice)))
    } else {
        say!("{said}")
    }
    Ok(ExitCode::SUCCESS)
}

fn found(asked: Result<Asked, ManualError>) -> anyhow::Result<Asked> {
    match asked {
        Ok(asked) => Ok(asked),
        Err(ManualError::Gone) => bail!("there is no such invoice; `opentab invoices list` shows them"),
        Err(error) => bail!("{error}"),
    }
}

async fn retry(app: &App, args: RetryArgs, by: &By) -> anyhow::Result<ExitCode> {
    if let Some(id) = &args.id {
        let said = format!("{id} is tried at once by a running server.");
        return say_asked(charge::retry(app, id, by).await, &said, args.json);
    }
    let reason = args.which.reason.map_or("", Reason::as_str);
    let asked = charge::ask_for_failed(app, reason, args.which.month.unwrap_or((0, i64::MAX))).await?;
    charge::note_run(app, "failed", reason, asked, by).await?;
    if args.json {
        say!("{}", json!({ "asked": asked }))
    } else {
        say!(
            "{asked} charges are tried at once by a running server; `opentab invoices list` shows what comes of it."
        )
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(app: &App, args: ListArgs) -> anyhow::Result<ExitCode> {
    let page = Page { limit: args.limit.max(0), after: String::new(), before: String::new() };
    let filter = ChargeFilter {
        customer_id: String::new(),
        state: args.status.unwrap_or_default(),
        reason: args.which.reason.map_or(String::new(), |reason| reason.to_string()),
        due: args.which.month,
    };
    for charge in app.store.charges(&page, &filter).await?.0 {
        let amount = app.store.invoice(&charge.invoice_id).await?.as_ref().map(amount_of).unwrap_or_default();
        say!("{}", if args.json { as_json(&charge, &amount) } else { as_text(&charge, &amount) });
    }
    Ok(ExitCode::SUCCESS)
}

/// As people read it; empty where the currency is none.
fn amount_of(invoice: &Invoice) -> String {
    let currency = Currency::parse(&invoice.currency).ok();
    currency.map(|currency| Money::new(invoice.amount_due, currency).to_string()).unwrap_or_default()
}

fn as_text(charge: &Charge, amount: &str) -> String {
    let time = |at: i64| from_ms(at).format("%Y-%m-%d %H:%M").to_string();
    let why = charge.reason.as_deref().map(|reason| format!(" ({reason}, {} tries)", charge.tries));
    let next = charge.next_attempt_at.map(|at| format!("  next {}", time(at)));
    format!(
        "{}  {}  {}  {amount}  {}{}{}",
        time(charge.due_at),
        charge.invoice_id,
        charge.customer_id,
        charge.state,
        why.unwrap_or_default(),
        next.unwrap_or_default(),
    )
}

fn as_json(charge: &Charge, amount: &str) -> String {
    json!({
        "invoice": charge.invoice_id, "customer": charge.customer_id, "amount": amount, "status": charge.state,
        "reason": charge.reason, "tries": charge.tries, "collection": charge.collection,
        "due_at": from_ms(charge.due_at), "next_attempt_at": charge.next_attempt_at.map(from_ms),
        "message": charge.message,
    })
    .to_string()
}
