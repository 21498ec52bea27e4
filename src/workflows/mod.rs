//! One file per thing the service does. The only place where effects happen in order.

pub mod amounts;
pub mod ask;
pub mod billing_links;
pub mod billing_view;
pub mod by;
pub mod carry_out;
pub mod catalog;
pub mod charge;
pub mod close;
pub mod current;
pub mod customers;
pub mod drift;
pub mod email;
mod error;
pub mod fields;
pub mod generate;
pub mod imports;
pub mod ingest;
pub mod lease;
pub mod notice;
pub mod outgoing;
pub mod poll;
pub mod preview;
pub mod prune;
pub mod react;
pub mod read_back;
pub mod reads;
pub mod receive;
pub mod seal;
pub mod services;
pub mod silence;
pub mod statement;
pub mod sync;
pub mod tell;
mod unsure;

pub use error::WorkflowError;
