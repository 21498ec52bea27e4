//! Stripe behind one port: what to ask, how fast, and what an answer means. No SQL.

mod answers;
mod client;
mod pacing;
mod requests;
mod transport;

pub use answers::{
    CustomerAnswer, EventAnswer, InvoiceAnswer, LineAnswer, LinesPage, List, ObjectAnswer, PendingItem,
};
pub use client::{Observer, Refusal, Stripe, StripeError};
pub use pacing::{Pacer, Rates};
pub use requests::{
    DraftLine, Method, NewInvoice, Write, account, add_lines, all_pending_items, create_customer,
    create_invoice, customers_since, delete_draft, delete_item, events, finalize, invoice, invoices_in,
    invoices_of, lines, pending_items, remove_lines, set_due_date, update_lines,
};
pub use transport::{HttpTransport, Request, Response, SendFuture, Transport};
