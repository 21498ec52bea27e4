//! Charging: one successful charge for each invoice, whatever happens around it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use chrono::Duration;
use futures::FutureExt;
use opentab::internals::http::extract::Limits;
use opentab::internals::jobs;
use opentab::internals::jobs::schedule::{CHARGE_ALL, RETRY_FUNDS, RETRY_NETWORK};
use opentab::internals::store::{Charge, NewCharge, Store, both};
use opentab::internals::stripe::{Request, SendFuture, Transport};
use opentab::internals::workflows::ask;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::charge::{self, ManualError};
use opentab_billing::ChargeState;
use opentab_sandbox::{CardOutcome, Fault};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::payday::Payday;
use crate::server::Server;
use crate::tab::{Setup, Tab, fresh_store_in};

const PAY: &str = "POST /v1/invoices/{invoice}/pay";

#[tokio::test]
async fn a_finalized_invoice_is_charged_once() {
    let p = Payday::with(CardOutcome::Succeeds).await.begins().await;
    p.paid_once("all is well").await;
    assert_eq!(p.outcomes().await, ["paid"]);
    assert_eq!(p.t.writes().iter().filter(|operation| *operation == PAY).count(), 1);
    p.to_the_end().await;
    assert!(p.t.incidents().await.is_empty());
    p.t.in_step(&p.ada).await;
}

#[tokio::test]
async fn stripe_is_told_to_leave_the_invoice_alone() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (_, id) = p.invoice().await;
    let at_stripe = p.t.stripe("GET", &format!("/invoices/{id}"), "").await;
    assert_eq!((&at_stripe["auto_advance"], &at_stripe["next_payment_attempt"]), (&false.into(), &().into()));
    let p = Payday::setup("stripe", Some(CardOutcome::Declined("generic_decline")), &[]).await.begins().await;
    let (_, id) = p.invoice().await;
    assert_eq!(p.t.stripe("GET", &format!("/invoices/{id}"), "").await["auto_advance"], true);
}

/// Between Opentab and Stripe: what the database says when a request to pay arrives there.
struct Witness {
    wire: Arc<dyn Transport>,
    store: Store,
    /// The charge's state, and the key of the try that is written down.
    saw: Mutex<Vec<(String, Option<String>)>>,
    sent: Mutex<Vec<Option<String>>>,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl Transport for Witness {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            if request.path.ends_with("/pay") {
                let sql = both(
                    "select charge.state, (select idempotency_key from charge_attempt where outcome is null) from charge",
                );
                let saw = self.store.db.one(sql, ()).await.map_err(|error| error.to_string())?;
                self.saw.lock().unwrap().push(saw);
                self.sent.lock().unwrap().push(request.idempotency_key.clone());
            }
            self.wire.send(request).await
        })
    }
}

#[tokio::test]
async fn in_progress_is_written_before_stripe_is_asked() {
    for by_hand in [false, true] {
        let p = Payday::with(CardOutcome::Succeeds).await;
        opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
        let (wire, store) = (p.t.wire(), p.t.app.store.clone());
        let (saw, sent) = Default::default();
        let witness = Arc::new(Witness { wire, store, saw, sent });
        let replica = p.t.replica_through(witness.clone());
        let (id, _) = p.invoice().await;
        if by_hand {
            _ = charge::pay(&replica, &id, &By::operator()).await.unwrap();
        } else {
            _ = charge::charge(&replica, &id).await.unwrap();
        }
        let (saw, sent) = (witness.saw.lock().unwrap().clone(), witness.sent.lock().unwrap().clone());
        assert_eq!(saw, [("in_progress".to_owned(), sent[0].clone())], "by hand: {by_hand}");
        assert!(sent.len() == 1 && sent[0].as_ref().is_some_and(|key| key.starts_with("ot_att_")));
        p.paid_once("seen from Stripe").await;
    }
}

/// Stripe answers this request only when it is told to.
#[derive(Debug)]
struct Hangs {
    wire: Arc<dyn Transport>,
    path: String,
    go_on: Notify,
}

impl Transport for Hangs {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            if request.path == self.path {
                self.go_on.notified().await;
            }
            self.wire.send(request).await
        })
    }
}

#[tokio::test]
async fn a_customer_for_whom_stripe_hangs_holds_up_nobody_else() {
    let t = company(6, "6", CardOutcome::Succeeds).await;
    let customers: Vec<(String,)> = t.app.store.db.all(both("select id from customer"), ()).await.unwrap();
    for (customer,) in &customers {
        opentab::internals::workflows::sync::sync(&t.app, customer).await.unwrap();
    }
    let (slow,) = in_state(&t, "pending").await.remove(0);
    let at_stripe = t.app.store.invoice(&slow).await.unwrap().unwrap().stripe_invoice_id.unwrap();
    let (wire, path) = (t.wire(), format!("/v1/invoices/{at_stripe}/pay"));
    let hangs = Arc::new(Hangs { wire, path, go_on: Notify::new() });
    let (replica, stop) = (t.replica_through(hangs.clone()), CancellationToken::new());
    let working = tokio::spawn(jobs::work(replica, stop.clone()));
    until(&t, "paid", 5).await;
    until(&t, "in_progress", 1).await;
    assert_eq!(in_state(&t, "in_progress").await, [(slow,)]);
    hangs.go_on.notify_one();
    until(&t, "paid", 6).await;
    stop.cancel();
    working.await.unwrap();
}

