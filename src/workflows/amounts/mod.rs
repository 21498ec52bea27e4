//! Amounts from outside: ask the user's own API what a service costs in a cycle that is over. The first answer stands.

mod answer;
mod breaker;

use std::sync::LazyLock;

use serde_json::json;
use tokio::sync::Semaphore;

use super::WorkflowError;
use super::by::{By, ChangeError};
use super::notice;
use super::statement::{LoadedStatement, Service, is_billed_for, load_services, stored_day};
use crate::app::App;
use crate::clock::prefix;
use crate::config::{Lookup, MissingAmount};
use crate::store::customers::Customer;
use crate::store::{Invoice, LookedUpAmount, NewJob, Tx};
use answer::Answer;
use opentab_billing::{BillingCycle, Model};

/// The kind of the job that asks for one amount; its subject is the amount's id.
pub(crate) const LOOK_UP: &str = "look_up";
/// What waits together is not asked for together.
const STAGGER_MS: i64 = 5_000;
/// The pause after the first failure; each one after it is twice as long.
const PAUSE_MS: i64 = 5_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// An invoice was closed without an amount.
const MISSING: &str = "amount_missing";
/// A later answer says something else.
const DIFFERS: &str = "amount_differs";
/// How often an API that cannot be reached or read is asked once more for what is known already.
const TRIES_TO_COMPARE: i64 = 10;
/// Answers that this process waits for at once, so that a slow API does not keep all workers from their work.
static AT_ONCE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(4));

/// Writes down which amounts of a cycle that is over and billed are wanted, each with the job that asks for it. Answers
/// them all.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn want_amounts(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
    services: &[Service],
) -> Result<Vec<LookedUpAmount>, WorkflowError> {
    let active = |service: &&Service| service.terms().is_active_in(cycle);
    let wanted: Vec<(&Service, &str)> = services
        .iter()
        .filter(active)
        .filter_map(|service| match &service.terms.model {
            Model::LookedUp { lookup } => Some((service, lookup.as_str())),
            _ => None,
        })
        .collect();
    if wanted.is_empty() || app.clock.now() < cycle.end || !is_billed_for(app, customer, cycle).await? {
        return Ok(Vec::new());
    }
    let day = cycle.first_day.to_string();
    let mut amounts = app.store.amounts_of_cycle(&customer.id, &day).await?;
    amounts.retain(|amount| wanted.iter().any(|(service, _)| service.row.service_id == amount.service_id));
    if amounts.len() == wanted.len() {
        return Ok(amounts);
    }
    let mut tx = app.store.db.begin().await?;
    for (service, lookup) in wanted {
        want(app, &mut tx, &service.row.service_id, &customer.id, &day, lookup).await?;
    }
    tx.commit().await?;
    app.wake.notify_waiters();
    Ok(app.store.amounts_of_cycle(&customer.id, &day).await?)
}

/// The same for every cycle that a statement covers: a service may begin in one that was billed long ago.
pub(super) async fn want_all(
    app: &App,
    customer: &Customer,
    loaded: &LoadedStatement,
) -> Result<(), WorkflowError> {
    let rule = customer.cycle_rule();
    for changed in &loaded.cycles {
        let cycle = rule.cycle_from(stored_day(customer, &changed.cycle)?);
        want_amounts(app, customer, &cycle, &loaded.services).await?;
    }
    Ok(())
}

async fn want(
    app: &App,
    tx: &mut Tx,
    service_id: &str,
    customer_id: &str,
    cycle: &str,
    lookup: &str,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let amount = LookedUpAmount {
        id: app.ids.new_id(prefix::AMOUNT),
        service_id: service_id.to_owned(),
        customer_id: customer_id.to_owned(),
        cycle: cycle.to_owned(),
        lookup: lookup.to_owned(),
        state: "asking".to_owned(),
        amount: None,
        other_amount: None,
        reason: None,
        detail: None,
        attempts: 0,
        created_at: now,
        updated_at: now,
    };
    if tx.want_amount(&amount).await? {
        enqueue(app, tx, &amount.id).await?;
    }
    Ok(())
}

