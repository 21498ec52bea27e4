//! Readers of what strangers send: usage events, CSV files, customer lists and signed links. Pure functions of bytes, the
//! time and what is known of customers and meters, so that a fuzzer can drive each of them alone.

pub mod csv;
pub mod customer_list;
pub mod fields;
pub mod link_token;
pub mod usage_event;
pub mod usage_file;
