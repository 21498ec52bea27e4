//! Verify a Stripe webhook signature and read the event. Pure: no I/O, and `now` is an argument.
//!
//! The order matters: [`verify`] the raw bytes of the body first, and [`read`] them after.
//!
//! ```
//! use opentab_webhooks::{Secrets, read, sign, verify};
//!
//! let body = br#"{"id":"evt_1","object":"event","type":"invoice.paid","created":1790000000,"livemode":false,
//!                 "data":{"object":{"id":"in_1","object":"invoice","customer":"cus_1"}}}"#;
//! let header = sign(body, "whsec_example", 1_790_000_000);
//! let secrets = Secrets::parse("whsec_example, whsec_the_one_before").unwrap();
//!
//! verify(body, Some(&header), &secrets, 1_790_000_012).unwrap();
//! assert_eq!(read(body).unwrap().customer.as_deref(), Some("cus_1"));
//! ```

#![forbid(unsafe_code)]

mod event;
mod signature;

pub use event::{Event, EventError, read};
pub use signature::{BadSecret, Secrets, SignatureError, TOLERANCE_SECONDS, sign, verify};
