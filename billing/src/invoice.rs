//! Invoice: the states of an invoice, and that they only move forward.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where an invoice is in its life. Stripe's states, and two of ours at the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceState {
    /// Ours only: Stripe does not have it yet.
    Pending,
    /// May still be changed.
    Draft,
    /// Finalized and to be paid.
    Open,
    /// Nobody expects it to be paid any more, though it may be.
    Uncollectible,
    /// Settled.
    Paid,
    /// Cancelled after it was finalized.
    Void,
    /// A draft that is gone.
    Deleted,
}

/// The text names no state of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a state of an invoice")]
pub struct UnknownState(pub String);

use InvoiceState::{Deleted, Draft, Open, Paid, Pending, Uncollectible, Void};

impl InvoiceState {
    /// All seven, in the order of a life.
    pub const ALL: [InvoiceState; 7] = [Pending, Draft, Open, Uncollectible, Paid, Void, Deleted];

    /// How far along it is. States of one rank exclude each other.
    pub fn rank(self) -> u8 {
        match self {
            Pending => 0,
            Draft => 1,
            Open => 2,
            Uncollectible => 3,
            Paid | Void | Deleted => 4,
        }
    }

    /// Whether one step leads from here to `next`.
    pub fn can_become(self, next: InvoiceState) -> bool {
        matches!(
            (self, next),
            (Pending, Draft | Deleted)
                | (Draft, Open | Paid | Deleted)
                | (Open, Paid | Void | Uncollectible)
                | (Uncollectible, Paid | Void)
        )
    }

    /// The state after `seen` was observed at Stripe; none where that changes nothing.
    ///
    /// Observations come late, again and out of order, so one may skip states (`void` seen while we still have a draft), and an
    /// older one or one that no path leads to is without effect.
    pub fn advance(self, seen: InvoiceState) -> Option<InvoiceState> {
        self.leads_to(seen).then_some(seen)
    }

    /// Whether it is the invoice that still collects what a customer owes.
    pub fn is_current(self) -> bool {
        matches!(self, Pending | Draft)
    }

    /// As Stripe and our tables write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Pending => "pending",
            Draft => "draft",
            Open => "open",
            Uncollectible => "uncollectible",
            Paid => "paid",
            Void => "void",
            Deleted => "deleted",
        }
    }

    // Every step raises the rank, so this ends.
    fn leads_to(self, seen: InvoiceState) -> bool {
        let steps = |next: &InvoiceState| self.can_become(*next);
        Self::ALL.into_iter().filter(steps).any(|next| next == seen || next.leads_to(seen))
    }
}

impl fmt::Display for InvoiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for InvoiceState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<InvoiceState, UnknownState> {
        let named = |state: &InvoiceState| state.as_str() == text;
        let unknown = || UnknownState(text.chars().take(32).collect());
        Self::ALL.into_iter().find(named).ok_or_else(unknown)
    }
}

/// How an invoice is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectionMethod {
    /// Stripe charges the payment method on file.
    ChargeAutomatically,
    /// Stripe sends the invoice, and the customer pays it until it is due.
    SendInvoice,
}

impl CollectionMethod {
    /// As Stripe and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            CollectionMethod::ChargeAutomatically => "charge_automatically",
            CollectionMethod::SendInvoice => "send_invoice",
        }
    }
}

impl FromStr for CollectionMethod {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "charge_automatically" => Ok(CollectionMethod::ChargeAutomatically),
            "send_invoice" => Ok(CollectionMethod::SendInvoice),
            other => Err(format!("no such collection method: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_move_only_along_the_drawn_graph() {
        let drawn = [
            (Pending, vec![Draft, Deleted]),
            (Draft, vec![Open, Paid, Deleted]),
            (Open, vec![Uncollectible, Paid, Void]),
            (Uncollectible, vec![Paid, Void]),
            (Paid, vec![]),
            (Void, vec![]),
            (Deleted, vec![]),
        ];
        for (state, next) in drawn {
            let steps = InvoiceState::ALL.into_iter().filter(|n| state.can_become(*n));
            assert_eq!(steps.collect::<Vec<_>>(), next);
        }
    }

    #[test]
    fn a_state_never_goes_back() {
        for state in InvoiceState::ALL {
            for seen in InvoiceState::ALL {
                if state.advance(seen).is_some() {
                    assert!(seen.rank() > state.rank(), "{state} -> {seen}");
                }
            }
        }
    }

    #[test]
    fn an_old_or_repeated_observation_changes_nothing() {
        assert_eq!(Open.advance(Draft), None);
        assert_eq!(Paid.advance(Open), None);
        assert_eq!(Paid.advance(Paid), None);
        assert_eq!(Uncollectible.advance(Open), None);
    }

    #[test]
    fn an_observation_may_skip_states_that_we_did_not_see() {
        assert_eq!(Draft.advance(Void), Some(Void));
        assert_eq!(Draft.advance(Uncollectible), Some(Uncollectible));
        assert_eq!(Pending.advance(Paid), Some(Paid));
    }

    #[test]
    fn what_no_path_leads_to_is_not_believed() {
        assert_eq!(Open.advance(Deleted), None);
        assert_eq!(Paid.advance(Void), None);
        assert_eq!(Deleted.advance(Paid), None);
    }

    #[test]
    fn names_round_trip() {
        for state in InvoiceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert!("Draft".parse::<InvoiceState>().is_err());
    }

    #[test]
    fn only_pending_and_draft_still_collect() {
        let current = InvoiceState::ALL.into_iter().filter(|s| s.is_current());
        assert_eq!(current.collect::<Vec<_>>(), [Pending, Draft]);
    }
}
