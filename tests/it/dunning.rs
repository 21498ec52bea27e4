//! Dunning: what follows each failure, driven to its end under simulated time.

use std::sync::Arc;

use chrono::Duration;
use opentab::internals::commands::dunning::ladder;
use opentab::internals::store::{Db, both};
use opentab::internals::stripe::{Request, SendFuture, Transport};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::charge;
use opentab::internals::workflows::customers::{self, CustomerChange};
use opentab::internals::workflows::outgoing::{self, NewEndpoint};
use opentab_billing::CollectionMethod;
use opentab_billing::{Reason, Strategy};
use opentab_sandbox::{CardOutcome, Fault};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::payday::Payday;

const PAY: &str = "POST /v1/invoices/{invoice}/pay";
const DAY: i64 = 86_400;

/// A row of the strategy table: how it comes about, and what it comes to.
struct Row {
    reason: Reason,
    card: Option<CardOutcome>,
    /// What goes wrong with every request to pay.
    fault: Option<Fault>,
    /// Seconds after the first try, without jitter.
    tries: &'static [i64],
    state: &'static str,
    incidents: &'static [&'static str],
    /// How many days after the due date the customer is suspended; none for never.
    suspended_after_days: Option<i64>,
}

const MINUTE: i64 = 60;
const ROWS: &[Row] = &[
    Row {
        reason: Reason::Network,
        card: Some(CardOutcome::Succeeds),
        fault: Some(Fault::Refuse),
        // Each is looked at first, ten seconds after nobody answered.
        tries: &[0, 40, 80, 80 + 310, 80 + 620, 80 + 930],
        state: "failed: network",
        incidents: &["provider_down"],
        suspended_after_days: None,
    },
    Row {
        reason: Reason::InsufficientFunds,
        card: Some(CardOutcome::Declined("insufficient_funds")),
        fault: None,
        tries: &[0, DAY, 3 * DAY, 5 * DAY, 7 * DAY, 9 * DAY, 11 * DAY, 13 * DAY, 15 * DAY, 17 * DAY],
        state: "failed: insufficient_funds",
        incidents: &[],
        suspended_after_days: Some(17),
    },
    Row {
        reason: Reason::Declined,
        card: Some(CardOutcome::Declined("generic_decline")),
        fault: None,
        tries: &[0, 3 * DAY, 7 * DAY, 14 * DAY, 21 * DAY, 28 * DAY],
        state: "failed: declined",
        incidents: &[],
        suspended_after_days: Some(28),
    },
    Row {
        reason: Reason::DoNotTryAgain,
        card: Some(CardOutcome::Declined("lost_card")),
        fault: None,
        tries: &[0],
        state: "failed: do_not_try_again",
        incidents: &[],
        suspended_after_days: Some(14),
    },
    Row {
        reason: Reason::AuthenticationRequired,
        card: Some(CardOutcome::NeedsAction),
        fault: None,
        tries: &[0],
        state: "failed: authentication_required",
        incidents: &[],
        suspended_after_days: Some(14),
    },
    Row {
        reason: Reason::NoPaymentMethod,
        card: None,
        fault: None,
        tries: &[0],
        state: "failed: no_payment_method",
        incidents: &[],
        suspended_after_days: Some(14),
    },
    Row {
        reason: Reason::CurrencyMismatch,
        card: Some(CardOutcome::WrongCurrency),
        fault: None,
        tries: &[0],
        state: "failed: currency_mismatch",
        incidents: &["charge_currency_mismatch"],
        suspended_after_days: None,
    },
    Row {
        reason: Reason::CustomerNotFound,
        card: Some(CardOutcome::Succeeds),
        fault: Some(Fault::DeleteFirst),
        tries: &[0],
        state: "failed: customer_not_found",
        incidents: &["charge_customer_not_found", "customer_gone_at_stripe"],
        suspended_after_days: None,
    },
    Row {
        reason: Reason::Unknown,
        card: Some(CardOutcome::Succeeds),
        fault: Some(Fault::Status { status: 400, code: None, stored: false, executed: false }),
        tries: &[0, 10, 10 + MINUTE, 10 + 6 * MINUTE, 10 + 66 * MINUTE, 10 + 66 * MINUTE + DAY],
        state: "needs_attention",
        incidents: &["charge_needs_attention", "charge_unknown"],
        suspended_after_days: None,
    },
];

