//! Search: invoices found by their fields, some time after they have changed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::errors::{Answer, ApiError};
use super::fault::Fault;
use super::params::{EXPAND, Kind, Param, optional, required};
use super::router::{Asked, Operation, get};
use super::state::State;

/// What changed within this time does not show yet; as a rule it takes less than a minute, and up to an hour.
const LAG_S: i64 = 60;
const LONGEST_LAG_S: i64 = 3600;

const SEARCH: &[Param] = &[
    EXPAND,
    optional("limit", Kind::Integer),
    optional("page", Kind::Id),
    required("query", Kind::Text(5000)),
];

pub(super) const OPERATIONS: &[Operation] = &[get("/v1/invoices/search", SEARCH, search)];

/// One condition of a query, such as `status:"draft"` or `metadata["key"]:"value"`.
struct Clause {
    field: String,
    value: String,
}

impl Clause {
    fn holds(&self, invoice: &Value) -> bool {
        let held = match self.field.strip_prefix("metadata[\"").and_then(|rest| rest.strip_suffix("\"]")) {
            Some(key) => &invoice["metadata"][key],
            None => &invoice[self.field.as_str()],
        };
        match held {
            Value::String(text) => *text == self.value,
            Value::Number(number) => number.to_string() == self.value,
            _ => false,
        }
    }
}

/// Conditions joined by AND, each an equality: what the sandbox plays of the query language.
fn clauses(query: &str) -> Result<Vec<Clause>, ApiError> {
    let clause = |text: &str| {
        let (field, value) = text.trim().rsplit_once(':')?;
        let value = value.trim_matches(['"', '\'']).to_owned();
        let field = field.replace('\'', "\"");
        let known = field.starts_with("metadata[")
            || ["created", "currency", "customer", "number", "status", "total"].contains(&field.as_str());
        known.then_some(Clause { field, value })
    };
    let clauses: Option<Vec<Clause>> = query.split(" AND ").map(clause).collect();
    clauses.ok_or_else(|| {
        ApiError::invalid(
            "We were unable to parse your search query: the sandbox plays `field:\"value\"` with AND.",
        )
        .param("query")
    })
}

fn search(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let clauses = clauses(params.text("query").unwrap_or_default())?;
    let lag = if state.fault == Some(Fault::StaleSearch) { LONGEST_LAG_S } else { LAG_S };
    let shown = invoices_as_of(state, state.now() - lag);
    let found = shown.into_iter().filter(|invoice| clauses.iter().all(|clause| clause.holds(invoice)));
    let limit = usize::try_from(params.integer("limit").unwrap_or(10).clamp(1, 100)).unwrap_or(10);
    let skip: usize = params.text("page").and_then(|page| page.parse().ok()).unwrap_or(0);
    let mut data: Vec<Value> = found.skip(skip).take(limit + 1).collect();
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_page = has_more.then(|| (skip + limit).to_string());
    let mut page = json!({
        "object": "search_result", "url": "/v1/invoices/search", "has_more": has_more, "next_page": next_page,
    });
    page["data"] = Value::Array(data);
    Ok(page)
}

/// Every invoice as its last event until `as_of` (Unix seconds) showed it, newest event first.
fn invoices_as_of(state: &State, as_of: i64) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut shown = Vec::new();
    for (_, event) in state.events.newest_first() {
        if !event.kind.starts_with("invoice.") || event.created > as_of || !seen.insert(event.object_id()) {
            continue;
        }
        if event.kind != "invoice.deleted" {
            shown.push(event.object());
        }
    }
    shown
}
