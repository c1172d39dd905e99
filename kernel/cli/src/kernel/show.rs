//! What `factory start` prints: one line per change, and on a terminal a status line below them.

use crate::{clock, views::Drawn};
use factory_core::{event::Now, plan::Observed, state::State};

/// Standard output of the kernel.
pub struct Screen {
    terminal: bool,
    status: String,
}

impl Screen {
    /// Looks whether standard output is a terminal.
    pub fn new() -> Self {
        Self {
            terminal: Drawn::Out.is_terminal(),
            status: String::new(),
        }
    }

    /// One line for something that happened.
    pub fn note(&self, now: Now, note: &str) {
        let line = format!("{}  {note}\n", clock::show(now.0));
        if self.terminal {
            Drawn::Out.draw(true, &format!("{line}{}", self.status));
        } else {
            Drawn::Out.draw(false, &line);
        }
    }

    /// The status line; without a terminal it is printed when it changed.
    pub fn status(&mut self, state: &State, observed: &Observed) {
        let workers = state
            .runs
            .values()
            .filter(|run| run.grant.role.has_engine())
            .count();
        let checks = state.runs.len() - workers;
        let kernel = match (observed.draining, &state.meta.frozen) {
            (true, _) => "draining",
            (false, Some(_)) => "frozen (`factory resume` goes on)",
            (false, None) => "running",
        };
        let checks = if checks > 0 {
            format!("  checks:{checks}")
        } else {
            String::new()
        };
        let status = format!(
            "slots: {}/{}  workers:{workers}{checks}  kernel:{kernel}",
            state.runs.len(),
            state.slots(observed)
        );
        if status == self.status {
            return;
        }
        self.status = status;
        if self.terminal {
            Drawn::Out.draw(true, &self.status);
        } else {
            Drawn::Out.draw(false, &format!("{}\n", self.status));
        }
    }

    /// Leaves the cursor on a line of its own.
    pub fn finish(&self) {
        if self.terminal {
            Drawn::Out.draw(true, "");
        }
    }
}