async fn begun(row: &Row) -> Payday {
    let p = Payday::setup("opentab", row.card, &[]).await;
    match &row.fault {
        Some(Fault::DeleteFirst) => {
            // Between the finalization and the first try.
            opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
            let customer = p.stripe_customer().await;
            p.t.stripe("DELETE", &format!("/customers/{customer}"), "").await;
        }
        Some(fault) => p.t.sandbox.faults().often(PAY, fault.clone(), 1_000),
        None => {}
    }
    p.begins().await
}

/// When each try began, in seconds after the first.
async fn offsets(p: &Payday) -> Vec<i64> {
    let begun: Vec<i64> = p.attempts().await.into_iter().map(|attempt| attempt.begun_at / 1_000).collect();
    begun.iter().map(|at| at - begun[0]).collect()
}

async fn suspended_at(p: &Payday) -> Option<i64> {
    p.t.app.store.standing(&p.ada.id).await.unwrap().unwrap().suspended_at
}

#[tokio::test]
async fn every_row_of_the_strategy_table_comes_to_its_end() {
    for row in ROWS {
        let p = begun(row).await;
        // A ladder without an end is followed for as many tries as the row names.
        while p.attempts().await.len() < row.tries.len() || row.reason != Reason::Network {
            if p.next().await.is_none() {
                break;
            }
        }
        while row.reason == Reason::Network && p.state().await == "in_progress" {
            p.next().await;
        }
        println!("{}", ladder(row.reason, &Strategy::default_of(row.reason)));
        let tried = offsets(&p).await;
        println!("  as it went: {tried:?} seconds\n");
        assert_eq!(tried.len(), row.tries.len(), "{}: {tried:?}", row.reason);
        for (tried, wanted) in tried.iter().zip(row.tries) {
            // Each wait may be a fifth longer, and a minute at most.
            let late = (wanted / 5).min(60 * row.tries.len() as i64);
            assert!((*wanted..=wanted + late).contains(tried), "{}: {tried} for {wanted}", row.reason);
        }
        assert_eq!(p.state().await, row.state);
        assert_eq!(p.t.incidents().await, row.incidents, "{}", row.reason);
        let due = p.charge().await.due_at;
        let days = suspended_at(&p).await.map(|at| (at - due) / (DAY * 1_000));
        assert_eq!(days, row.suspended_after_days, "{}", row.reason);
        assert_eq!(p.t.audited("charge.failed").await, tried.len(), "{}", row.reason);
    }
}

/// Seconds of a span as ladders are printed.
fn seconds(span: &str) -> i64 {
    let (number, unit) = span.split_at(span.len() - 1);
    let unit = match unit {
        "d" => DAY,
        "h" => 60 * MINUTE,
        "m" => MINUTE,
        _ => 1,
    };
    number.parse::<i64>().unwrap() * unit
}

#[test]
fn the_printed_ladder_is_the_one_that_is_climbed() {
    for row in ROWS {
        let text = ladder(row.reason, &Strategy::default_of(row.reason));
        let line = |name: &str| {
            let found = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
            found.trim().to_owned()
        };
        let tries = line("tries:");
        let (steps, every) = match tries.split_once(", then every ") {
            Some((steps, every)) => (steps, Some(seconds(every))),
            None => (tries.as_str(), None),
        };
        let mut printed: Vec<i64> =
            steps.split(", ").map(|step| if step == "at once" { 0 } else { seconds(step) }).collect();
        while let Some(every) = every.filter(|_| printed.len() < row.tries.len()) {
            printed.push(printed[printed.len() - 1] + every);
        }
        // Of a try that nobody answered, its end is asked for first: ten seconds each.
        let looks = |try_no: usize| if row.reason == Reason::Network { 10 * try_no as i64 } else { 0 };
        let climbed: Vec<i64> = row.tries.iter().enumerate().map(|(no, at)| at - looks(no)).collect();
        assert_eq!(printed, climbed, "{text}");
        let finally = match (row.suspended_after_days, row.state) {
            (Some(_), _) => "suspend",
            (None, "needs_attention") => "needs attention",
            (None, _) => "wait",
        };
        assert_eq!(line("finally:"), finally, "{text}");
        let own = format!("charge_{}", row.reason);
        let tells = match (row.suspended_after_days, row.incidents.contains(&own.as_str())) {
            (Some(_), _) => "customer, once",
            (None, true) => "operator, once",
            (None, false) => "nobody, once; the operator that Stripe is down, after 3 tries",
        };
        assert_eq!(line("tells:"), tells, "{text}");
    }
}

