//! Event: no body makes reading panic, and what is read fits a database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opentab_webhooks::{InvoiceSnapshot, invoice, read};

fuzz_target!(|body: &[u8]| {
    let Ok(event) = read(body) else { return };
    assert!(!event.id.contains('\0') && !event.kind.contains('\0'));
    assert!((0..=253_402_300_799).contains(&event.created));
    let Ok(snapshot) = invoice(&event) else { return };
    let stored = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<InvoiceSnapshot>(&stored).unwrap(), snapshot);
});
