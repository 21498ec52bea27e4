//! Fuzz: libFuzzer on the target that `FUZZ_TARGET` names; `input/fuzz/run` builds and starts it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static CHOSEN: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET={name} is none of the targets")).1
});

fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