#[tokio::test]
async fn every_reason_has_its_row() {
    for reason in Reason::ALL {
        assert_eq!(ROWS.iter().filter(|row| row.reason == reason).count(), 1, "{reason}");
    }
}

#[tokio::test]
async fn whatever_the_reason_a_card_that_is_good_again_pays_and_closes_every_incident() {
    for row in ROWS.iter().filter(|row| row.reason != Reason::CustomerNotFound) {
        let p = begun(row).await;
        p.t.sandbox.faults().clear();
        p.gets_a_card(CardOutcome::Succeeds).await;
        charge::pay(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
        p.to_the_end().await;
        p.paid_once(row.reason.as_str()).await;
        assert!(p.t.incidents().await.is_empty(), "{}: {:?}", row.reason, p.t.incidents().await);
    }
}

#[tokio::test]
async fn while_not_even_a_read_is_answered_nothing_is_tried_and_it_is_said_once() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    p.t.sandbox.faults().often("*", Fault::Refuse, 1_000);
    for _ in 0..12 {
        p.next().await;
    }
    assert_eq!((p.state().await.as_str(), p.attempts().await.len()), ("in_progress", 1));
    assert_eq!(p.t.incidents().await, ["provider_down"]);
    p.t.sandbox.faults().clear();
    p.to_the_end().await;
    p.paid_once("Stripe is back").await;
    assert!(p.t.incidents().await.is_empty());
}

#[tokio::test]
async fn while_reads_are_answered_and_charges_are_not_it_is_said_once() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    p.t.sandbox.faults().often(PAY, Fault::Refuse, 1_000);
    for _ in 0..12 {
        p.next().await;
    }
    assert!(p.attempts().await.len() > 3, "it is tried again");
    let sql = both("select count(*) from incident where kind = 'provider_down'");
    assert_eq!(p.t.app.store.db.one::<(i64,)>(sql, ()).await.unwrap(), (1,));
    p.t.sandbox.faults().clear();
    p.to_the_end().await;
    p.paid_once("Stripe is back").await;
    assert!(p.t.incidents().await.is_empty());
}

#[tokio::test]
async fn stripe_is_back_once_it_has_taken_a_transfer_that_takes_days() {
    let p = Payday::with(CardOutcome::Processes).await;
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    p.t.sandbox.faults().often(PAY, Fault::Refuse, 1_000);
    while p.t.incidents().await.is_empty() {
        p.next().await;
    }
    p.t.sandbox.faults().clear();
    for _ in 0..3 {
        p.next().await;
    }
    assert_eq!((p.state().await.as_str(), p.t.incidents().await), ("in_progress", Vec::new()));
}

#[tokio::test]
async fn what_stays_unclear_is_looked_at_later_and_later_and_then_by_a_human() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    p.t.sandbox.faults().often("GET", Fault::UnknownValue { field: "status" }, 1_000);
    let p = p.begins().await;
    let mut waits = Vec::new();
    while let Some(wait) = p.next().await {
        waits.push(wait.num_seconds());
    }
    assert_eq!(waits, [10, 60, 300, 3_600, 86_400]);
    assert_eq!((p.state().await.as_str(), p.attempts().await.len()), ("needs_attention", 1));
    assert_eq!(p.t.incidents().await, ["charge_needs_attention"]);
    p.t.sandbox.faults().clear();
    charge::retry(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
    p.to_the_end().await;
    p.paid_once("a human asked").await;
    assert!(p.t.incidents().await.is_empty());
}

#[tokio::test]
async fn another_payment_method_is_tried_at_once_and_what_does_not_change_it_is_not() {
    for before in [Some(CardOutcome::Declined("lost_card")), Some(CardOutcome::WrongCurrency), None] {
        let p = Payday::setup("opentab", before, &[]).await.begins().await;
        p.t.pass(Duration::hours(1));
        let customer = p.stripe_customer().await;
        p.t.stripe("POST", &format!("/customers/{customer}"), "name=Ada+Lovelace").await;
        p.t.settle().await;
        assert_eq!(p.attempts().await.len(), 1, "blindly tried again");
        p.gets_a_card(CardOutcome::Succeeds).await;
        p.t.settle().await;
        assert_eq!((p.state().await.as_str(), p.attempts().await.len()), ("paid", 2), "{before:?}");
        assert!(p.t.incidents().await.is_empty());
    }
}

