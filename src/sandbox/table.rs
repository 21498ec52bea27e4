//! Tables: rows by id, in the order in which they were made.

use std::collections::HashMap;

/// Rows of one kind of object.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: HashMap<String, T>,
    order: Vec<String>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), order: Vec::new() }
    }
}

impl<T> Table<T> {
    pub fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(id)
    }

    pub fn insert(&mut self, id: &str, row: T) {
        if self.rows.insert(id.to_owned(), row).is_none() {
            self.order.push(id.to_owned());
        }
    }

    pub fn remove(&mut self, id: &str) -> Option<T> {
        let row = self.rows.remove(id)?;
        // What is removed is mostly young: look from the end.
        if let Some(position) = self.order.iter().rposition(|known| known == id) {
            self.order.remove(position);
        }
        Some(row)
    }

    /// Newest first, as every list of Stripe's.
    pub fn newest_first(&self) -> impl Iterator<Item = (&str, &T)> {
        self.order.iter().rev().filter_map(|id| Some((id.as_str(), self.rows.get(id)?)))
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Drops the rows, oldest first, for as long as `expired` says so.
    pub fn prune(&mut self, expired: impl Fn(&T) -> bool) {
        let count = self.order.iter().take_while(|id| self.rows.get(*id).is_some_and(&expired)).count();
        for id in self.order.drain(..count) {
            self.rows.remove(&id);
        }
    }
}
