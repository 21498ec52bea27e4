//! Outbox: a stand-in for a mail server that keeps what it takes, and fails as it is told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Carrier, CarryFuture, Email, HandOver, Outcome};

/// For tests, demos and simulations.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    delivered: Vec<Email>,
    next: VecDeque<Outcome>,
    tried: usize,
}

impl Outbox {
    /// What was delivered, oldest first. An e-mail of unknown ending was.
    pub fn delivered(&self) -> Vec<Email> {
        self.state().delivered.clone()
    }

    /// How often somebody tried.
    pub fn tried(&self) -> usize {
        self.state().tried
    }

    /// The next attempt ends so; the ones after it as they were told, and well where they were not.
    pub fn next_ends(&self, outcome: Outcome) {
        self.state().next.push_back(outcome);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for Outbox {
    fn carry<'a>(&'a self, email: Email, hand_over: HandOver<'a>) -> CarryFuture<'a> {
        Box::pin(async move {
            if let Err(why) = hand_over.await {
                return Outcome::TryLater(why);
            }
            let mut state = self.state();
            state.tried += 1;
            let outcome = state.next.pop_front().unwrap_or(Outcome::Sent);
            if matches!(outcome, Outcome::Sent | Outcome::Unknown(_)) {
                state.delivered.push(email);
            }
            outcome
        })
    }
}
