//! Breakers: after several failures in a row nothing more is thrown after them, until
//! one run alone has tried again.

use crate::{exit::ExitClass, ids::IssueNo, model::Seconds};
use serde::{Deserialize, Serialize};

/// Failures in a row that open a breaker.
const OPENS_AT: u32 = 3;
/// Seconds from the failure that opens it to the first try; doubles with each that fails.
const FIRST_WAIT: Seconds = 60;
/// The longest wait between two tries, in seconds.
const LONGEST_WAIT: Seconds = 3600;

/// What failed, and how often in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: u32,
    /// When one run may try again; none while it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_at: Option<Seconds>,
    /// The job of the newest one.
    pub job: IssueNo,
    /// The other jobs that failed before it opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<IssueNo>,
    /// What it was, one line.
    pub why: String,
}

/// What code runs have in common that can fail for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The model provider: it refuses, has no credit, or is overloaded.
    Provider,
    /// The agent: its engine, its image, its prompt.
    Agent,
}

impl Part {
    /// The word used for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Provider => "the model provider",
            Part::Agent => "the agent",
        }
    }

    /// Who is to blame for the end of a code run whose last model call had this status (0
    /// where there was none); nobody where it says nothing of them.
    pub fn blamed(class: ExitClass, last_status: u16) -> Option<Self> {
        let by_provider = matches!(last_status, 401 | 402 | 403 | 429 | 500..=599);
        match class {
            ExitClass::Refused | ExitClass::EngineError if by_provider => Some(Part::Provider),
            ExitClass::Refused
            | ExitClass::EngineError
            | ExitClass::TimedOut
            | ExitClass::Stalled
            | ExitClass::OutOfDisk => Some(Part::Agent),
            ExitClass::Ok
            | ExitClass::OverBudget
            | ExitClass::OutOfMemory
            | ExitClass::Killed
            | ExitClass::Lost => None,
        }
    }
}

impl Breaker {
    /// One more failure at `now`. One job that fails again and again is that job's affair, and
    /// counts once, unless it was the one that tried again. What was under way when it opened
    /// and fails as well says nothing new.
    pub fn after(before: Option<&Self>, job: IssueNo, why: String, now: Seconds) -> Self {
        let mut next = match before {
            Some(before) => before.clone(),
            None => Self {
                failures: 0,
                tries_at: None,
                job,
                others: Vec::new(),
                why: String::new(),
            },
        };
        next.why = why;
        if next.is_open(now) {
            return next;
        }
        let known = next.others.contains(&job) || before.is_some_and(|before| before.job == job);
        if next.tries_at.is_none() && known {
            return next;
        }
        if next.tries_at.is_none() && before.is_some() {
            next.others.push(next.job);
        }
        next.job = job;
        next.failures = next.failures.saturating_add(1);
        if next.failures >= OPENS_AT {
            let doublings = (next.failures - OPENS_AT).min(6);
            let wait = (FIRST_WAIT << doublings).min(LONGEST_WAIT);
            next.tries_at = Some(now.saturating_add(wait));
        }
        next
    }

    /// True while nothing may try. A time further away than the longest wait was set before
    /// the clock was put back.
    pub fn is_open(&self, now: Seconds) -> bool {
        let wait = self.tries_at.map(|at| at.saturating_sub(now));
        wait.is_some_and(|wait| (1..=LONGEST_WAIT).contains(&wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_jobs_failure_opens_and_waits_double() {
        let mut breaker: Option<Breaker> = None;
        let mut waits = Vec::new();
        let mut now = 1000;
        for job in [1, 1, 2, 1, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 9] {
            // Nobody tries before its time.
            now = breaker.as_ref().and_then(|b| b.tries_at).unwrap_or(now);
            let next = Breaker::after(breaker.as_ref(), IssueNo(job), "it failed".into(), now);
            waits.push(next.tries_at.map(|at| at - now));
            // What was under way before it opened.
            let late = Breaker::after(Some(&next), IssueNo(77), "late".into(), now);
            assert!(next.tries_at.is_none() || late.tries_at == next.tries_at);
            breaker = Some(next);
        }
        let open = [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600].map(Some);
        assert_eq!(waits[..5], [None; 5]);
        assert_eq!(waits[5..], open);
        let open = breaker.unwrap();
        assert!(open.is_open(now) && open.is_open(now + 3599) && !open.is_open(now + 3600));
        assert!(!open.is_open(now - 100), "the clock was put back");
    }

    #[test]
    fn a_failure_is_the_providers_or_the_agents_or_nobodys() {
        use ExitClass::{EngineError, Killed, Ok, Refused, Stalled};
        for (class, status, blamed) in [
            (Refused, 401, Some(Part::Provider)),
            (EngineError, 529, Some(Part::Provider)),
            (Refused, 0, Some(Part::Agent)),
            (EngineError, 200, Some(Part::Agent)),
            (Stalled, 529, Some(Part::Agent)),
            (Ok, 529, None),
            (Killed, 401, None),
        ] {
            assert_eq!(Part::blamed(class, status), blamed, "{class} {status}");
        }
    }
}