#[tokio::test]
async fn a_suspended_customer_is_restored_once_everything_is_paid() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    while suspended_at(&p).await.is_none() {
        p.next().await.expect("never suspended");
    }
    assert_eq!((p.t.audited("customer.suspended").await, p.t.audited("customer.restored").await), (1, 0));
    p.to_the_end().await;
    // The customer pays on Stripe's hosted page.
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    let (_, id) = p.invoice().await;
    p.t.stripe("POST", &format!("/invoices/{id}/pay"), "").await;
    p.t.settle().await;
    assert_eq!((suspended_at(&p).await, p.state().await.as_str()), (None, "paid"));
    assert_eq!((p.t.audited("customer.suspended").await, p.t.audited("customer.restored").await), (1, 1));
}

#[tokio::test]
async fn who_is_restored_hears_of_it_and_so_does_the_application() {
    let p = Payday::with(CardOutcome::NeedsAction).await;
    listens(&p).await;
    let p = p.begins().await;
    p.to_the_end().await;
    assert!(suspended_at(&p).await.is_some());
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    charge::pay(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
    p.t.settle().await;
    let (events, emails) = told(&p).await;
    assert_eq!(events, ["charge.failed", "customer.restored", "customer.suspended"]);
    assert_eq!(emails, ["authentication_required", "restored", "suspended"]);
    let restored =
        p.t.mail.delivered().into_iter().filter(|mail| format!("{mail:?}").contains("active again")).count();
    assert_eq!(restored, 1);
}

/// Both requests to pay are answered at the same moment.
#[derive(Debug)]
struct Together {
    wire: Arc<dyn Transport>,
    both: Barrier,
}

impl Transport for Together {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            let pays = request.path.ends_with("/pay");
            let answer = self.wire.send(request).await;
            if pays {
                self.both.wait().await;
            }
            answer
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pays_two_invoices_at_once_is_restored_once() {
    let p = Payday::with(CardOutcome::NeedsAction).await;
    listens(&p).await;
    let p = owes_twice(p).await;
    assert!(suspended_at(&p).await.is_some());
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    let together = Arc::new(Together { wire: p.t.wire(), both: Barrier::new(2) });
    let db = &p.t.app.store.db;
    // On PostgreSQL both have written down that theirs is paid before either can look at the other's.
    let held = match db {
        Db::Pg(_) => {
            let mut tx = db.begin().await.unwrap();
            tx.lock_standing(&p.ada.id).await.unwrap();
            Some(tx)
        }
        Db::Lite { .. } => None,
    };
    let paying = p.t.sealed(&p.ada).await.into_iter().map(|invoice| {
        let replica = p.t.replica_through(together.clone());
        tokio::spawn(async move { charge::pay(&replica, &invoice.id, &By::operator()).await.unwrap() })
    });
    let paying: Vec<_> = paying.collect();
    if let Some(tx) = held {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        drop(tx);
    }
    for paid in paying {
        assert_eq!(paid.await.unwrap().charge.state, "paid");
    }
    assert_eq!(suspended_at(&p).await, None);
    p.t.settle().await;
    assert_eq!(p.t.audited("customer.restored").await, 1);
    let (events, emails) = told(&p).await;
    assert_eq!(events.iter().filter(|kind| *kind == "customer.restored").count(), 1);
    assert_eq!(emails.iter().filter(|kind| *kind == "restored").count(), 1);
}

/// Types of events that the user's own application has heard of, and kinds of e-mails, in order.
async fn told(p: &Payday) -> (Vec<String>, Vec<String>) {
    let heard = p.t.listener.heard();
    let kinds =
        heard.iter().map(|(post, _)| serde_json::from_str::<Value>(&post.body).unwrap()["type"].to_string());
    let mut events: Vec<String> = kinds.map(|kind| kind.trim_matches('"').to_owned()).collect();
    events.sort();
    let sql = both("select kind from email order by kind");
    let emails: Vec<(String,)> = p.t.app.store.db.all(sql, ()).await.unwrap();
    (events, emails.into_iter().map(|(kind,)| kind).collect())
}

async fn listens(p: &Payday) {
    let events = ["charge.failed", "customer.suspended", "customer.restored"].map(str::to_owned).to_vec();
    let new = NewEndpoint { url: "https://app.example/hooks".to_owned(), description: String::new(), events };
    outgoing::create(&p.t.app, new, &By::operator()).await.unwrap();
}

#[tokio::test]
async fn ten_tries_for_one_cause_are_told_once() {
    let p = Payday::with(CardOutcome::Declined("insufficient_funds")).await;
    listens(&p).await;
    let p = p.begins().await;
    p.to_the_end().await;
    p.t.settle().await;
    assert_eq!(p.attempts().await.len(), 10);
    let (events, emails) = told(&p).await;
    assert_eq!(events, ["charge.failed", "customer.suspended"]);
    assert_eq!(emails, ["insufficient_funds", "suspended"]);
}

#[tokio::test]
async fn where_stripe_collects_the_application_hears_of_each_cause_once_and_stripe_writes_to_the_customer() {
    let p = Payday::setup("stripe", Some(CardOutcome::Declined("insufficient_funds")), &[]).await;
    listens(&p).await;
    let p = p.begins().await;
    p.t.settle().await;
    p.to_the_end().await;
    assert_eq!(p.state().await, "failed: insufficient_funds");
    let (_, id) = p.invoice().await;
    p.t.stripe("POST", &format!("/invoices/{id}/pay"), "").await;
    p.t.settle().await;
    p.to_the_end().await;
    assert!(p.t.audited("charge.failed").await > 1, "it failed twice");
    p.t.settle().await;
    assert_eq!(told(&p).await, (vec!["charge.failed".to_owned()], Vec::new()));
}

#[tokio::test]
async fn reasons_that_take_turns_climb_each_ladder_once_and_are_told_once() {
    let (funds, declined) =
        (CardOutcome::Declined("insufficient_funds"), CardOutcome::Declined("generic_decline"));
    let p = Payday::with(funds).await;
    listens(&p).await;
    let p = p.begins().await;
    for turn in 0..60 {
        p.t.sandbox.card_will(&p.card, if turn % 2 == 0 { declined } else { funds });
        if turn % 3 == 0 {
            p.t.sandbox.faults().next(PAY, Fault::DropBefore);
        }
        if p.next().await.is_none() {
            break;
        }
    }
    assert_eq!(p.goes_on_at().await, None, "it comes to an end");
    let attempts = p.attempts().await;
    let failed_for =
        |reason| attempts.iter().filter(|attempt| attempt.reason.as_deref() == Some(reason)).count();
    assert!(failed_for("insufficient_funds") <= 10 && failed_for("declined") <= 6, "{attempts:?}");
    assert!(failed_for("insufficient_funds") > 1 && failed_for("declined") > 1, "they took turns");
    assert!(suspended_at(&p).await.is_some());
    p.t.settle().await;
    let (events, emails) = told(&p).await;
    let failures = events.iter().filter(|event| *event == "charge.failed").count();
    // One for each of the two, and one for Stripe that could not be reached each time.
    let unanswered = attempts.iter().filter(|attempt| attempt.reason.is_none()).count();
    assert_eq!(failures, 2 + unanswered, "{events:?}");
    assert_eq!(emails, ["insufficient_funds", "payment_failed", "suspended"]);
}

#[tokio::test]
async fn what_only_an_operator_can_help_is_open_again_when_it_is_back_and_told_once() {
    let p = Payday::setup(
        "opentab",
        Some(CardOutcome::WrongCurrency),
        &[("OPENTAB_OPERATOR_EMAIL", "op@example.com")],
    );
    let p = p.await.begins().await;
    let (id, _) = p.invoice().await;
    let by = By::operator();
    assert_eq!(p.t.incidents().await, ["charge_currency_mismatch"]);
    p.t.sandbox.card_will(&p.card, CardOutcome::Declined("generic_decline"));
    charge::pay(&p.t.app, &id, &by).await.unwrap();
    assert!(p.t.incidents().await.is_empty(), "the customer has to do something");
    p.t.sandbox.card_will(&p.card, CardOutcome::WrongCurrency);
    charge::pay(&p.t.app, &id, &by).await.unwrap();
    assert_eq!(p.t.incidents().await, ["charge_currency_mismatch"]);
    let (_, emails) = told(&p).await;
    assert_eq!(emails, ["incident", "payment_failed"]);
}

/// Two invoices are unpaid for so long that the customer is suspended.
async fn owes_twice(p: Payday) -> Payday {
    let graced = async |days| {
        let change = CustomerChange { suspension_grace_days: Some(Some(days)), ..CustomerChange::default() };
        customers::update(&p.t.app, &p.ada.id, change, &By::operator()).await.unwrap();
    };
    graced(40).await;
    p.t.settle().await;
    p.t.uses(&p.ada, "calls", 100, "k2").await;
    p.t.settle().await;
    graced(9).await;
    p.t.at("2027-01-01T01:00:00Z");
    p.t.settle().await;
    p.t.at("2027-01-11T02:00:00Z");
    p.t.settle().await;
    p.to_the_end().await;
    assert_eq!(p.t.sealed(&p.ada).await.len(), 2);
    p
}

#[tokio::test]
async fn two_unpaid_invoices_suspend_a_customer_once() {
    let p = Payday::with(CardOutcome::NeedsAction).await;
    listens(&p).await;
    let p = owes_twice(p).await;
    let (events, emails) = told(&p).await;
    assert_eq!(events, ["charge.failed", "charge.failed", "customer.suspended"]);
    assert_eq!(emails.iter().filter(|kind| *kind == "suspended").count(), 1);
    assert_eq!(p.t.audited("customer.suspended").await, 1);
}

#[tokio::test]
async fn who_pays_what_they_were_suspended_for_is_suspended_for_the_next_invoice_in_its_time() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    p.t.uses(&p.ada, "calls", 100, "k2").await;
    p.t.settle().await;
    p.to_the_end().await;
    assert!(suspended_at(&p).await.is_some());
    // The next one's ladder comes to its end while they are suspended.
    p.t.at("2027-01-01T01:00:00Z");
    p.t.settle().await;
    p.to_the_end().await;
    p.t.at("2027-01-05T01:00:00Z");
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    charge::pay(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
    assert_eq!(suspended_at(&p).await, None);
    let next = p.t.sealed(&p.ada).await.pop().unwrap();
    let next = p.t.app.store.charge(&next.id).await.unwrap().unwrap();
    assert_eq!(next.state, "failed");
    p.to_the_end().await;
    assert_eq!(suspended_at(&p).await, next.suspend_at);
    assert_eq!(next.suspend_at, Some(next.due_at + 14 * DAY * 1_000));
}

#[tokio::test]
async fn what_is_written_off_restores_nobody_until_it_is_paid_or_void() {
    for ends in ["pay", "void"] {
        let p = Payday::with(CardOutcome::NeedsAction).await;
        listens(&p).await;
        let p = p.begins().await;
        p.to_the_end().await;
        let (id, _) = p.invoice().await;
        let (app, by) = (&p.t.app, By::operator());
        charge::mark_uncollectible(app, &id, &by).await.unwrap();
        // That it may still be paid, and cannot be, changes nothing.
        charge::pay(app, &id, &by).await.unwrap();
        p.t.settle().await;
        assert_eq!(p.state().await, "uncollectible");
        assert!(suspended_at(&p).await.is_some());
        assert!(!told(&p).await.1.contains(&"restored".to_owned()), "a debtor is thanked");
        p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
        match ends {
            "pay" => charge::pay(app, &id, &by).await.unwrap(),
            _ => charge::void(app, &id, &by).await.unwrap(),
        };
        p.t.settle().await;
        assert_eq!(suspended_at(&p).await, None, "{ends}");
        assert_eq!(told(&p).await.0, ["charge.failed", "customer.restored", "customer.suspended"]);
    }
}

#[tokio::test]
async fn what_is_written_off_before_its_time_suspends_nobody_and_keeps_nobody_suspended() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    let (id, _) = p.invoice().await;
    charge::mark_uncollectible(&p.t.app, &id, &By::operator()).await.unwrap();
    assert_eq!(p.charge().await.suspend_at, None);
    p.t.uses(&p.ada, "calls", 100, "k2").await;
    p.t.settle().await;
    p.t.at("2027-01-01T01:00:00Z");
    p.t.settle().await;
    p.to_the_end().await;
    assert!(suspended_at(&p).await.is_some(), "for the next one");
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    let next = p.t.sealed(&p.ada).await.pop().unwrap();
    charge::pay(&p.t.app, &next.id, &By::operator()).await.unwrap();
    assert_eq!(suspended_at(&p).await, None);
}

#[tokio::test]
async fn a_customers_own_grace_counts() {
    let p = Payday::with(CardOutcome::NeedsAction).await;
    let change = CustomerChange { suspension_grace_days: Some(Some(3)), ..CustomerChange::default() };
    customers::update(&p.t.app, &p.ada.id, change, &By::operator()).await.unwrap();
    let p = p.begins().await;
    p.to_the_end().await;
    let after = Duration::milliseconds(suspended_at(&p).await.unwrap() - p.charge().await.due_at);
    assert_eq!(after, Duration::days(3));
}

#[tokio::test]
async fn a_suspension_that_is_to_come_moves_with_the_grace_and_one_that_has_come_stays() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    let due = p.charge().await.due_at;
    let graced = async |days| {
        let change = CustomerChange { suspension_grace_days: Some(days), ..CustomerChange::default() };
        customers::update(&p.t.app, &p.ada.id, change, &By::operator()).await.unwrap();
        p.t.settle().await;
        (p.charge().await.suspend_at.unwrap() - due) / (DAY * 1_000)
    };
    for (days, after) in [(Some(40), 40), (Some(20), 20), (None, 14), (Some(30), 30)] {
        assert_eq!(graced(days).await, after);
    }
    p.t.pass(Duration::days(29));
    p.t.settle().await;
    assert_eq!(suspended_at(&p).await, None);
    let now = p.t.clock.now_ms();
    graced(Some(3)).await;
    assert_eq!((suspended_at(&p).await, p.charge().await.suspend_at), (Some(now), Some(now)));
    graced(Some(300)).await;
    assert_eq!((suspended_at(&p).await, p.charge().await.suspend_at), (Some(now), Some(now)));
}