async fn enqueue(app: &App, tx: &mut Tx, amount_id: &str) -> sqlx::Result<String> {
    let now = app.clock.now_ms();
    let id = app.ids.new_id(prefix::JOB);
    let run_at = now + app.ids.any_up_to(STAGGER_MS);
    let job =
        NewJob { id: &id, kind: LOOK_UP, subject: amount_id, run_at, deadline: run_at + STAGGER_MS, now };
    tx.enqueue_anew(&job).await
}

/// Whether the closing of an invoice waits for amounts: until `OPENTAB_LOOKUP_WAIT` after its grace is over. Then it is
/// closed without, which is reported, and what comes later is on the next draft.
pub(super) async fn closing_waits(
    app: &App,
    customer: &Customer,
    invoice: &Invoice,
    cycle: &BillingCycle,
) -> Result<bool, WorkflowError> {
    let services = load_services(app, customer).await?;
    let amounts = want_amounts(app, customer, cycle, &services).await?;
    let awaited = amounts.iter().filter(|amount| amount.state == "asking").count();
    if awaited == 0 {
        return Ok(false);
    }
    let wait = i64::try_from(app.config.lookup_wait.as_millis()).unwrap_or(i64::MAX);
    if app.clock.now_ms() < invoice.close_at.saturating_add(wait) {
        return Ok(true);
    }
    let message = format!(
        "This invoice is closed without {awaited} amounts that the API has not given. They go on the next draft once \
         they are known; `opentab amounts list` says why they are not."
    );
    let mut tx = app.store.db.begin().await?;
    notice::report(app, &mut tx, MISSING, &invoice.id, &message).await?;
    tx.commit().await?;
    Ok(false)
}

/// Asks for one amount, and takes in what the answer says. Answers when to ask again.
///
/// # Errors
/// The database did not answer; whatever the API does is no error here.
pub async fn look_up(app: &App, amount_id: &str) -> Result<Option<i64>, WorkflowError> {
    let found = app.store.looked_up_amount(amount_id).await?;
    let amount = found.ok_or_else(|| WorkflowError::NotFound(format!("amount {amount_id}")))?;
    let customer = app.store.customer(&amount.customer_id).await?;
    let customer = customer.ok_or_else(|| WorkflowError::NotFound("such customer".to_owned()))?;
    let Some(lookup) = app.config.lookups.iter().find(|lookup| lookup.name == amount.lookup) else {
        let detail = format!("opentab.toml has no [lookup.{}]", amount.lookup);
        return settle(app, amount_id, Answer::Wrong("not_configured", detail), MissingAmount::Skip).await;
    };
    let Ok(_room) = AT_ONCE.try_acquire() else { return Ok(Some(soon(app))) };
    if let Some(until) = breaker::rest_until(app, &lookup.name).await? {
        return Ok(Some(until + app.ids.any_up_to(STAGGER_MS)));
    }
    let answer = ask(app, lookup, &customer, &amount).await?;
    // What was never asked says nothing of whether the API answers.
    if !matches!(answer, Answer::Wrong("address" | "refused", _)) {
        breaker::heard(app, &lookup.name, !matches!(answer, Answer::Down(..))).await?;
    }
    settle(app, amount_id, answer, lookup.missing).await
}

fn soon(app: &App) -> i64 {
    app.clock.now_ms() + 200 + app.ids.any_up_to(800)
}

async fn ask(
    app: &App,
    lookup: &Lookup,
    customer: &Customer,
    amount: &LookedUpAmount,
) -> Result<Answer, WorkflowError> {
    let cycle = stored_day(customer, &amount.cycle)?;
    Ok(match answer::address(lookup, customer, cycle) {
        Err(why) => Answer::Wrong("address", why),
        Ok(url) => {
            let came = app.outgoing.fetcher.get(&url, &lookup.headers, lookup.timeout).await;
            answer::judge(lookup, customer.currency, came)
        }
    })
}

