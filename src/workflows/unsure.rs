//! Unsure: what our own writes may have made of a draft, where no answer ever said.

use super::WorkflowError;
use crate::app::App;
use crate::store::{Effect, Item};

/// The effects of writes that were sent, or may have been, and never answered; the newest first.
pub(super) struct Unsure(Vec<Effect>);

impl Unsure {
    /// Of one invoice. As a rule there are none.
    pub async fn of(app: &App, invoice_id: &str) -> Result<Unsure, WorkflowError> {
        let intents = app.store.unsure_intents(invoice_id).await?;
        Ok(Unsure(intents.into_iter().map(|intent| intent.effect).collect()))
    }

    /// The item as we wrote it, where such a write explains that Stripe holds this amount under this key.
    pub fn item(&self, key: &str, amount: i64) -> Option<&Item> {
        let mut items = self.0.iter().flat_map(items_of);
        items.find(|item| item.item_key == key && item.amount == amount)
    }

    /// Whether such a write explains that Stripe no longer has this key.
    pub fn removed(&self, key: &str) -> bool {
        let removes = |effect: &Effect| match effect {
            Effect::RemoveLines { item_keys } => item_keys.iter().any(|removed| removed == key),
            _ => false,
        };
        self.0.iter().any(removes)
    }
}

fn items_of(effect: &Effect) -> &[Item] {
    match effect {
        Effect::AddLines { items } | Effect::UpdateLines { items } => items,
        _ => &[],
    }
}
