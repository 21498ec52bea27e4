//! Test clocks: their shape only; the sandbox's own clock is its owner's.

use super::router::Operation;

pub(super) const OPERATIONS: &[Operation] = &[];
