//! Tables: rows by id, in the order in which they were made.

use std::collections::{BTreeMap, HashMap};

/// Rows of one kind of object.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: HashMap<String, (u64, T)>,
    order: BTreeMap<u64, String>,
    made: u64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), order: BTreeMap::new(), made: 0 }
    }
}

impl<T> Table<T> {
    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id).map(|(_, row)| row)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(id).map(|(_, row)| row)
    }

    /// Adds a row, or replaces it in its place.
    pub(crate) fn insert(&mut self, id: &str, row: T) {
        if let Some(known) = self.get_mut(id) {
            *known = row;
            return;
        }
        self.made += 1;
        self.rows.insert(id.to_owned(), (self.made, row));
        self.order.insert(self.made, id.to_owned());
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<T> {
        let (made, row) = self.rows.remove(id)?;
        self.order.remove(&made);
        Some(row)
    }

    /// Removes every row.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.order.clear();
    }

    /// Newest first, as every list of Stripe's.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (&str, &T)> {
        self.order.values().rev().filter_map(|id| Some((id.as_str(), self.get(id)?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Drops the rows, oldest first, for as long as `expired` says so.
    pub(crate) fn prune(&mut self, expired: impl Fn(&T) -> bool) {
        while let Some((made, id)) = self.order.first_key_value() {
            if !self.get(id).is_none_or(&expired) {
                break;
            }
            let (made, id) = (*made, id.clone());
            self.order.remove(&made);
            self.rows.remove(&id);
        }
    }
}