#[tokio::test]
async fn what_waits_for_a_human_is_tried_again_by_reason_and_month_as_well() {
    let fault = Fault::Status { status: 400, code: None, stored: false, executed: false };
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().often(PAY, fault, 1_000);
    let p = p.begins().await;
    p.to_the_end().await;
    assert_eq!(p.state().await, "needs_attention");
    p.t.sandbox.faults().clear();
    let december = opentab_billing::cycle::month_span("2026-12").unwrap();
    assert_eq!(charge::ask_for_failed(&p.t.app, "declined", december).await.unwrap(), 0);
    assert_eq!(charge::ask_for_failed(&p.t.app, "unknown", december).await.unwrap(), 1);
    p.to_the_end().await;
    p.paid_once("by reason").await;
    // What nobody ever knew the reason of is unknown as well; it is asked for, and not tried blindly.
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    p.t.sandbox.faults().often("GET", Fault::UnknownValue { field: "status" }, 1_000);
    let p = p.begins().await;
    p.to_the_end().await;
    assert_eq!((p.state().await.as_str(), p.charge().await.reason), ("needs_attention", None));
    p.t.sandbox.faults().clear();
    assert_eq!(charge::ask_for_failed(&p.t.app, "unknown", december).await.unwrap(), 1);
    p.to_the_end().await;
    p.paid_once("asked, not tried").await;
    assert_eq!(p.attempts().await.len(), 1);
}

