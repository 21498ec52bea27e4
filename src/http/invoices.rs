//! Invoices over HTTP: ours, with what Stripe last said of them.

use axum::Json as Answer;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::billing::find_any;
use super::extract::{FromQuery, Pairs, Path, Query, expect_id, shown};
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::{Invoice, InvoiceFilter, Item, LedgerLine};
use crate::workflows::billing_view::Period;
use opentab_billing::InvoiceState;

/// An invoice of a customer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invoice)]
pub(crate) struct InvoiceView {
    #[schema(example = "ot_inv_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `invoice`.
    #[schema(example = "invoice")]
    pub object: &'static str,
    pub customer: String,
    /// None until Stripe has the draft.
    #[schema(example = "in_1MtHbELkdIwHu7ixl4OzzPMv")]
    pub stripe_invoice_id: Option<String>,
    /// `pending`, `draft`, `open`, `paid`, `uncollectible`, `void` or `deleted`.
    #[schema(example = "draft")]
    pub state: String,
    #[schema(example = "usd")]
    pub currency: String,
    #[schema(example = "charge_automatically")]
    pub collection_method: String,
    /// The first local day of the billing cycle that it closes.
    #[schema(example = "2026-11-01")]
    pub cycle: String,
    pub period: Period,
    pub number: Option<String>,
    /// What Stripe last said, in minor units, as are the amounts below.
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
    /// When a draft is finalized.
    pub(crate) closes_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    /// When a draft last showed everything that is owed.
    pub(crate) synced_at: Option<DateTime<Utc>>,
    pub finalized_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Of a draft what Stripe has acknowledged, of a sealed invoice what is in the ledger. Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<InvoiceLineView>>,
}

/// A line of an invoice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InvoiceLine)]
pub(crate) struct InvoiceLineView {
    /// The same for ever, over all invoices that it is ever on.
    #[schema(example = "2026-11-01/ot_svc_01JD3Z8V6Q/ot_prc_01JD3Z8V6Q")]
    pub item_key: String,
    pub description: String,
    /// What we put there, in minor units.
    pub amount: i64,
    /// What Stripe holds, once the invoice is sealed; other than `amount` where a human changed it.
    pub stripe_amount: Option<i64>,
    pub period: Period,
    pub stripe_line_id: Option<String>,
}

impl InvoiceView {
    fn new(invoice: Invoice, lines: Option<Vec<InvoiceLineView>>) -> InvoiceView {
        InvoiceView {
            id: invoice.id,
            object: "invoice",
            customer: invoice.customer_id,
            stripe_invoice_id: invoice.stripe_invoice_id,
            state: invoice.state,
            currency: invoice.currency,
            collection_method: invoice.collection_method,
            cycle: invoice.cycle,
            period: period(invoice.period_start, invoice.period_end),
            number: invoice.number,
            total: invoice.total,
            amount_due: invoice.amount_due,
            amount_paid: invoice.amount_paid,
            amount_remaining: invoice.amount_remaining,
            hosted_invoice_url: invoice.hosted_invoice_url,
            invoice_pdf: invoice.invoice_pdf,
            closes_at: from_ms(invoice.close_at),
            due_at: invoice.due_at.map(from_ms),
            synced_at: invoice.synced_at.map(from_ms),
            finalized_at: invoice.finalized_at.map(from_ms),
            created_at: from_ms(invoice.created_at),
            updated_at: from_ms(invoice.updated_at),
            lines,
        }
    }
}

impl From<Item> for InvoiceLineView {
    fn from(item: Item) -> InvoiceLineView {
        InvoiceLineView {
            item_key: item.item_key,
            description: item.description,
            amount: item.amount,
            stripe_amount: None,
            period: period(item.period_start, item.period_end),
            stripe_line_id: item.stripe_line_id,
        }
    }
}

impl From<LedgerLine> for InvoiceLineView {
    fn from(line: LedgerLine) -> InvoiceLineView {
        InvoiceLineView {
            item_key: line.item_key,
            description: line.description,
            amount: line.amount,
            stripe_amount: line.stripe_amount,
            period: period(line.period_start, line.period_end),
            stripe_line_id: line.stripe_line_id,
        }
    }
}

fn period(start: i64, end: i64) -> Period {
    Period { start: from_ms(start), end: from_ms(end) }
}

/// Which invoices.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InvoiceQuery {
    /// Only of this customer: `ot_cus_…`, or your own external id.
    #[param(value_type = Option<String>)]
    customer: String,
    /// Only in this state.
    #[param(value_type = Option<String>, example = "open")]
    state: String,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for InvoiceQuery {
    fn from_query(pairs: &mut Pairs) -> Result<InvoiceQuery, Problem> {
        let state = pairs.one("state")?.unwrap_or_default();
        if !state.is_empty() && state.parse::<InvoiceState>().is_err() {
            let states: Vec<&str> = InvoiceState::ALL.iter().map(|state| state.as_str()).collect();
            let detail = format!("must be one of {}", states.join(", "));
            return Err(Problem::invalid("state", "invalid_value", detail));
        }
        let customer = pairs.id("customer")?.unwrap_or_default();
        Ok(InvoiceQuery { customer, state, paging: Paging::from_query(pairs)? })
    }
}

/// List invoices
///
/// Newest first, without their lines.
#[utoipa::path(get, path = "/v1/invoices", tag = "Invoices", params(InvoiceQuery, Paging),
    responses((status = 200, body = List<InvoiceView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<InvoiceQuery>,
) -> Result<Answer<List<InvoiceView>>, Problem> {
    let page = query.paging.page(prefix::INVOICE)?;
    let customer_id =
        if query.customer.is_empty() { String::new() } else { find_any(&app, &query.customer).await?.id };
    let filter = InvoiceFilter { customer_id, state: query.state };
    let (rows, has_more) = app.store.invoices(&page, &filter).await?;
    let views = rows.into_iter().map(|invoice| InvoiceView::new(invoice, None)).collect();
    Ok(Answer(List::new("/v1/invoices", (views, has_more))))
}

/// Retrieve an invoice
#[utoipa::path(get, path = "/v1/invoices/{id}", tag = "Invoices",
    params(("id" = String, Path, description = "`ot_inv_…`")), responses((status = 200, body = InvoiceView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<InvoiceView>, Problem> {
    expect_id(&id, prefix::INVOICE)?;
    let missing = || Problem::not_found(format!("There is no invoice `{}`.", shown(&id)));
    let invoice = app.store.invoice(&id).await?.ok_or_else(missing)?;
    let lines = match invoice.sealed_at {
        Some(_) => app.store.ledger_lines(&id).await?.into_iter().map(InvoiceLineView::from).collect(),
        None => app.store.items(&id).await?.into_iter().map(InvoiceLineView::from).collect(),
    };
    Ok(Answer(InvoiceView::new(invoice, Some(lines))))
}
