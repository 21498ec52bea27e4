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
        if let Some(at) = draft.iter().position(|item| item == gone) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn wanted(key: &str, amount: i64) -> WantedItem {
        let start = DateTime::UNIX_EPOCH;
        WantedItem {
            key: key.to_owned(),
            amount,
            description: format!("line {key}"),
            period: (start, start + TimeDelta::days(30)),
        }
    }

    fn there(key: &str, amount: i64, id: &str) -> DraftItem {
        line(&wanted(key, amount), Some(id.to_owned()))
    }

    #[test]
    fn a_draft_in_step_needs_nothing() {
        let plan = reconcile(&[wanted("a", 1)], &[there("a", 1, "il_1")]);
        assert!(plan.is_empty());
        assert!(reconcile(&[], &[]).is_empty());
    }

    #[test]
    fn only_the_difference_is_in_the_plan() {
        let draft = [there("same", 1, "il_1"), there("old", 2, "il_2"), there("gone", 3, "il_3")];
        let plan = reconcile(&[wanted("new", 4), wanted("same", 1), wanted("old", 5)], &draft);
        assert_eq!(plan.remove, [there("gone", 3, "il_3")]);
        assert_eq!(plan.update, [(there("old", 2, "il_2"), wanted("old", 5))]);
        assert_eq!(plan.add, [wanted("new", 4)]);
    }

    #[test]
    fn another_text_or_period_is_a_difference_too() {
        let mut text = wanted("a", 1);
        text.description.push('!');
        let mut period = wanted("a", 1);
        period.period.1 += TimeDelta::days(1);
        for item in [text, period] {
            let plan = reconcile(&[item], &[there("a", 1, "il_1")]);
            assert_eq!(plan.update.len(), 1);
        }
    }

    #[test]
    fn a_line_that_is_there_twice_is_kept_once() {
        let draft = [there("a", 1, "il_1"), there("a", 1, "il_2")];
        let plan = reconcile(&[wanted("a", 1)], &draft);
        assert_eq!(plan.remove, [there("a", 1, "il_2")]);
        assert_eq!(apply(&plan, &draft), [there("a", 1, "il_1")]);
    }

    fn items() -> impl Strategy<Value = Vec<(u8, i64)>> {
        proptest::collection::vec((0u8..12, -2i64..3), 0..14)
    }

    proptest! {
        #[test]
        fn once_carried_out_nothing_is_left_to_do(want in items(), have in items()) {
            let want: Vec<_> = want.iter().map(|(k, a)| wanted(&format!("k{k}"), *a)).collect();
            let have: Vec<_> = have
                .iter()
                .enumerate()
                .map(|(n, (k, a))| there(&format!("k{k}"), *a, &format!("il_{}", n / 2)))
                .collect();
            let plan = reconcile(&want, &have);
            let after = apply(&plan, &have);
            prop_assert_eq!(reconcile(&want, &after), Plan::default());
            let keys: HashSet<&str> = after.iter().map(|item| item.key.as_str()).collect();
            prop_assert_eq!(keys.len(), after.len());
        }
    }
}