async fn settle(
    app: &App,
    amount_id: &str,
    answer: Answer,
    missing: MissingAmount,
) -> Result<Option<i64>, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let Some(before) = tx.lock_amount(amount_id).await? else { return Ok(None) };
    let mut after =
        LookedUpAmount { attempts: before.attempts + 1, updated_at: app.clock.now_ms(), ..before.clone() };
    let again = match (before.state == "known", answer) {
        (true, answer) => compare(app, &mut tx, &mut after, answer).await?,
        (false, Answer::Amount(minor_units)) => {
            known(app, &mut tx, &mut after, minor_units, None).await?;
            None
        }
        (false, Answer::Missing(reason)) if missing == MissingAmount::Zero => {
            known(app, &mut tx, &mut after, 0, Some(reason)).await?;
            None
        }
        (false, Answer::Missing(reason)) => {
            skip(app, &mut tx, &mut after, reason).await?;
            None
        }
        (false, Answer::Wrong(reason, detail) | Answer::Down(reason, detail)) => {
            (after.reason, after.detail) = (Some(reason.to_owned()), Some(detail));
            Some(after.updated_at + pause_ms(app, after.attempts))
        }
    };
    tx.put_amount(&after).await?;
    tx.no_amount_is_missing(MISSING, &after.customer_id, after.updated_at).await?;
    tx.commit().await?;
    Ok(again)
}

fn pause_ms(app: &App, attempts: i64) -> i64 {
    let pause = (PAUSE_MS << (attempts - 1).clamp(0, 20)).min(LONGEST_PAUSE_MS);
    pause / 2 + app.ids.any_up_to(pause / 2)
}

/// The first answer: a fact from now on, and the statement follows from it.
async fn known(
    app: &App,
    tx: &mut Tx,
    amount: &mut LookedUpAmount,
    minor_units: i64,
    reason: Option<&str>,
) -> Result<(), WorkflowError> {
    amount.state = "known".to_owned();
    (amount.amount, amount.other_amount) = (Some(minor_units), None);
    (amount.reason, amount.detail) = (reason.map(str::to_owned), None);
    tx.mark_cycle_changed(&amount.customer_id, &amount.cycle).await?;
    let detail = json!({ "amount": minor_units, "cycle": amount.cycle, "service": amount.service_id });
    Ok(By::service(LOOK_UP).note(app, tx, "amount.known", &amount.id, detail).await?)
}

async fn skip(
    app: &App,
    tx: &mut Tx,
    amount: &mut LookedUpAmount,
    reason: &str,
) -> Result<(), WorkflowError> {
    amount.state = "missing".to_owned();
    (amount.reason, amount.detail) = (Some(reason.to_owned()), None);
    let detail = json!({ "reason": reason, "cycle": amount.cycle, "service": amount.service_id });
    By::service(LOOK_UP).note(app, tx, "amount.missing", &amount.id, detail).await?;
    let message = "The API says that there is no amount: nothing is billed for this service and cycle. Once it has one, \
                   `opentab amounts retry` asks again.";
    notice::report(app, tx, MISSING, &amount.id, message).await
}

/// The first answer stands; that a later one differs is for a human. That there is none any more differs as well, and so
/// does another currency; that the API cannot be reached or read says nothing, and it is asked again for a while.
async fn compare(
    app: &App,
    tx: &mut Tx,
    amount: &mut LookedUpAmount,
    answer: Answer,
) -> Result<Option<i64>, WorkflowError> {
    let (other, reason, said) = match answer {
        Answer::Amount(other) => (Some(other), None, None),
        // Whoever accepts it bills nothing.
        Answer::Missing(reason) => (Some(0), Some(reason), None),
        Answer::Wrong(reason @ answer::WRONG_CURRENCY, said) => (None, Some(reason), Some(said)),
        Answer::Wrong(reason, said) | Answer::Down(reason, said) => {
            (amount.reason, amount.detail) = (Some(reason.to_owned()), Some(said));
            let again = amount.updated_at + pause_ms(app, amount.attempts);
            return Ok((amount.attempts < TRIES_TO_COMPARE).then_some(again));
        }
    };
    let before = (amount.other_amount, amount.reason.take());
    (amount.reason, amount.detail) = (reason.map(str::to_owned), said);
    if other == amount.amount {
        amount.other_amount = None;
        tx.resolve_incident(DIFFERS, &amount.id, amount.updated_at).await?;
        return Ok(None);
    }
    amount.other_amount = other;
    if before != (amount.other_amount, amount.reason.clone()) {
        differs(app, tx, amount).await?;
    }
    Ok(None)
}

