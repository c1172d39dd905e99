//! `requests` and `capacity`: what the scheduler reckons with.

use super::Config;
use crate::quantity::{Bytes, Milli};
use serde::{Deserialize, Serialize};

/// Memory and processor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    /// Memory.
    pub memory: Bytes,
    /// Processor cores.
    pub cpus: Milli,
}

/// Memory and processor cores, as far as `factory.yaml` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Milli>,
}

/// Memory of the engine that is left to everything else, in bytes.
const SPARE_MEMORY: u64 = 2 << 30;

impl Default for Amounts {
    /// What a run requests by default. An agent waits for its model most of the
    /// time, so four of them share a core.
    fn default() -> Self {
        Self {
            memory: Bytes(1 << 30),
            cpus: Milli(250),
        }
    }
}

impl Amounts {
    /// How often this goes into `whole`.
    pub fn times_in(&self, whole: &Amounts) -> u64 {
        let times = |whole: u64, part: u64| whole.checked_div(part).unwrap_or(u64::MAX);
        times(whole.memory.0, self.memory.0).min(times(whole.cpus.0, self.cpus.0))
    }
}

impl Given {
    /// True where nothing is given.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What agents may request of an engine's memory by default.
pub(super) fn less_spare(memory: Bytes) -> Bytes {
    Bytes(memory.0.saturating_sub(SPARE_MEMORY))
}

/// The key that is wrong, what is wrong with it, and what to write instead.
pub(super) fn flaw(config: &Config) -> Option<(&'static str, String, String)> {
    let (requests, limits) = (config.requests(), &config.limits);
    let too_much = |what: &str, asked: String, limit: String| {
        (
            "requests",
            format!("requests.{what} is {asked}, and a run may take only {limit} (limits.{what})"),
            format!("write at most {limit}, or raise limits.{what}"),
        )
    };
    let never = |what: &str, asked: String, there: String| {
        (
            "capacity",
            format!("capacity.{what} is {there}, and one run requests {asked}: none could start"),
            format!("raise capacity.{what}, or lower requests.{what}"),
        )
    };
    if requests.memory > limits.memory {
        let (asked, limit) = (requests.memory.to_string(), limits.memory.to_string());
        return Some(too_much("memory", asked, limit));
    }
    if requests.cpus > limits.cpus {
        let (asked, limit) = (requests.cpus.to_string(), limits.cpus.to_string());
        return Some(too_much("cpus", asked, limit));
    }
    if let Some(memory) = config.capacity.memory.filter(|m| *m < requests.memory) {
        return Some(never(
            "memory",
            requests.memory.to_string(),
            memory.to_string(),
        ));
    }
    if let Some(cpus) = config.capacity.cpus.filter(|c| *c < requests.cpus) {
        return Some(never("cpus", requests.cpus.to_string(), cpus.to_string()));
    }
    None
}
