//! One file per thing the service does. The only place where effects happen in order.

pub mod by;
pub mod catalog;
pub mod customers;
pub mod ingest;
pub mod services;