async fn differs(app: &App, tx: &mut Tx, amount: &LookedUpAmount) -> Result<(), WorkflowError> {
    let detail = json!({ "stands": amount.amount, "other": amount.other_amount, "reason": amount.reason });
    By::service(LOOK_UP).note(app, tx, "amount.differs", &amount.id, detail).await?;
    let message = match (amount.other_amount, &amount.reason) {
        (None, _) => "The API now gives this amount in another currency. The first one stands.",
        (_, None) => {
            "The API gives another amount than before. The first one stands; `opentab amounts accept` takes the other one."
        }
        (_, Some(_)) => {
            "The API now says that there is no amount. The first one stands; `opentab amounts accept` bills nothing."
        }
    };
    notice::report(app, tx, DIFFERS, &amount.id, message).await
}

/// Has everything of a month asked for that is not known, `known_too` also what is. Answers how many.
///
/// # Errors
/// The database did not answer.
pub async fn ask_again(app: &App, month: &str, known_too: bool, by: &By) -> Result<usize, WorkflowError> {
    let mut asked = 0;
    let mut after = String::new();
    loop {
        let page = app.store.amounts_to_ask(month, known_too, &after).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        let mut tx = app.store.db.begin().await?;
        for amount in page {
            asked += 1;
            if let Some(now) = tx.lock_amount(&amount.id).await?.filter(|now| now.state != "asking") {
                ask_anew(app, &mut tx, now).await?;
            }
            let job = enqueue(app, &mut tx, &amount.id).await?;
            tx.hasten(&job, app.clock.now_ms() + app.ids.any_up_to(STAGGER_MS)).await?;
        }
        tx.commit().await?;
    }
    let mut tx = app.store.db.begin().await?;
    let detail = json!({ "month": month, "known_too": known_too, "asked": asked });
    by.note(app, &mut tx, "amounts.asked_again", month, detail).await?;
    tx.commit().await?;
    app.wake.notify_waiters();
    Ok(asked)
}

/// What had an answer is asked for as if for the first time; what is known stays known.
async fn ask_anew(app: &App, tx: &mut Tx, amount: LookedUpAmount) -> sqlx::Result<()> {
    let updated_at = app.clock.now_ms();
    let state = if amount.state == "known" { amount.state.clone() } else { "asking".to_owned() };
    tx.put_amount(&LookedUpAmount { state, attempts: 0, updated_at, ..amount.clone() }).await?;
    tx.resolve_incident(MISSING, &amount.id, updated_at).await
}

/// A person takes the later answer that they were shown: the difference is on the draft, or on the next one.
///
/// # Errors
/// `Gone` where there is no such amount; `Refused` where no other answer came, or yet another one by now.
pub async fn accept(app: &App, amount_id: &str, shown: i64, by: &By) -> Result<LookedUpAmount, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let mut amount = tx.lock_amount(amount_id).await?.ok_or(ChangeError::Gone)?;
    let Some(other) = amount.other_amount else {
        let detail = "no other answer than the first has come".to_owned();
        return Err(ChangeError::Refused("/id", "nothing_to_accept", detail));
    };
    if other != shown {
        let detail = format!("the later answer is {other} by now");
        return Err(ChangeError::Refused("/amount", "another_amount", detail));
    }
    let detail = json!({ "before": amount.amount, "after": other });
    (amount.amount, amount.other_amount) = (Some(other), None);
    amount.updated_at = app.clock.now_ms();
    tx.put_amount(&amount).await?;
    tx.mark_cycle_changed(&amount.customer_id, &amount.cycle).await?;
    tx.resolve_incident(DIFFERS, &amount.id, amount.updated_at).await?;
    by.note(app, &mut tx, "amount.accepted", &amount.id, detail).await?;
    tx.commit().await?;
    Ok(amount)
}
