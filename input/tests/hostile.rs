//! Hostile input: the fuzzer's targets on random bytes, on damaged examples, and on everything that ever broke one.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::TARGETS;

/// The files of a target in one of the folders, by name; none where it has no folder.
fn files(folder: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn target(name: &str) -> targets::Target {
    TARGETS.iter().find(|(target, _)| *target == name).unwrap().1
}

/// An input that broke something stays in `input/fuzz/found/`, where the fuzzer has put it.
#[test]
fn nothing_that_was_found_once_breaks_again() {
    for (name, target) in TARGETS {
        for (file, bytes) in files("found", name) {
            eprintln!("{name}/{file}");
            target(&bytes);
        }
    }
}

/// Damage to an example: some bytes replaced, one piece doubled or cut out.
fn damaged(mut bytes: Vec<u8>, changes: &[(Index, u8)], from: Index, to: Index, twice: bool) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    let (one, other) = (from.index(bytes.len()), to.index(bytes.len()));
    let (from, to) = (one.min(other), one.max(other));
    if twice { [&bytes[..to], &bytes[from..]].concat() } else { [&bytes[..from], &bytes[to..]].concat() }
}

fn try_target(name: &str, random: &[u8], which: Index, changes: &[(Index, u8)], cut: (Index, Index, bool)) {
    let target = target(name);
    target(random);
    let mut seeds = files("seeds", name);
    assert!(!seeds.is_empty(), "{name} has no example");
    let seed = seeds.swap_remove(which.index(seeds.len())).1;
    target(&damaged(seed, changes, cut.0, cut.1, cut.2));
}

macro_rules! holds_for_any_bytes {
    ($($test:ident: $target:literal,)+) => {
        /// Every target is tried below.
        const TRIED: &[&str] = &[$($target),+];

        proptest! {
            $(#[test]
            fn $test(
                random in vec(any::<u8>(), 0..200),
                which: Index,
                changes in vec((any::<Index>(), any::<u8>()), 0..4),
                cut: (Index, Index, bool),
            ) {
                try_target($target, &random, which, &changes, cut);
            })+
        }
    };
}

holds_for_any_bytes! {
    no_header_is_believed_unsigned: "signature",
    no_webhook_breaks_its_reader: "event",
    no_usage_breaks_its_reader: "usage",
    no_file_breaks_its_reader: "csv",
    decimals_are_exact: "decimal",
    money_never_wraps: "money",
    no_token_opens_what_it_was_not_signed_for: "link",
    cycles_tile_time: "cycle",
}

#[test]
fn every_target_is_tried() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TRIED);
}