/// Beside one that is paid, an invoice of the first of January that is due ten days after. Answers our id of it.
async fn due_in_ten_days() -> (Payday, String) {
    let p = Payday::with(CardOutcome::Succeeds).await;
    let change = CustomerChange {
        collection_method: Some(CollectionMethod::SendInvoice),
        days_until_due: Some(10),
        ..CustomerChange::default()
    };
    customers::update(&p.t.app, &p.ada.id, change, &By::operator()).await.unwrap();
    // The draft of November is charged automatically; that of December is sent.
    let p = p.begins().await;
    p.t.uses(&p.ada, "calls", 100, "k2").await;
    p.t.settle().await;
    p.t.at("2027-01-01T01:00:00Z");
    p.t.settle().await;
    let sent = p.t.sealed(&p.ada).await.pop().unwrap();
    (p, sent.id)
}

async fn state_of(p: &Payday, invoice_id: &str) -> String {
    p.t.app.store.charge(invoice_id).await.unwrap().unwrap().state
}

#[tokio::test]
async fn an_invoice_is_not_charged_before_it_is_due() {
    let (p, sent) = due_in_ten_days().await;
    assert_eq!(state_of(&p, &sent).await, "pending");
    p.t.at("2027-01-11T00:59:59Z");
    p.t.settle().await;
    assert_eq!(state_of(&p, &sent).await, "pending");
    p.to_the_end().await;
    assert_eq!(state_of(&p, &sent).await, "paid");
}