/// No request to pay this invoice gets through.
#[derive(Debug)]
struct Refuses {
    wire: Arc<dyn Transport>,
    path: String,
    refuses: AtomicBool,
}

impl Transport for Refuses {
    fn send(&self, request: Request) -> SendFuture<'_> {
        if request.path == self.path && self.refuses.load(Ordering::SeqCst) {
            return Box::pin(async { Err("the connection was reset".to_owned()) });
        }
        self.wire.send(request)
    }
}

#[tokio::test]
async fn one_invoice_that_is_never_answered_beside_others_that_are_is_said_once() {
    let t = company(2, "6", CardOutcome::Declined("generic_decline")).await;
    for (customer,) in t.app.store.db.all::<(String,)>(both("select id from customer"), ()).await.unwrap() {
        opentab::internals::workflows::sync::sync(&t.app, &customer).await.unwrap();
    }
    let pending = in_state(&t, "pending").await;
    let (lost, other) = (&pending[0].0, &pending[1].0);
    let at_stripe = t.app.store.invoice(lost).await.unwrap().unwrap().stripe_invoice_id.unwrap();
    let (wire, path) = (t.wire(), format!("/v1/invoices/{at_stripe}/pay"));
    let refuses = Arc::new(Refuses { wire, path, refuses: AtomicBool::new(true) });
    let replica = t.replica_through(refuses.clone());
    for _ in 0..12 {
        t.pass(Duration::minutes(5));
        jobs::run_due(&replica).await.unwrap();
        charge::pay(&replica, other, &By::operator()).await.unwrap();
    }
    let charge = t.app.store.charge(lost).await.unwrap().unwrap();
    assert!(charge.reason.as_deref() == Some("network") && charge.tries > 3, "{charge:?}");
    assert_eq!(t.incidents().await, ["provider_down"]);
    let sql = both("select count(*) from incident where kind = 'provider_down'");
    assert_eq!(t.app.store.db.one::<(i64,)>(sql, ()).await.unwrap(), (1,), "it comes and goes");
    refuses.refuses.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        t.pass(Duration::minutes(7));
        jobs::run_due(&replica).await.unwrap();
    }
    assert_eq!(t.incidents().await, Vec::<String>::new());
}

async fn until(t: &Tab, state: &str, wanted: usize) {
    for _ in 0..1_200 {
        if charges_in(t, state).await == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{} of {wanted} are {state}", charges_in(t, state).await);
}

/// What the schedule enqueues, and nothing else: jobs of charges are lost.
async fn tick_alone(p: &Payday, name: &str) -> bool {
    p.t.app.store.db.run(both("delete from job where kind = 'charge'"), ()).await.unwrap();
    let entry = jobs::TICKS.iter().find(|tick| tick.name == name).unwrap();
    let ticked = jobs::tick(&p.t.app, *entry).await.unwrap();
    jobs::run_due(&p.t.app).await.unwrap();
    ticked
}

#[tokio::test]
async fn the_first_of_the_month_charges_what_is_due() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    assert!(tick_alone(&p, CHARGE_ALL).await, "nothing is due yet");
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    assert!(!tick_alone(&p, CHARGE_ALL).await, "once a month");
    assert_eq!(p.state().await, "pending");
    p.t.at("2027-01-01T00:00:10Z");
    assert!(tick_alone(&p, CHARGE_ALL).await);
    p.paid_once("on the first").await;
}

#[tokio::test]
async fn network_errors_are_taken_up_every_five_minutes() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::DropBefore);
    let p = p.begins().await;
    p.t.pass(Duration::minutes(5));
    assert!(tick_alone(&p, RETRY_NETWORK).await);
    assert_eq!(p.state().await, "failed: network", "asked how it stands");
    assert!(!tick_alone(&p, RETRY_NETWORK).await, "every five minutes");
    p.t.pass(Duration::minutes(5));
    assert!(tick_alone(&p, RETRY_NETWORK).await);
    p.paid_once("by the pass").await;
}

#[tokio::test]
async fn what_failed_for_want_of_funds_is_taken_up_daily_and_nothing_else_is() {
    for (code, taken_up) in [("insufficient_funds", true), ("generic_decline", false)] {
        let p = Payday::with(CardOutcome::Declined(code)).await.begins().await;
        p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
        assert!(tick_alone(&p, RETRY_FUNDS).await);
        assert_eq!(p.attempts().await.len(), 1, "not due yet");
        p.t.pass(Duration::days(4));
        assert!(tick_alone(&p, RETRY_FUNDS).await);
        assert_eq!(p.state().await == "paid", taken_up, "{code}");
    }
}

#[tokio::test]
async fn an_answer_lost_after_success_does_not_charge_twice() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    let p = p.begins().await;
    assert_eq!(p.state().await, "in_progress");
    p.t.sandbox.reset_calls();
    assert!(p.next().await.unwrap() <= Duration::seconds(10), "the truth is asked for after ten seconds");
    assert_eq!((p.t.writes().len(), p.t.reads()), (0, 1), "asked, not tried again");
    p.paid_once("by asking").await;
}

