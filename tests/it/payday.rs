//! Payday: a customer with one finalized invoice that is to be paid, and the days that follow. One line for tests.

use chrono::Duration;
use opentab::internals::clock::from_ms;
use opentab::internals::jobs;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Attempt, Charge, both};
use opentab_sandbox::CardOutcome;

use crate::tab::{Setup, Tab, fresh_store};

/// One invoice over 2.00 dollars, finalized in the first hour of December.
pub(crate) struct Payday {
    pub t: Tab,
    pub ada: Customer,
    /// Of the payment method on file.
    pub card: String,
}

impl Payday {
    /// Opentab collects, from a card that does this.
    pub(crate) async fn with(card: CardOutcome) -> Payday {
        Payday::setup("opentab", Some(card), &[]).await
    }

    pub(crate) async fn setup(
        collection: &'static str,
        card: Option<CardOutcome>,
        more: &[(&'static str, &'static str)],
    ) -> Payday {
        Payday::on(fresh_store().await, collection, card, more).await
    }

    pub(crate) async fn on(
        store: opentab::internals::store::Store,
        collection: &'static str,
        card: Option<CardOutcome>,
        more: &[(&'static str, &'static str)],
    ) -> Payday {
        let mut settings = vec![("OPENTAB_COLLECTION", collection)];
        settings.extend(more);
        let t = Tab::on(store, Setup { settings, ..Setup::default() }).await;
        let ada = t.customer("Ada").await;
        t.sells(&ada, "calls", "2").await;
        t.uses(&ada, "calls", 100, "k1").await;
        t.settle().await;
        let mut payday = Payday { t, ada, card: String::new() };
        if let Some(outcome) = card {
            payday.card = payday.gets_a_card(outcome).await;
        }
        payday.t.at("2026-12-01T01:00:00Z");
        payday
    }

    pub(crate) async fn stripe_customer(&self) -> String {
        self.t.app.store.customer(&self.ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap()
    }

    /// A card on file, which does this from now on. Answers its id.
    pub(crate) async fn gets_a_card(&self, outcome: CardOutcome) -> String {
        let customer = self.stripe_customer().await;
        let body = format!("customer={customer}");
        let card = self.t.stripe("POST", "/payment_methods/pm_card_visa/attach", &body).await;
        let card = card["id"].as_str().unwrap().to_owned();
        let body = format!("invoice_settings[default_payment_method]={card}");
        self.t.stripe("POST", &format!("/customers/{customer}"), &body).await;
        self.t.sandbox.card_will(&card, outcome);
        card
    }

    /// Finalizes, and does what is due at once.
    pub(crate) async fn begins(self) -> Payday {
        self.t.settle().await;
        self
    }

    /// Our id of the invoice, and Stripe's.
    pub(crate) async fn invoice(&self) -> (String, String) {
        let sealed = self.t.sealed(&self.ada).await.remove(0);
        (sealed.id, sealed.stripe_invoice_id.unwrap())
    }

    pub(crate) async fn charge(&self) -> Charge {
        let (id, _) = self.invoice().await;
        self.t.app.store.charge(&id).await.unwrap().unwrap()
    }

    /// The state, with the reason of a failure.
    pub(crate) async fn state(&self) -> String {
        let charge = self.charge().await;
        match (charge.state.as_str(), charge.reason) {
            ("failed", Some(reason)) => format!("failed: {reason}"),
            (state, _) => state.to_owned(),
        }
    }

    pub(crate) async fn attempts(&self) -> Vec<Attempt> {
        self.t.app.store.attempts(&self.invoice().await.0).await.unwrap()
    }

    pub(crate) async fn outcomes(&self) -> Vec<String> {
        let outcome = |attempt: Attempt| attempt.outcome.unwrap_or_else(|| "?".to_owned());
        self.attempts().await.into_iter().map(outcome).collect()
    }

    /// When the charge goes on by itself.
    pub(crate) async fn goes_on_at(&self) -> Option<i64> {
        let sql = both("select min(run_at) from job where kind = 'charge' and state = 'queued'");
        let (at,): (Option<i64>,) = self.t.app.store.db.one(sql, ()).await.unwrap();
        at
    }

    /// Lets time pass until the charge goes on, and does what is due then. None where it rests.
    pub(crate) async fn next(&self) -> Option<Duration> {
        let at = from_ms(self.goes_on_at().await?);
        let waited = at - self.t.clock.now();
        if waited > Duration::zero() {
            self.t.clock.move_to(at);
        }
        jobs::run_due(&self.t.app).await.unwrap();
        while self.t.deliver().await > 0 {
            jobs::run_due(&self.t.app).await.unwrap();
        }
        Some(waited)
    }

    /// Goes on until the charge rests.
    pub(crate) async fn to_the_end(&self) {
        for _ in 0..200 {
            if self.next().await.is_none() {
                return;
            }
        }
        panic!("it never rests: {:?}", self.charge().await);
    }

    /// Paid once at Stripe and here, with nothing left under way.
    pub(crate) async fn paid_once(&self, story: &str) {
        let (_, stripe_id) = self.invoice().await;
        let at_stripe = self.t.stripe("GET", &format!("/invoices/{stripe_id}"), "").await;
        assert_eq!(at_stripe["status"], "paid", "{story}: {:?}", self.charge().await);
        assert_eq!(at_stripe["amount_paid"], 200, "{story}");
        let payments = self.t.all("/events?type=invoice_payment.paid&limit=100").await;
        // Two events may tell of one payment.
        let times: std::collections::BTreeSet<String> =
            payments.iter().map(|event| event["data"].to_string()).collect();
        assert_eq!(times.len(), 1, "{story}: paid more than once");
        assert_eq!(self.state().await, "paid", "{story}");
        let outcomes = self.outcomes().await;
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "paid").count(), 1, "{story}: {outcomes:?}");
        assert!(!outcomes.contains(&"?".to_owned()), "{story}: {outcomes:?}");
    }
}
