//! Listener: a stand-in for the servers out there that keeps what it hears, and answers as it is told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Post, PostFuture, Poster};

/// A request that it heard, and what it answered.
pub(super) type Posted = (Post, Result<u16, String>);

/// For tests, demos and simulations.
#[derive(Debug)]
pub struct Listener(Mutex<State>);

#[derive(Debug)]
struct State {
    heard: Vec<Posted>,
    answer: Result<u16, String>,
}

impl Default for Listener {
    fn default() -> Listener {
        Listener(Mutex::new(State { heard: Vec::new(), answer: Ok(200) }))
    }
}

impl Listener {
    /// Every request, oldest first.
    pub fn heard(&self) -> Vec<Posted> {
        self.state().heard.clone()
    }

    /// From now on this is the answer.
    pub fn answers(&self, answer: Result<u16, String>) {
        self.state().answer = answer;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Poster for Listener {
    fn post(&self, post: Post) -> PostFuture<'_> {
        let mut state = self.state();
        let answer = state.answer.clone();
        state.heard.push((post, answer.clone()));
        Box::pin(async move { answer })
    }
}
