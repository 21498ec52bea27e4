//! Router: which operation a method and a path are, and what it takes.

use super::errors::Answer;
use super::params::{EXPAND, Param, Params};
use super::state::State;
use super::{
    account, customers, events, invoice_items, invoices, lines, payments, products, search, webhook_endpoints,
};

/// A request that has passed every check.
#[derive(Debug)]
pub(super) struct Asked {
    pub path: Vec<String>,
    pub params: Params,
}

impl Asked {
    /// The first id in the path.
    pub(crate) fn id(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// The second id in the path.
    pub(crate) fn nested_id(&self) -> &str {
        self.path.get(1).map_or("", String::as_str)
    }
}

/// One operation of Stripe's API.
pub(super) struct Operation {
    pub method: &'static str,
    /// The path as Stripe's specification writes it.
    pub template: &'static str,
    pub params: &'static [Param],
    pub run: fn(&mut State, &Asked) -> Answer,
}

pub(super) type Run = fn(&mut State, &Asked) -> Answer;

pub(super) const fn get(template: &'static str, params: &'static [Param], run: Run) -> Operation {
    Operation { method: "GET", template, params, run }
}

pub(super) const fn post(template: &'static str, params: &'static [Param], run: Run) -> Operation {
    Operation { method: "POST", template, params, run }
}

pub(super) const fn delete(template: &'static str, run: Run) -> Operation {
    Operation { method: "DELETE", template, params: &[EXPAND], run }
}

const FAMILIES: &[&[Operation]] = &[
    account::OPERATIONS,
    // Before the invoices, of which `search` would be an id.
    search::OPERATIONS,
    customers::OPERATIONS,
    events::OPERATIONS,
    invoice_items::OPERATIONS,
    invoices::OPERATIONS,
    lines::OPERATIONS,
    payments::OPERATIONS,
    products::OPERATIONS,
    webhook_endpoints::OPERATIONS,
];

/// The operation of `method` and `path`, with the ids in the path.
pub(super) fn find(method: &str, path: &str) -> Option<(&'static Operation, Vec<String>)> {
    let operations = FAMILIES.iter().flat_map(|family| family.iter());
    operations
        .filter(|operation| operation.method == method)
        .find_map(|operation| Some((operation, ids(operation.template, path)?)))
}

fn ids(template: &str, path: &str) -> Option<Vec<String>> {
    let (mut parts, mut ids) = (path.split('/'), Vec::new());
    for expected in template.split('/') {
        let part = parts.next()?;
        if expected.starts_with('{') && !part.is_empty() {
            ids.push(part.to_owned());
        } else if expected != part {
            return None;
        }
    }
    if parts.next().is_none() { Some(ids) } else { None }
}