#[tokio::test]
async fn a_void_or_write_off_that_stripe_refuses_charges_nobody() {
    let refused = Fault::Status { status: 400, code: None, stored: false, executed: false };
    let forbidden = Fault::Status { status: 403, code: None, stored: false, executed: false };
    for fault in [Fault::LockTimeout, refused, forbidden] {
        for operation in ["void", "mark_uncollectible"] {
            let (p, sent) = due_in_ten_days().await;
            let path = format!("POST /v1/invoices/{{invoice}}/{operation}");
            p.t.sandbox.faults().often(&path, fault.clone(), 1_000);
            let (app, by) = (&p.t.app, By::operator());
            let answer = match operation {
                "void" => charge::void(app, &sent, &by).await,
                _ => charge::mark_uncollectible(app, &sent, &by).await,
            };
            assert!(answer.is_err(), "{operation}, {fault:?}: {answer:?}");
            p.t.pass(Duration::days(9));
            p.t.settle().await;
            let attempts = app.store.attempts(&sent).await.unwrap();
            assert_eq!((state_of(&p, &sent).await.as_str(), attempts.len()), ("pending", 1), "{fault:?}");
            p.to_the_end().await;
            assert_eq!(state_of(&p, &sent).await, "paid", "when it is due");
        }
    }
}

