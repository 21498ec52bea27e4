//! Trace: what happened, in order, so that two runs of a seed can be compared and one can be read.

use sha2::{Digest, Sha256};

/// A history as it goes along.
#[derive(Clone, Debug, Default)]
pub enum Trace {
    /// Nobody asks.
    #[default]
    Off,
    /// Only whether two histories are the same.
    Hash(Box<Sha256>, u64),
    /// Told while it happens.
    Print,
}

impl Trace {
    /// Notes a line, whose text is made only if it is needed.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        match self {
            Trace::Off => {}
            Trace::Hash(hash, lines) => {
                hash.update(text().as_bytes());
                hash.update(b"\n");
                *lines += 1;
            }
            Trace::Print => println!("{}", text()),
        }
    }

    /// The hash of everything noted so far, and how many lines that were.
    pub fn digest(&self) -> Option<(String, u64)> {
        match self {
            Trace::Hash(hash, lines) => Some((hex::encode(hash.clone().finalize()), *lines)),
            _ => None,
        }
    }
}
