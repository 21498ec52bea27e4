//! Stripe behind one port: what to ask, how fast, and what an answer means. No SQL.

mod answers;
mod client;
mod pacing;
mod requests;
mod transport;

pub(crate) use answers::{
    CustomerAnswer, EventAnswer, InvoiceAnswer, InvoicePayment, LineAnswer, LinesPage, List, MoneyBack,
    ObjectAnswer, PaymentIntent, PendingItem,
};
pub use client::Stripe;
pub(crate) use client::{Observer, Refusal, StripeError};
pub use pacing::{Pacer, Rates};
pub(crate) use requests::{
    DraftLine, NewInvoice, account, add_lines, all_pending_items, create_customer, create_invoice,
    customers_since, delete_draft, delete_item, events, finalize, invoice, invoice_with_payments,
    invoices_in, invoices_of, lines, mark_uncollectible, pay, pending_items, remove_lines, send_invoice,
    sent_since, set_due_date, update_lines, void,
};
pub use requests::{Method, Write};
pub use transport::{HttpTransport, Request, Response, SendFuture, Transport};