#[tokio::test]
async fn no_kind_of_fault_charges_twice() {
    for (name, fault) in Fault::kinds() {
        if !fault.fits(PAY) || fault.is_about_webhooks() || fault == Fault::DeleteFirst {
            continue;
        }
        // What Stripe has not taken may come again and again.
        let again = matches!(fault, Fault::LoseAnswer | Fault::DropBefore | Fault::Status { .. });
        for times in if again { vec![1, 3] } else { vec![1] } {
            let p = Payday::with(CardOutcome::Succeeds).await;
            for _ in 0..times {
                p.t.sandbox.faults().next(PAY, fault.clone());
            }
            let story = format!("{name}, {times} times");
            let p = p.begins().await;
            for _ in 0..40 {
                if p.state().await == "paid" {
                    break;
                }
                // Asked for by the bank: nothing is tried blindly, so the customer acts.
                if p.next().await.is_none() {
                    charge::pay(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
                }
            }
            p.t.sandbox.faults().clear();
            p.to_the_end().await;
            p.paid_once(&story).await;
            assert!(p.t.incidents().await.is_empty(), "{story}: {:?}", p.t.incidents().await);
        }
    }
}

#[tokio::test]
async fn no_fault_of_the_look_charges_twice() {
    for (name, fault) in Fault::kinds() {
        if fault.is_about_webhooks()
            || !fault.fits("GET /v1/invoices/{invoice}")
            || fault == Fault::DeleteFirst
        {
            continue;
        }
        let p = Payday::with(CardOutcome::Succeeds).await;
        p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
        p.t.sandbox.faults().next("GET /v1/invoices/{invoice}", fault.clone());
        p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
        let p = p.begins().await;
        p.to_the_end().await;
        p.paid_once(&name).await;
        assert_eq!(p.attempts().await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn no_webhook_fault_charges_twice_or_hides_a_payment() {
    for (name, fault) in Fault::kinds() {
        if !fault.is_about_webhooks() {
            continue;
        }
        let p = Payday::with(CardOutcome::Succeeds).await;
        for kind in ["invoice.finalized", "invoice.updated", "invoice.paid", "invoice_payment.paid"] {
            p.t.sandbox.faults().next(kind, fault.clone());
        }
        p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
        let p = p.begins().await;
        p.to_the_end().await;
        p.t.sandbox.release_held_webhooks();
        p.t.pass(Duration::hours(2));
        p.t.settle().await;
        p.paid_once(&name).await;
    }
}

#[tokio::test]
async fn after_a_crash_the_next_start_asks_at_once_how_a_try_has_ended() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    let p = p.begins().await;
    let now = p.t.clock.now_ms();
    assert_eq!(p.t.app.store.look_at_once(now, charge::known_before(now)).await.unwrap(), 1);
    assert_eq!(p.next().await, Some(Duration::zero()));
    p.paid_once("asked on start").await;
    // A transfer that takes days is not asked for at every start.
    let p = Payday::with(CardOutcome::Processes).await.begins().await;
    p.next().await;
    let now = p.t.clock.now_ms();
    assert_eq!(p.t.app.store.look_at_once(now, charge::known_before(now)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_stored_failure_is_read_around_and_then_another_key_is_used() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::named("error_500_stored").unwrap());
    let p = p.begins().await;
    p.to_the_end().await;
    p.paid_once("stored 500").await;
    let keys: Vec<String> = p.attempts().await.into_iter().map(|attempt| attempt.idempotency_key).collect();
    assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
}

#[tokio::test]
async fn while_stripe_is_at_work_on_a_key_no_other_key_is_used() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    // Longer than two tries take.
    p.t.sandbox.faults().next(PAY, Fault::Slow { for_ms: 400_000 });
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    let p = p.begins().await;
    p.to_the_end().await;
    p.paid_once("slow").await;
    let attempts = p.attempts().await;
    let keys: std::collections::BTreeSet<&str> =
        attempts.iter().map(|attempt| attempt.idempotency_key.as_str()).collect();
    assert!(attempts.len() > 3 && keys.len() == 1, "{attempts:?}");
}

#[tokio::test]
async fn whoever_dies_in_the_middle_is_taken_over_and_nothing_is_charged_twice() {
    let mut ends = std::collections::BTreeSet::new();
    for polls in (0..32).map(|step| step * 2) {
        let folder = tempfile::tempdir().unwrap();
        let store = fresh_store_in(folder.path()).await;
        let p = Payday::on(store, "opentab", Some(CardOutcome::Succeeds), &[]).await;
        opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
        let (id, _) = p.invoice().await;
        let replica = p.t.replica();
        let run = tokio::spawn(async move { charge::charge(&replica, &id).await });
        for _ in 0..polls {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        run.abort();
        let _ = run.await;
        ends.insert(p.state().await);
        p.t.pass(Duration::seconds(16));
        p.to_the_end().await;
        p.paid_once(&format!("dropped after {polls} polls")).await;
    }
    assert!(ends.contains("pending") && ends.contains("paid"), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_charge_the_same_invoices_charge_each_once() {
    for lost in [false, true] {
        let p = Payday::with(CardOutcome::Succeeds).await;
        opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
        if lost {
            p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
        }
        let (id, _) = p.invoice().await;
        let mut running = Vec::new();
        for replica in [p.t.replica(), p.t.replica(), p.t.replica()] {
            let id = id.clone();
            running.push(tokio::spawn(async move {
                for _ in 0..5 {
                    let _ = charge::charge(&replica, &id).await;
                    tokio::task::yield_now().await;
                }
                let _ = jobs::run_due(&replica).await;
            }));
        }
        for run in running {
            run.await.unwrap();
        }
        p.to_the_end().await;
        p.paid_once("three replicas").await;
        assert_eq!(p.attempts().await.len(), 1);
    }
}

#[tokio::test]
async fn a_sleeper_whose_term_is_over_settles_nothing() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    let (id, _) = p.invoice().await;
    let now = p.t.clock.now_ms();
    let asleep = p.t.app.store.acquire_lease(&id, "asleep", now, now + 15_000).await.unwrap().unwrap();
    assert!(charge::charge(&p.t.app, &id).await.is_err(), "one at a time");
    p.t.pass(Duration::seconds(16));
    p.to_the_end().await;
    assert!(opentab::internals::workflows::lease::begin_as_writer(&p.t.app, &asleep).await.is_err());
    p.paid_once("after a sleeper").await;
}

/// So many customers whose invoice is due, no two tries at once above `at_once`, and a card that does this.
async fn company(customers: usize, at_once: &'static str, card: CardOutcome) -> Tab {
    let settings = vec![("OPENTAB_COLLECTION", "opentab"), ("OPENTAB_CHARGES_AT_ONCE", at_once)];
    let t = Tab::with(Setup { settings, ..Setup::default() }).await;
    for no in 0..customers {
        let customer = t.customer(&format!("C{no}")).await;
        t.flat_fee(&customer, "Basics", 1_000).await;
        t.settle().await;
        let id = t.app.store.customer(&customer.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
        let body = format!("customer={id}");
        let method = t.stripe("POST", "/payment_methods/pm_card_visa/attach", &body).await;
        let method = method["id"].as_str().unwrap().to_owned();
        let body = format!("invoice_settings[default_payment_method]={method}");
        t.stripe("POST", &format!("/customers/{id}"), &body).await;
        t.sandbox.card_will(&method, card);
    }
    t.at("2026-12-01T02:00:00Z");
    t
}

async fn charges_in(t: &Tab, state: &str) -> usize {
    let counts = t.app.store.count_charges().await.unwrap();
    counts.iter().filter(|count| count.0 == state).map(|count| count.2 as usize).sum()
}

#[tokio::test]
async fn no_more_tries_are_under_way_than_may_be_whatever_answers_are_lost() {
    let t = company(7, "2", CardOutcome::Succeeds).await;
    t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    t.sandbox.faults().often(PAY, Fault::LoseAnswer, 1_000);
    t.settle().await;
    assert_eq!((charges_in(&t, "in_progress").await, charges_in(&t, "pending").await), (2, 5));
    for _ in 0..60 {
        t.pass(Duration::seconds(2));
        jobs::run_due(&t.app).await.unwrap();
        assert!(charges_in(&t, "in_progress").await <= 2);
    }
    assert_eq!(charges_in(&t, "paid").await, 7);
    assert_eq!(t.writes().iter().filter(|operation| *operation == PAY).count(), 7);
}

#[tokio::test]
async fn a_transfer_that_takes_days_takes_nobodys_place() {
    let t = company(5, "2", CardOutcome::Processes).await;
    for _ in 0..60 {
        t.settle().await;
        t.pass(Duration::seconds(2));
    }
    assert_eq!(charges_in(&t, "in_progress").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_the_places() {
    let t = company(12, "3", CardOutcome::Succeeds).await;
    t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    t.sandbox.faults().often(PAY, Fault::LoseAnswer, 1_000);
    ask::ask_for_due(&t.app).await.unwrap();
    let replicas = [t.replica(), t.replica(), t.replica()].map(|replica| {
        tokio::spawn(async move {
            for _ in 0..4 {
                jobs::run_due(&replica).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    for replica in replicas {
        replica.await.unwrap();
    }
    assert_eq!(charges_in(&t, "in_progress").await, 3);
}

#[tokio::test]
async fn what_is_asked_for_by_hand_wakes_those_who_charge() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (id, _) = p.invoice().await;
    let drained = async || while p.t.app.wake_charges.notified().now_or_never().is_some() {};
    drained().await;
    charge::retry(&p.t.app, &id, &By::operator()).await.unwrap();
    assert!(p.t.app.wake_charges.notified().now_or_never().is_some());
    drained().await;
    charge::ask_for_due(&p.t.app, "").await.unwrap();
    assert!(p.t.app.wake_charges.notified().now_or_never().is_some());
}

#[tokio::test]
async fn only_one_try_is_under_way_and_only_one_succeeds_says_the_schema() {
    let p = Payday::with(CardOutcome::Succeeds).await.begins().await;
    let (id, _) = p.invoice().await;
    for outcome in ["'paid', 1", "null, null"] {
        let sql: &'static str = Box::leak(
            format!(
                "insert into charge_attempt (id, invoice_id, action, idempotency_key, path, body, actor, lease_token, \
                 begun_at, outcome, settled_at) values ($1, $2, 'pay', 'k', '', '', 'x', 1, 1, {outcome})"
            )
            .into_boxed_str(),
        );
        let db = &p.t.app.store.db;
        let first = db.run(both(sql), ("ot_att_x1", id.as_str())).await;
        let second = db.run(both(sql), ("ot_att_x2", id.as_str())).await;
        assert!(second.is_err(), "{outcome}: {first:?}, {second:?}");
    }
}

#[tokio::test]
async fn what_is_paid_out_of_band_or_by_the_customer_is_simply_paid() {
    for body in ["paid_out_of_band=true", ""] {
        let p = Payday::with(CardOutcome::Declined("insufficient_funds")).await.begins().await;
        assert_eq!(p.state().await, "failed: insufficient_funds");
        p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
        let (_, id) = p.invoice().await;
        p.t.stripe("POST", &format!("/invoices/{id}/pay"), body).await;
        // Nobody hears of it: the next try finds out by itself.
        if body.is_empty() {
            p.t.sandbox.deliveries_due();
        }
        p.to_the_end().await;
        assert_eq!(p.state().await, "paid");
        assert!(p.t.incidents().await.is_empty());
    }
}

#[tokio::test]
async fn what_a_human_decided_at_stripe_is_followed_and_not_fought() {
    for (operation, state) in [("void", "void"), ("mark_uncollectible", "uncollectible")] {
        for heard in [true, false] {
            let p = Payday::with(CardOutcome::Declined("insufficient_funds")).await.begins().await;
            let (_, id) = p.invoice().await;
            p.t.stripe("POST", &format!("/invoices/{id}/{operation}"), "").await;
            if !heard {
                p.t.sandbox.deliveries_due();
                p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
            }
            p.to_the_end().await;
            match (operation, heard) {
                // An uncollectible invoice can be paid, and the next try did it before anybody had said so.
                ("mark_uncollectible", false) => assert_eq!(p.state().await, "paid"),
                _ => assert_eq!(p.state().await, state, "{heard}"),
            }
        }
    }
}

#[tokio::test]
async fn a_transfer_that_takes_days_is_waited_for_and_not_tried_again() {
    for (arrives, end) in [(true, "paid"), (false, "failed: declined")] {
        let p = Payday::with(CardOutcome::Processes).await.begins().await;
        assert_eq!(p.state().await, "in_progress");
        for _ in 0..30 {
            p.next().await;
        }
        assert_eq!((p.state().await.as_str(), p.attempts().await.len()), ("in_progress", 1));
        assert!(p.t.clock.now() > crate::tab::time("2026-12-06T00:00:00Z"));
        p.t.sandbox.card_will(&p.card, CardOutcome::Declined("insufficient_funds"));
        p.t.sandbox.end_transfer(&p.invoice().await.1, arrives);
        let returned_at = p.t.clock.now();
        p.next().await;
        assert_eq!(p.state().await, end);
        if !arrives {
            assert_eq!(p.attempts().await[0].message.as_deref(), Some("The transfer was returned."));
            let again = opentab::internals::clock::from_ms(p.goes_on_at().await.unwrap()) - returned_at;
            assert!(again >= Duration::days(3), "the ladder of what is declined: {again}");
        }
    }
}

#[tokio::test]
async fn a_decline_whose_answer_was_lost_keeps_stripes_reason_and_its_ladder() {
    let p = Payday::with(CardOutcome::Declined("insufficient_funds")).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    let p = p.begins().await;
    assert_eq!(p.state().await, "in_progress");
    p.next().await;
    assert_eq!(
        (p.state().await.as_str(), p.outcomes().await),
        ("failed: insufficient_funds", vec!["failed".to_owned()])
    );
    assert!(p.next().await.unwrap() >= Duration::days(1));
    assert_eq!((p.charge().await.tries, p.attempts().await.len()), (2, 2));
}

#[tokio::test]
async fn an_earlier_decline_does_not_explain_a_try_that_never_arrived() {
    let p = Payday::with(CardOutcome::Declined("insufficient_funds")).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    let p = p.begins().await;
    p.next().await;
    for before in [1, 2] {
        p.t.sandbox.faults().next(PAY, Fault::DropBefore);
        p.next().await;
        p.next().await;
        assert_eq!(p.state().await, "failed: network", "nothing new stands at Stripe");
        p.next().await;
        let charge = p.charge().await;
        assert_eq!((p.state().await.as_str(), charge.tries), ("failed: insufficient_funds", before + 1));
    }
}

#[tokio::test]
async fn where_stripe_collects_the_same_states_are_shown_and_nothing_is_tried() {
    for (card, state) in [
        (Some(CardOutcome::Succeeds), "paid"),
        (Some(CardOutcome::Declined("insufficient_funds")), "failed: insufficient_funds"),
        (Some(CardOutcome::NeedsAction), "failed: authentication_required"),
        (Some(CardOutcome::Expired), "failed: declined"),
    ] {
        let p = Payday::setup("stripe", card, &[]).await.begins().await;
        p.t.settle().await;
        p.to_the_end().await;
        assert_eq!(p.state().await, state);
        assert!(!p.t.writes().contains(&PAY.to_owned()));
        assert!(p.attempts().await.is_empty() && p.t.incidents().await.is_empty());
    }
}

#[tokio::test]
async fn refunds_disputes_and_credit_notes_are_shown_and_never_fought() {
    let p = Payday::with(CardOutcome::Succeeds).await.begins().await;
    p.t.settle().await;
    let (id, at_stripe) = p.invoice().await;
    let shown = async || {
        p.t.settle().await;
        let charge = p.charge().await;
        (charge.state, charge.refunded_amount, charge.credited_amount, charge.dispute)
    };
    let paid = || "paid".to_owned();
    p.t.sandbox.refund(&at_stripe, 50);
    assert_eq!(shown().await, (paid(), 50, 0, None));
    p.t.sandbox.refund(&at_stripe, 70);
    let note = p.t.sandbox.credit_note(&at_stripe, 30);
    assert_eq!(shown().await, (paid(), 120, 30, None));
    p.t.sandbox.void_credit_note(&note, &at_stripe, 30);
    p.t.sandbox.dispute(&at_stripe, "needs_response");
    assert_eq!(shown().await, (paid(), 120, 0, Some("needs_response".to_owned())));
    assert_eq!(p.t.incidents().await, ["charge_disputed"]);
    p.t.sandbox.dispute(&at_stripe, "lost");
    assert_eq!(shown().await, (paid(), 120, 0, Some("lost".to_owned())));
    assert!(p.t.incidents().await.is_empty());
    p.to_the_end().await;
    assert_eq!(p.attempts().await.len(), 1);
    assert!(matches!(charge::pay(&p.t.app, &id, &By::operator()).await, Err(ManualError::AlreadyPaid)));
}

#[tokio::test]
async fn a_dispute_stays_open_when_the_charge_has_its_end() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
    for kind in ["invoice.paid", "invoice.updated", "invoice.payment_succeeded"] {
        p.t.sandbox.faults().often(kind, Fault::WebhookDrop, 1_000);
    }
    let p = p.begins().await;
    p.t.sandbox.dispute(&p.invoice().await.1, "needs_response");
    p.t.settle().await;
    assert_eq!(
        (p.state().await.as_str(), p.t.incidents().await),
        ("in_progress", vec!["charge_disputed".to_owned()])
    );
    p.to_the_end().await;
    assert_eq!(
        (p.state().await.as_str(), p.t.incidents().await),
        ("paid", vec!["charge_disputed".to_owned()])
    );
}

/// The refund is on its way, and the payment's webhook is held.
async fn refunded_before_the_payment_is_heard_of() -> Payday {
    let p = Payday::with(CardOutcome::Succeeds).await;
    p.t.sandbox.faults().next("invoice_payment.paid", Fault::WebhookHold);
    let p = p.begins().await;
    p.t.settle().await;
    p.t.sandbox.refund(&p.invoice().await.1, 50);
    p
}

#[tokio::test]
async fn a_refund_that_is_heard_of_before_the_payment_is_shown_all_the_same() {
    let p = refunded_before_the_payment_is_heard_of().await;
    p.t.settle().await;
    assert_eq!(p.charge().await.refunded_amount, 0);
    p.t.sandbox.release_held_webhooks();
    p.t.settle().await;
    assert_eq!(p.charge().await.refunded_amount, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_is_looked_at_while_its_payment_is_written_down_is_shown() {
    let p = refunded_before_the_payment_is_heard_of().await;
    p.t.deliver().await;
    p.t.sandbox.release_held_webhooks();
    p.t.deliver().await;
    let mut tx = p.t.app.store.db.begin().await.unwrap();
    let held = both("update stripe_event set reason = reason where kind = $1");
    assert_eq!(tx.run(held, ("charge.refunded",)).await.unwrap(), 1);
    let (refund, payment) = (reacts(&p).await, reacts(&p).await);
    tx.commit().await.unwrap();
    refund.await.unwrap();
    payment.await.unwrap();
    p.t.settle().await;
    assert_eq!(p.charge().await.refunded_amount, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_changes_nothing_else_that_is_written_down_meanwhile() {
    let p = Payday::with(CardOutcome::Succeeds).await.begins().await;
    p.t.settle().await;
    let (id, at_stripe) = p.invoice().await;
    p.t.sandbox.refund(&at_stripe, 50);
    p.t.deliver().await;
    let mut tx = p.t.app.store.db.begin().await.unwrap();
    tx.lock_invoice(&id).await.unwrap();
    let charge = tx.lock_charge(&id).await.unwrap().unwrap();
    let reacting = reacts(&p).await;
    tx.put_charge(&Charge { credited_amount: 30, ..charge }, p.t.clock.now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    reacting.await.unwrap();
    let charge = p.charge().await;
    assert_eq!((charge.refunded_amount, charge.credited_amount), (50, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_heard_of_while_its_invoice_is_sealed_is_known() {
    let p = Payday::setup("stripe", Some(CardOutcome::Succeeds), &[]).await;
    p.t.sandbox.faults().next("invoice_payment.paid", Fault::WebhookHold);
    let p = p.begins().await;
    let (id, _) = p.invoice().await;
    let sealed = p.charge().await;
    let db = &p.t.app.store.db;
    db.run(both("delete from charge"), ()).await.unwrap();
    p.t.sandbox.release_held_webhooks();
    p.t.deliver().await;
    let mut tx = db.begin().await.unwrap();
    tx.lock_invoice(&id).await.unwrap();
    let reacting = reacts(&p).await;
    let new = NewCharge {
        id: &sealed.id,
        invoice_id: &id,
        customer_id: &p.ada.id,
        collection: "stripe",
        state: ChargeState::Paid,
        due_at: sealed.due_at,
        next_attempt_at: None,
        now: p.t.clock.now_ms(),
    };
    tx.insert_charge(&new).await.unwrap();
    tx.commit().await.unwrap();
    reacting.await.unwrap();
    assert!(p.charge().await.stripe_payment_id.is_some());
}

/// Another replica reacts to what has arrived, and has come as far as it can for now.
async fn reacts(p: &Payday) -> tokio::task::JoinHandle<usize> {
    let replica = p.t.replica();
    let reacting = tokio::spawn(async move { jobs::run_due(&replica).await.unwrap() });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    reacting
}

#[tokio::test]
async fn by_hand_an_invoice_is_paid_voided_and_written_off() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (id, _) = p.invoice().await;
    let by = By::operator();
    let asked = charge::pay(&p.t.app, &id, &by).await.unwrap();
    assert_eq!((asked.charge.state.as_str(), asked.charge.reason.as_deref()), ("failed", Some("declined")));
    let asked = charge::mark_uncollectible(&p.t.app, &id, &by).await.unwrap();
    assert_eq!(asked.charge.state, "uncollectible");
    p.to_the_end().await;
    // It may still be paid; that it fails leaves it written off.
    assert_eq!(charge::pay(&p.t.app, &id, &by).await.unwrap().charge.state, "uncollectible");
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    let asked = charge::pay(&p.t.app, &id, &by).await.unwrap();
    assert_eq!((asked.charge.state.as_str(), asked.invoice.state.as_str()), ("paid", "paid"));
    for refused in [charge::pay(&p.t.app, &id, &by).await, charge::void(&p.t.app, &id, &by).await] {
        assert!(matches!(refused, Err(ManualError::AlreadyPaid)), "{refused:?}");
    }
    assert!(p.t.incidents().await.is_empty());
}

#[tokio::test]
async fn by_hand_an_invoice_that_turns_out_to_be_paid_is_said_to_be_and_the_try_is_not_credited() {
    let by = By::operator();
    for try_is_lost in [false, true] {
        let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
        let (id, at_stripe) = p.invoice().await;
        p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
        p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
        if try_is_lost {
            p.t.sandbox.faults().next(PAY, Fault::LoseAnswer);
            let asked = charge::pay(&p.t.app, &id, &by).await.unwrap();
            assert_eq!(asked.charge.state, "in_progress");
        } else {
            drop(p.t.stripe("POST", &format!("/invoices/{at_stripe}/pay"), "").await)
        }
        let again = charge::pay(&p.t.app, &id, &by).await;
        assert!(matches!(again, Err(ManualError::AlreadyPaid)), "{again:?}");
        let last = if try_is_lost { "paid" } else { "overtaken" };
        assert_eq!(
            (p.state().await.as_str(), p.outcomes().await),
            ("paid", ["failed", last].map(str::to_owned).to_vec())
        );
    }
}

#[tokio::test]
async fn what_is_asked_for_by_hand_takes_a_place_as_well() {
    let t = company(3, "1", CardOutcome::Succeeds).await;
    t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
    t.sandbox.faults().often(PAY, Fault::LoseAnswer, 1_000);
    t.settle().await;
    let pending = in_state(&t, "pending").await;
    let (one, other) = (&pending[0].0, &pending[1].0);
    let by = By::operator();
    let (paid, voided) = tokio::join!(charge::pay(&t.app, one, &by), charge::void(&t.app, other, &by));
    assert!(
        matches!((&paid, &voided), (Err(ManualError::NoPlace), Err(ManualError::NoPlace))),
        "{paid:?}, {voided:?}"
    );
    assert_eq!((charges_in(&t, "in_progress").await, charges_in(&t, "pending").await), (1, 2));
    t.sandbox.faults().clear();
    t.pass(Duration::seconds(10));
    charge::charge(&t.app, &in_state(&t, "in_progress").await[0].0).await.unwrap();
    assert_eq!(charge::pay(&t.app, one, &by).await.unwrap().charge.state, "paid");
}

/// Invoices whose charge is in a state.
async fn in_state(t: &Tab, state: &str) -> Vec<(String,)> {
    let sql = both("select invoice_id from charge where state = $1 order by id");
    t.app.store.db.all(sql, (state,)).await.unwrap()
}

#[tokio::test]
async fn a_void_invoice_stays_billed_until_somebody_asks_to_bill_it_again() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (id, _) = p.invoice().await;
    let by = By::operator();
    assert!(matches!(charge::rebill(&p.t.app, &id, &by).await, Err(ManualError::InvalidState(_))));
    assert_eq!(charge::void(&p.t.app, &id, &by).await.unwrap().charge.state, "void");
    p.t.settle().await;
    assert!(p.t.incidents().await.is_empty(), "it was our own doing");
    assert_eq!(p.t.draft_total(&p.ada).await, 0);
    charge::rebill(&p.t.app, &id, &by).await.unwrap();
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 200);
    assert!(charge::rebill(&p.t.app, &id, &by).await.is_err(), "once");
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 200);
    p.t.in_step(&p.ada).await;
}

#[tokio::test]
async fn what_a_human_took_off_is_billed_again_only_when_asked_for() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    let stripe_id = p.t.current(&p.ada).await.stripe_invoice_id.unwrap();
    let (line, _) = p.t.lines_at_stripe(&p.ada).await.remove(0);
    p.t.stripe("POST", &format!("/invoices/{stripe_id}/lines/{line}"), "amount=120").await;
    p.t.stripe("POST", &format!("/invoices/{stripe_id}/finalize"), "").await;
    let p = p.begins().await;
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 0);
    charge::rebill(&p.t.app, &p.invoice().await.0, &By::operator()).await.unwrap();
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 80);
}

#[tokio::test]
async fn over_http_an_invoice_is_paid_once_and_only_with_a_key() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let server = Server::of(p.t.app.clone(), Limits::default()).await;
    let (id, _) = p.invoice().await;
    let pay = async |key: &str| {
        let header = format!("idempotency-key: {key}\r\ncontent-length: 0\r\n");
        server.raw(&server.head("POST", &format!("/v1/invoices/{id}/pay"), &header), b"").await
    };
    let failed = pay("k1").await;
    assert_eq!((failed.status, &failed.json()["status"]), (200, &json!("failed")), "{failed:?}");
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    assert_eq!(pay("k1").await.json()["status"], "failed", "the same key, the same answer");
    assert_eq!(pay("k2").await.json()["status"], "paid");
    let again = pay("k3").await;
    assert_eq!((again.status, again.slug().as_str()), (409, "already-paid"));
    let listed = server.get("/v1/charges?status=paid&month=2026-12").await.json();
    assert_eq!((&listed["data"][0]["invoice"], &listed["has_more"]), (&json!(id), &json!(false)));
    assert_eq!(server.get("/v1/charges?status=failed").await.json()["data"], json!([]));
    let charge = server.get(&format!("/v1/invoices/{id}/charge")).await.json();
    let outcomes: Vec<&Value> =
        charge["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["failed", "failed", "paid"]);
    p.paid_once("by hand").await;
}

#[tokio::test]
async fn over_http_a_charge_is_retried_written_off_voided_and_billed_again() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let server = Server::of(p.t.app.clone(), Limits::default()).await;
    let (id, _) = p.invoice().await;
    let asked = async |what: &str| {
        let reply = server.send("POST", &format!("/v1/invoices/{id}/{what}"), "").await;
        (reply.status, reply.json())
    };
    let (status, charge) = asked("retry").await;
    let now = json!(p.t.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    assert_eq!(
        (status, &charge["status"], &charge["next_attempt_at"]),
        (202, &json!("failed"), &now),
        "{charge}"
    );
    jobs::run_due(&p.t.app).await.unwrap();
    assert_eq!(p.attempts().await.len(), 2);
    let (status, charge) = asked("mark_uncollectible").await;
    assert_eq!((status, &charge["status"]), (200, &json!("uncollectible")), "{charge}");
    assert_eq!(asked("retry").await.0, 409, "nothing is tried by itself any more");
    assert_eq!(asked("rebill").await.0, 409, "it is not void");
    assert_eq!(asked("void").await.1["status"], "void");
    let (status, charge) = asked("rebill").await;
    assert_eq!(
        (status, &charge["status"], &charge["invoice"]),
        (200, &json!("void"), &json!(id)),
        "{charge}"
    );
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 200);
}

#[tokio::test]
async fn the_three_triggers_have_their_endpoints() {
    let p = Payday::with(CardOutcome::Succeeds).await;
    opentab::internals::workflows::sync::sync(&p.t.app, &p.ada.id).await.unwrap();
    let server = Server::of(p.t.app.clone(), Limits::default()).await;
    let run = async |what: Value| {
        let reply = server.post("/v1/charges/run", what).await;
        (reply.status, reply.json()["asked"].as_i64())
    };
    p.t.sandbox.faults().next(PAY, Fault::Refuse);
    assert_eq!(run(json!({ "what": "due" })).await, (202, Some(1)));
    p.next().await;
    p.next().await;
    assert_eq!(p.state().await, "failed: network");
    assert_eq!(run(json!({ "what": "failed", "reason": "declined" })).await, (202, Some(0)));
    assert_eq!(run(json!({ "what": "network", "month": "2026-12" })).await, (202, Some(1)));
    p.next().await;
    p.paid_once("all three").await;
    for wrong in [
        json!({ "what": "all" }),
        json!({ "what": "failed", "reason": "x" }),
        json!({ "what": "due", "month": "12" }),
        json!({ "what": "due", "month": "2026-12" }),
        json!({ "what": "network", "reason": "declined" }),
    ] {
        assert_eq!(server.post("/v1/charges/run", wrong).await.slug(), "validation-failed");
    }
}
