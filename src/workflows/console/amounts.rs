//! A month's amounts from outside on the console: which are not known and why, and of which a later answer differs.

use super::lists::Slice;
use super::{When, money};
use crate::app::App;
use crate::store::{AmountFilter, LookedUpAmount, Page};

/// An amount in a list.
#[derive(Clone, Debug)]
pub(crate) struct AmountLine {
    pub id: String,
    pub customer_id: String,
    pub customer: String,
    pub cycle: String,
    /// Which API.
    pub lookup: String,
    pub state: String,
    pub amount: Option<String>,
    /// A later answer that differs.
    pub other: Option<String>,
    /// The same in minor units.
    pub(crate) other_minor_units: Option<i64>,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub attempts: i64,
    pub when: When,
}

/// A page of amounts, and how many of the month there are.
#[derive(Clone, Debug)]
pub(crate) struct AmountSheet {
    pub rows: Slice<AmountLine>,
    pub asking: i64,
    pub missing: i64,
    pub known: i64,
    pub(crate) differing: i64,
}

/// A page of amounts, the latest first.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn amounts(app: &App, page: &Page, filter: &AmountFilter) -> sqlx::Result<AmountSheet> {
    let found = app.store.looked_up_amounts(page, filter).await?;
    let Slice { rows, older, newer } = Slice::new(page, found, |amount| amount.id.clone());
    let mut lines = Vec::with_capacity(rows.len());
    for amount in rows {
        lines.push(line(app, amount).await?);
    }
    let counts = app.store.amount_counts(&filter.month).await?;
    let count = |state: &str| counts.iter().find(|(of, _)| of == state).map_or(0, |(_, count)| *count);
    Ok(AmountSheet {
        rows: Slice { rows: lines, older, newer },
        asking: count("asking"),
        missing: count("missing"),
        known: count("known"),
        differing: app.store.differing_amounts(&filter.month).await?,
    })
}

/// One amount; none where there is none.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn amount(app: &App, id: &str) -> sqlx::Result<Option<AmountLine>> {
    match app.store.looked_up_amount(id).await? {
        Some(amount) => line(app, amount).await.map(Some),
        None => Ok(None),
    }
}

async fn line(app: &App, amount: LookedUpAmount) -> sqlx::Result<AmountLine> {
    let customer = app.store.customer(&amount.customer_id).await?;
    let currency = customer.as_ref().map_or("", |customer| customer.currency.as_str());
    Ok(AmountLine {
        amount: amount.amount.map(|minor_units| money(currency, minor_units)),
        other: amount.other_amount.map(|minor_units| money(currency, minor_units)),
        other_minor_units: amount.other_amount,
        customer: customer.as_ref().map_or_else(String::new, |customer| customer.name.clone()),
        id: amount.id,
        customer_id: amount.customer_id,
        cycle: amount.cycle,
        lookup: amount.lookup,
        state: amount.state,
        reason: amount.reason,
        detail: amount.detail,
        attempts: amount.attempts,
        when: When::of_ms(app, amount.updated_at),
    })
}