#[tokio::test]
async fn what_is_not_tried_blindly_is_not_tried_after_a_refused_void() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    for fault in
        [Fault::LockTimeout, Fault::Status { status: 400, code: None, stored: false, executed: false }]
    {
        p.t.sandbox.faults().next("POST /v1/invoices/{invoice}/void", fault);
        charge::void(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap_err();
        p.t.pass(Duration::hours(1));
        p.t.settle().await;
        let paid = p.attempts().await.into_iter().filter(|attempt| attempt.action == "pay").count();
        assert_eq!((p.state().await.as_str(), paid), ("failed: authentication_required", 1));
    }
    p.to_the_end().await;
    assert!(suspended_at(&p).await.is_some(), "its ladder goes on");
}

#[tokio::test]
async fn what_failed_is_tried_again_by_reason_and_month_and_a_lost_job_is_found() {
    let p = Payday::with(CardOutcome::NeedsAction).await.begins().await;
    let december = opentab_billing::cycle::month_span("2026-12").unwrap();
    let november = opentab_billing::cycle::month_span("2026-11").unwrap();
    let app = &p.t.app;
    assert_eq!(charge::ask_for_failed(app, "network", december).await.unwrap(), 0);
    assert_eq!(charge::ask_for_failed(app, "authentication_required", november).await.unwrap(), 0);
    p.t.sandbox.card_will(&p.card, CardOutcome::Declined("insufficient_funds"));
    assert_eq!(charge::ask_for_failed(app, "authentication_required", december).await.unwrap(), 1);
    p.next().await;
    assert_eq!(p.state().await, "failed: insufficient_funds");
    app.store.db.run(both("delete from job where kind = 'charge'"), ()).await.unwrap();
    assert_eq!(charge::ask_for_due(app, "insufficient_funds").await.unwrap().len(), 0, "not due yet");
    p.t.pass(Duration::days(2));
    assert_eq!(charge::ask_for_due(app, "network").await.unwrap().len(), 0);
    for (state, asked) in [("failed", 0), ("queued", 1)] {
        app.store.db.run(both("delete from job where kind = 'charge'"), ()).await.unwrap();
        let sql = both(
            "insert into job (id, kind, subject, state, run_at, deadline, created_at)
             values ('ot_job_1', 'charge', $1, $2, 0, 0, 0)",
        );
        app.store.db.run(sql, (p.charge().await.invoice_id.as_str(), state)).await.unwrap();
        assert_eq!(charge::ask_for_due(app, "").await.unwrap().len(), asked, "its job is {state}");
    }
    app.store.db.run(both("delete from job where kind = 'charge'"), ()).await.unwrap();
    assert_eq!(charge::ask_for_due(app, "insufficient_funds").await.unwrap().len(), 1);
    p.next().await;
    assert_eq!(p.attempts().await.len(), 3);
}
