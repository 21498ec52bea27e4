//! Reconcile: the difference between what a draft should hold and what it is known to hold.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

/// A line that should be on the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedItem {
    /// The item key, the same for ever.
    pub key: String,
    /// Minor units of the invoice's currency; may be negative.
    pub amount: i64,
    /// What the line says.
    pub description: String,
    /// Half-open, what the line is for.
    pub period: (DateTime<Utc>, DateTime<Utc>),
}

/// A line that Stripe has acknowledged to be on the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftItem {
    /// The item key, from the line's metadata.
    pub key: String,
    /// Minor units of the invoice's currency; may be negative.
    pub amount: i64,
    /// What the line says.
    pub description: String,
    /// Half-open, what the line is for.
    pub period: (DateTime<Utc>, DateTime<Utc>),
    /// Stripe's `il_` id; none until it has been read.
    pub stripe_line_id: Option<String>,
}

/// What turns the one into the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Lines to take off the draft, in the draft's order.
    pub remove: Vec<DraftItem>,
    /// Lines to change, with what they become, in the wanted order.
    pub update: Vec<(DraftItem, WantedItem)>,
    /// Lines to put on the draft, in the wanted order.
    pub add: Vec<WantedItem>,
}

impl Plan {
    /// Whether the draft is as it should be.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.update.is_empty() && self.add.is_empty()
    }
}

impl DraftItem {
    /// Whether it says what the wanted item says.
    fn shows(&self, wanted: &WantedItem) -> bool {
        self.amount == wanted.amount && self.description == wanted.description && self.period == wanted.period
    }
}

/// The least that makes the draft hold the wanted items, each once.
///
/// A second line with the same key on the draft is removed, whatever it says. Of two wanted items with one key the first counts.
pub fn reconcile(wanted: &[WantedItem], on_draft: &[DraftItem]) -> Plan {
    let mut plan = Plan::default();
    let wanted_keys: HashSet<&str> = wanted.iter().map(|item| item.key.as_str()).collect();
    let mut there: HashMap<&str, &DraftItem> = HashMap::new();
    for item in on_draft {
        let key = item.key.as_str();
        if !wanted_keys.contains(key) || there.contains_key(key) {
            plan.remove.push(item.clone());
        } else {
            there.insert(key, item);
        }
    }
    let mut seen = HashSet::new();
    for item in wanted.iter().filter(|item| seen.insert(item.key.as_str())) {
        match there.get(item.key.as_str()) {
            None => plan.add.push(item.clone()),
            Some(current) if current.shows(item) => {}
            Some(current) => plan.update.push(((*current).clone(), item.clone())),
        }
    }
    plan
}

/// What the draft holds once a plan has been carried out; new lines come last and have no Stripe id yet.
pub fn apply(plan: &Plan, on_draft: &[DraftItem]) -> Vec<DraftItem> {
    let mut draft = on_draft.to_vec();
    for (before, after) in &plan.update {
        if let Some(item) = draft.iter_mut().find(|item| *item == before) {
            *item = line(after, before.stripe_line_id.clone());
        }
    }
    for gone in &plan.remove {
        // From the end: of two equal lines the first is the one that stays.
        if let Some(at) = draft.iter().rposition(|item| item == gone) {
            draft.remove(at);
        }
    }
    draft.extend(plan.add.iter().map(|item| line(item, None)));
    draft
}

fn line(wanted: &WantedItem, stripe_line_id: Option<String>) -> DraftItem {
    DraftItem {
        key: wanted.key.clone(),
        amount: wanted.amount,
        description: wanted.description.clone(),
        period: wanted.period,
        stripe_line_id,
    }
}
