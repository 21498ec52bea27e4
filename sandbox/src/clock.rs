//! Clock: what happens by itself when time passes.

use super::state::State;

impl State {
    /// Runs every timer that is due by now, each at its own time.
    pub(crate) fn tick(&mut self) {
        let now_ms = self.now_ms;
        let now = self.now();
        loop {
            let timer = self.timers.first().map(|(at, _)| at * 1000).filter(|at| *at <= now * 1000);
            let slow = self.next_slow().filter(|at| *at <= now_ms);
            if let Some(at) = slow.filter(|at| timer.is_none_or(|timer| *at <= timer)) {
                self.now_ms = at;
                self.finish_slow();
            } else if let Some((at, invoice)) = timer.and_then(|_| self.timers.pop_first()) {
                self.now_ms = (at * 1000).min(now_ms);
                self.invoice_is_due(&invoice);
            } else {
                break;
            }
        }
        self.now_ms = now_ms;
        self.prune_events();
    }
}
