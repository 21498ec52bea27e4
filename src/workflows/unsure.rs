//! Unsure: what our own writes may have made of a draft, where no answer ever said.

use super::carry_out::what;
use super::lease::begin_as_writer;
use super::{WorkflowError, notice};
use crate::app::App;
use crate::store::{Effect, Intent, Invoice, Item, Lease, Tx};

/// A write that nobody knows the end of after so long is shown to a human, though it is asked for again and again.
const SHOWN_AFTER_MS: i64 = 15 * 60_000;
const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// The effects of writes that were sent, or may have been, and never answered; the newest first.
pub(super) struct Unsure(Vec<Effect>);

impl Unsure {
    /// Of one invoice. As a rule there are none.
    pub(super) async fn of(app: &App, invoice_id: &str) -> Result<Unsure, WorkflowError> {
        let intents = app.store.unsure_intents(invoice_id).await?;
        Ok(Unsure(intents.into_iter().map(|intent| intent.effect).collect()))
    }

    /// The item as we wrote it, where such a write explains that Stripe holds this amount under this key.
    pub(super) fn item(&self, key: &str, amount: i64) -> Option<&Item> {
        let mut items = self.0.iter().flat_map(items_of);
        items.find(|item| item.item_key == key && item.amount == amount)
    }

    /// Whether such a write explains that Stripe no longer has this key.
    pub(super) fn removed(&self, key: &str) -> bool {
        let removes = |effect: &Effect| match effect {
            Effect::RemoveLines { item_keys } => item_keys.iter().any(|removed| removed == key),
            _ => false,
        };
        self.0.iter().any(removes)
    }
}

/// What nobody knows, and since when, in unix milliseconds.
pub(super) struct Unknown<'a> {
    pub customer_id: &'a str,
    pub since: i64,
    pub what: &'a str,
}

impl<'a> Unknown<'a> {
    /// How a write ended.
    pub(super) fn end_of(intent: &'a Intent) -> Unknown<'a> {
        Unknown { customer_id: &intent.customer_id, since: intent.created_at, what: what(&intent.effect) }
    }

    /// What a draft holds.
    pub(super) fn draft(invoice: &'a Invoice) -> Unknown<'a> {
        Unknown { customer_id: &invoice.customer_id, since: invoice.updated_at, what: "read the draft" }
    }

    /// Passes on what came of the last attempt to learn it. Where that has failed for long a human is told, and told
    /// again when it is over.
    pub(super) async fn after<T>(
        self,
        app: &App,
        lease: &Lease,
        outcome: Result<T, WorkflowError>,
    ) -> Result<T, WorkflowError> {
        if app.clock.now_ms() - self.since >= SHOWN_AFTER_MS {
            let mut tx = begin_as_writer(app, lease).await?;
            match &outcome {
                Ok(_) => tx.resolve_incident(OUTCOME_UNKNOWN, self.customer_id, app.clock.now_ms()).await?,
                Err(error) => self.tell(app, &mut tx, error).await?,
            }
            tx.commit().await?;
        }
        outcome
    }

    async fn tell(&self, app: &App, tx: &mut Tx, error: &WorkflowError) -> Result<(), WorkflowError> {
        let message = format!(
            "Nobody knows what Stripe holds for this customer: {} ({error}). It is asked again every minute, and nothing \
             else is written before.",
            self.what
        );
        notice::report(app, tx, OUTCOME_UNKNOWN, self.customer_id, &message).await
    }
}

fn items_of(effect: &Effect) -> &[Item] {
    match effect {
        Effect::AddLines { items } | Effect::UpdateLines { items } => items,
        _ => &[],
    }
}
