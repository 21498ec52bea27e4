//! Lists: invoices by what came of their charges, and customers by how they stand.

use super::{When, money};
use crate::app::App;
use crate::store::{ChargeFilter, ChargeRow, CustomerFigures, CustomerSearch, Page};

/// One page of a list.
#[derive(Clone, Debug)]
pub(crate) struct Slice<T> {
    pub rows: Vec<T>,
    /// The id after which older rows begin; none where there are none.
    pub older: Option<String>,
    /// The id before which newer rows end.
    pub newer: Option<String>,
}

impl<T> Slice<T> {
    /// Of a page that the store has cut: `id` names a row.
    pub(super) fn new(page: &Page, (rows, has_more): (Vec<T>, bool), id: impl Fn(&T) -> String) -> Slice<T> {
        let backwards = !page.before.is_empty();
        let (more_older, more_newer) =
            if backwards { (true, has_more) } else { (has_more, !page.after.is_empty()) };
        let older = rows.last().map(&id).filter(|_| more_older);
        let newer = rows.first().map(&id).filter(|_| more_newer);
        Slice { rows, older, newer }
    }

    pub(super) fn map<U>(self, shown: impl Fn(T) -> U) -> Slice<U> {
        let Slice { rows, older, newer } = self;
        Slice { rows: rows.into_iter().map(shown).collect(), older, newer }
    }
}

/// A finalized invoice in a list.
#[derive(Clone, Debug)]
pub(crate) struct ChargeLine {
    pub invoice_id: String,
    pub name: String,
    pub customer_id: String,
    pub customer: String,
    pub state: String,
    pub reason: Option<String>,
    pub total: String,
    /// What is still open, where that is not the whole.
    pub open: Option<String>,
    pub due: When,
    pub next: Option<When>,
    /// Refunded or disputed, in a word or two.
    pub(crate) remark: Option<String>,
}

/// A customer in a list.
#[derive(Clone, Debug)]
pub(crate) struct CustomerLine {
    pub id: String,
    pub name: String,
    pub email: Option<String>,
    pub external_id: Option<String>,
    pub suspended: Option<When>,
    pub gone_at_stripe: bool,
    pub unpaid: i64,
    pub(crate) unpaid_amount: String,
}

/// Finalized invoices, the latest first.
pub(crate) async fn charges(
    app: &App,
    page: &Page,
    filter: &ChargeFilter,
) -> sqlx::Result<Slice<ChargeLine>> {
    let rows = app.store.charge_rows(page, filter).await?;
    Ok(Slice::new(page, rows, |row| row.id.clone()).map(|row| charge_line(app, row)))
}

fn charge_line(app: &App, row: ChargeRow) -> ChargeLine {
    let part = row.amount_remaining != row.total && row.amount_remaining > 0;
    let remark = match (&row.dispute, row.refunded_amount) {
        (Some(dispute), _) => Some(format!("disputed: {}", dispute.replace('_', " "))),
        (None, 1..) => Some(format!("{} refunded", money(&row.currency, row.refunded_amount))),
        (None, _) => None,
    };
    ChargeLine {
        name: row.number.unwrap_or_else(|| row.invoice_id.clone()),
        invoice_id: row.invoice_id,
        customer_id: row.customer_id,
        customer: row.customer_name,
        reason: row.reason.filter(|_| row.state == "failed"),
        state: row.state,
        total: money(&row.currency, row.total),
        open: part.then(|| money(&row.currency, row.amount_remaining)),
        due: When::of_ms(app, row.due_at),
        next: row.next_attempt_at.map(|at| When::of_ms(app, at)),
        remark,
    }
}

/// Customers, the latest first.
pub(crate) async fn customers(
    app: &App,
    page: &Page,
    search: &CustomerSearch,
) -> sqlx::Result<Slice<CustomerLine>> {
    let rows = app.store.customer_figures(page, search).await?;
    Ok(Slice::new(page, rows, |row| row.id.clone()).map(|row| customer_line(app, row)))
}

fn customer_line(app: &App, row: CustomerFigures) -> CustomerLine {
    CustomerLine {
        id: row.id,
        name: row.name,
        email: row.email,
        external_id: row.external_id,
        suspended: row.suspended_at.map(|at| When::of_ms(app, at)),
        gone_at_stripe: row.state == "gone_at_stripe",
        unpaid: row.unpaid,
        unpaid_amount: money(&row.currency, row.unpaid_amount),
    }
}
