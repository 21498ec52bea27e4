//! Clock: what happens by itself when time passes.

use super::state::State;

impl State {
    /// Runs every timer that is due by now, each at its own time.
    pub fn tick(&mut self) {
        let now_ms = self.now_ms;
        let now = self.now();
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((at, invoice)) = self.timers.pop_first() else { break };
            self.now_ms = (at * 1000).min(now_ms);
            self.invoice_is_due(&invoice);
        }
        self.now_ms = now_ms;
        self.prune_events();
    }
}
