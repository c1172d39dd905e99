//! Where issues stand in the scheduler's eyes, as it is shown.

use super::line;
use factory_core::{
    model::Issue,
    schedule::{Full, Priority, Standing, Wait},
};
use serde::Serialize;

/// Where an issue stands, in JSON.
#[derive(Debug, Serialize)]
pub struct StandingView {
    /// The issue.
    pub issue: u64,
    /// `critical`, `high`, `normal` or `low`.
    pub priority: &'static str,
    /// `starts`, `runs`, `under-way` or `waits`.
    pub standing: &'static str,
    /// Why it waits, as one word: `slot`, `quota`, `memory`, `cpus`, `starts`, `day-budget`,
    /// `job-budget`, `day-pull-requests`, `touches`, `paused`, `approval`, `rejected`, `opens`,
    /// `merge`, `human`, `held`, `depends`, `given-up`, `rests`, `draining` or `frozen`.
    pub reason: Option<&'static str>,
    /// The same for people.
    pub text: String,
    /// The slot that it starts in.
    pub slot: Option<u32>,
    /// Its place in line, from 1, where it waits for room.
    pub place: Option<usize>,
    /// One line.
    pub title: String,
}

impl StandingView {
    /// The view of one issue.
    pub fn new(issue: &Issue, standing: &Standing) -> Self {
        let (word, reason, text, place) = match standing {
            Standing::Starts { slot } => {
                ("starts", None, format!("starts now in slot {slot}"), None)
            }
            Standing::Runs { run } => ("runs", None, format!("{run} works"), None),
            Standing::UnderWay => ("under-way", None, "under way".to_owned(), None),
            Standing::Waits(wait) => {
                let place = match wait {
                    Wait::Room { place, .. } => Some(*place),
                    _ => None,
                };
                ("waits", Some(reason(wait)), wait.to_string(), place)
            }
        };
        let slot = match standing {
            Standing::Starts { slot } => Some(*slot),
            _ => None,
        };
        Self {
            issue: issue.number.0,
            priority: Priority::of(issue).as_str(),
            standing: word,
            reason,
            text,
            slot,
            place,
            title: line(&issue.title),
        }
    }

    /// What works and begins comes first, then who waits in line, then the rest.
    pub fn rank(&self) -> (u8, Option<u32>, Option<usize>, u64) {
        let first = match (self.standing, self.place) {
            ("runs" | "under-way", _) => 0,
            ("starts", _) => 1,
            (_, Some(_)) => 2,
            _ => 3,
        };
        (first, self.slot, self.place, self.issue)
    }

    /// Number, priority, standing, title.
    pub fn row(&self) -> [String; 4] {
        [
            self.issue.to_string(),
            self.priority.to_owned(),
            self.text.clone(),
            self.title.clone(),
        ]
    }
}

fn reason(wait: &Wait) -> &'static str {
    match wait {
        Wait::Room { full, .. } => match full {
            Full::Slots { .. } => "slot",
            Full::Memory { .. } => "memory",
            Full::Cpus { .. } => "cpus",
            Full::Starts { .. } => "starts",
            Full::Day | Full::Promised => "day-budget",
            Full::Job => "job-budget",
            Full::Quota { .. } | Full::Kept { .. } => "quota",
            Full::Touches { .. } => "touches",
            Full::Proposals => "day-pull-requests",
            Full::Paused | Full::Trying => "paused",
        },
        Wait::Approval => "approval",
        Wait::Rejected => "rejected",
        Wait::Opens => "opens",
        Wait::Draining => "draining",
        Wait::Frozen { .. } => "frozen",
        Wait::Merge { .. } => "merge",
        Wait::Plan => "plan",
        Wait::Split => "split",
        Wait::Children { .. } => "children",
        Wait::Human => "human",
        Wait::Held { .. } => "held",
        Wait::DependsOn { .. } => "depends",
        Wait::Touches { .. } => "touches",
        Wait::GivenUp { .. } => "given-up",
        Wait::Rests { .. } => "rests",
    }
}
