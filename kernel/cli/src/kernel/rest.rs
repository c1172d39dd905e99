//! What failed rests for a while before it is tried again.

use crate::failure::{Class, Failure};
use factory_ledger::places::Places;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// First and longest wait before something is tried again.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Longest wait for what people mend and then wait for: the engine, the disk.
const WAIT_FOR_PEOPLE: Duration = Duration::from_secs(10);

/// Name of looking at the container engine.
pub(super) const ENGINE: &str = "container engine";
/// Name of writing steps.
pub(super) const STATE: &str = "state";

/// Failures in a row, over about a minute, after which something is given up.
const HOPELESS: u32 = 7;

struct Rest {
    until: Instant,
    wait: Duration,
    /// Failures in a row by no fault of disk, engine or gateway.
    own: u32,
    class: Class,
    why: String,
}

/// What rests at the moment, by the name of its action.
pub(super) struct Rests {
    places: Places,
    resting: BTreeMap<String, Rest>,
    shown: watch::Sender<String>,
}

impl Rests {
    /// Nothing rests. `shown` always holds the reasons, as a JSON list of lines.
    pub(super) fn new(places: Places, shown: watch::Sender<String>) -> Self {
        Self {
            places,
            resting: BTreeMap::new(),
            shown,
        }
    }

    /// True while `key` must not be tried.
    pub(super) fn holds(&self, key: &str) -> bool {
        let rest = self.resting.get(key);
        rest.is_some_and(|rest| rest.until > Instant::now())
    }

    /// True from a failure of `key` until it succeeds.
    pub(super) fn failed(&self, key: &str) -> bool {
        self.resting.contains_key(key)
    }

    /// True while something waits for the gateway, which is away.
    pub(super) fn lacks_gateway(&self) -> bool {
        let mut resting = self.resting.values();
        resting.any(|rest| rest.class == Class::Gateway)
    }

    /// True where trying again has shown to be of no use: waiting mends it no more.
    pub(super) fn is_hopeless(&self, key: &str) -> bool {
        let rest = self.resting.get(key);
        rest.is_some_and(|rest| rest.own >= HOPELESS)
    }

    /// Takes a failure up; gives the line to say, unless it was said before.
    pub(super) fn put(&mut self, key: &str, failure: &Failure) -> Option<String> {
        let mut why = failure.chain();
        if let Some(next) = failure.next_step() {
            why.push_str(&format!(" ({next})"));
        }
        let full = failure.class() != Class::Disk && self.places.lacks_room(0);
        if full {
            let root = self.places.root().display();
            why.push_str(&format!(
                "; the disk that holds {root} is full: free some space"
            ));
        }
        let longest = match failure.class() {
            Class::Disk | Class::Away => WAIT_FOR_PEOPLE,
            _ if full => WAIT_FOR_PEOPLE,
            _ => WAIT.1,
        };
        let before = self.resting.get(key);
        let wait = before.map_or(WAIT.0, |rest| (rest.wait * 2).min(longest));
        let own = match failure.class() {
            Class::Disk | Class::Away | Class::Gateway => 0,
            _ if full => 0,
            _ => before.map_or(0, |rest| rest.own) + 1,
        };
        let said = before.is_some_and(|rest| rest.wait == wait && rest.why == why);
        // The engine itself is looked at next, and named once for all that need it.
        let named = failure.class() == Class::Away && key != ENGINE;
        let line = format!("{key}: {why}; tried again in {} s", wait.as_secs());
        let rest = Rest {
            until: Instant::now() + wait,
            wait,
            own,
            class: failure.class(),
            why,
        };
        self.resting.insert(key.to_owned(), rest);
        self.show();
        (!said && !named).then_some(line)
    }

    /// Shows what is wrong although nothing waits for it. Tells whether that is new.
    pub(super) fn note(&mut self, key: &str, failure: &Failure) -> bool {
        let mut why = failure.chain();
        if let Some(next) = failure.next_step() {
            why.push_str(&format!(" ({next})"));
        }
        let is_new = self.resting.get(key).is_none_or(|rest| rest.why != why);
        let rest = Rest {
            until: Instant::now(),
            wait: Duration::ZERO,
            own: 0,
            class: failure.class(),
            why,
        };
        self.resting.insert(key.to_owned(), rest);
        self.show();
        is_new
    }

    /// `key` succeeded. Tells whether it had failed before. With the engine back,
    /// all that needed it is tried at once.
    pub(super) fn done(&mut self, key: &str) -> bool {
        let failed = self.resting.remove(key).is_some();
        if failed {
            if key == ENGINE {
                self.resting.retain(|_, rest| rest.class != Class::Away);
            }
            self.show();
        }
        failed
    }

    /// When the next of them is to be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let times = self.resting.values().map(|rest| rest.until);
        times.filter(|until| *until > now).min()
    }

    fn show(&self) {
        let shown = self
            .resting
            .iter()
            .filter(|(key, rest)| rest.class != Class::Away || *key == ENGINE)
            .map(|(key, rest)| format!("{key}: {}", rest.why))
            .collect::<BTreeSet<_>>();
        match serde_json::to_string(&shown) {
            Ok(json) => drop(self.shown.send_replace(json)),
            Err(error) => tracing::warn!(%error, "what is held up cannot be shown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_will_mend_is_hopeless() {
        let room = tempfile::tempdir().unwrap();
        let shown = watch::Sender::new(String::new());
        let mut rests = Rests::new(Places::below(room.path()), shown);
        for (class, hopeless) in [
            (Class::Internal, true),
            (Class::Engine, true),
            (Class::Gateway, false),
            (Class::Away, false),
            (Class::Disk, false),
        ] {
            let key = format!("perform {class:?}");
            for failed in 1..=20 {
                rests.put(&key, &Failure::new(class, "it failed"));
                let expected = hopeless && failed >= HOPELESS;
                assert_eq!(rests.is_hopeless(&key), expected, "{key}: {failed}");
            }
            assert!(rests.done(&key) && !rests.is_hopeless(&key));
        }
    }
}
