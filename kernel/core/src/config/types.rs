//! `types`: how the slots are shared out among the types of agents.

use super::{Config, Slots};
use crate::quantity::is_default;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an agent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentType {
    /// Takes an approved issue to a pull request.
    #[default]
    Worker,
    /// Compares what was intended with what there is, and files issues.
    Sensor,
    /// Attacks what was built, and files what it finds.
    Adversary,
}

impl AgentType {
    /// All of them.
    pub const ALL: [AgentType; 3] = [AgentType::Worker, AgentType::Sensor, AgentType::Adversary];

    /// Its name in `factory.yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            AgentType::Worker => "worker",
            AgentType::Sensor => "sensor",
            AgentType::Adversary => "adversary",
        }
    }
}

impl fmt::Display for AgentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A quota for each type of agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Types {
    /// Workers.
    #[serde(skip_serializing_if = "is_default")]
    pub worker: Worker,
    /// Sensors.
    #[serde(skip_serializing_if = "is_default")]
    pub sensor: Quota,
    /// Adversaries.
    #[serde(skip_serializing_if = "is_default")]
    pub adversary: Quota,
}

/// What agents of one type may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Slots that are kept for them. The rest is lent to whoever comes, and free again
    /// when its run ends.
    #[serde(skip_serializing_if = "is_default")]
    pub min: u32,
    /// Slots that they take at most; all where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// What workers may take, and what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// As [`Quota::min`].
    #[serde(skip_serializing_if = "is_default")]
    pub min: u32,
    /// As [`Quota::max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// What they may do outside in a day, from midnight to midnight UTC.
    #[serde(skip_serializing_if = "is_default")]
    pub per_day: PerDay,
}

/// What workers may do outside in a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerDay {
    /// Pull requests that they open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_requests: Option<u32>,
    /// Issues that they file; what is beyond it waits for the next day.
    pub issues: u32,
    /// Comments that they write.
    pub comments: u32,
}

/// The most issues or comments a day that can be written.
const MOST_PER_DAY: u32 = 1000;

impl Default for PerDay {
    fn default() -> Self {
        Self {
            pull_requests: None,
            issues: 20,
            comments: 50,
        }
    }
}

impl Types {
    /// The quota of a type.
    pub fn of(&self, agent: AgentType) -> Quota {
        let Worker { min, max, .. } = self.worker;
        match agent {
            AgentType::Worker => Quota { min, max },
            AgentType::Sensor => self.sensor,
            AgentType::Adversary => self.adversary,
        }
    }

    /// Slots that are kept for one type or another.
    pub fn reserved(&self) -> u32 {
        let mins = AgentType::ALL.map(|agent| self.of(agent).min);
        mins.into_iter().fold(0, u32::saturating_add)
    }
}

/// The key that is wrong, what is wrong with it, and what to write instead.
pub(super) fn flaw(config: &Config) -> Option<(&'static str, String, String)> {
    let types = &config.types;
    let slots = match config.slots {
        Slots::Fixed(slots) => Some(slots),
        Slots::Auto => None,
    };
    for agent in AgentType::ALL {
        let Quota { min, max } = types.of(agent);
        if let Some(max) = max.filter(|max| *max < min) {
            return Some((
                agent.as_str(),
                format!("types.{agent}.min is {min}, above its max of {max}"),
                format!("write a min of at most {max}, or raise the max"),
            ));
        }
        for (name, n) in [("min", Some(min)), ("max", max)] {
            if let (Some(n), Some(slots)) = (n, slots)
                && n > slots
            {
                return Some((
                    agent.as_str(),
                    format!("types.{agent}.{name} is {n}, and there are {slots} slots"),
                    format!("write at most {slots}, or raise `slots`"),
                ));
            }
        }
    }
    let none = [
        ("max", types.worker.max),
        ("per_day.pull_requests", types.worker.per_day.pull_requests),
    ];
    if let Some((name, _)) = none.into_iter().find(|(_, most)| *most == Some(0)) {
        return Some((
            AgentType::Worker.as_str(),
            format!("types.worker.{name} is 0: nothing could be worked on"),
            "write 1 or more; `factory job hold` keeps single issues back".to_owned(),
        ));
    }
    let PerDay {
        issues, comments, ..
    } = types.worker.per_day;
    let mut filed = [("issues", issues), ("comments", comments)].into_iter();
    if let Some((name, n)) = filed.find(|(_, n)| *n > MOST_PER_DAY) {
        return Some((
            AgentType::Worker.as_str(),
            format!("types.worker.per_day.{name} is {n}"),
            format!("write at most {MOST_PER_DAY}: people read them"),
        ));
    }
    let reserved = types.reserved();
    if slots == Some(reserved) && types.worker.min == 0 {
        return Some((
            "types",
            format!("the types reserve all {reserved} slots, and none for workers"),
            "lower a min, or raise `slots`".to_owned(),
        ));
    }
    if let Some(slots) = slots.filter(|slots| reserved > *slots) {
        return Some((
            "types",
            format!("the types reserve {reserved} slots together, and there are {slots}"),
            "lower a min, or raise `slots`".to_owned(),
        ));
    }
    None
}
