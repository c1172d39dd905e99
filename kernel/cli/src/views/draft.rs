//! Issues that agents asked for and that are not filed yet, as they are shown.

use super::{line, stamp};
use factory_core::{event::Now, ids::IssueNo, state::State};
use serde::Serialize;

/// What waits, and for what.
#[derive(Debug, Serialize)]
pub struct DraftsView {
    /// Issues of agents that were filed today (UTC).
    pub filed: u64,
    /// How many may be filed in a day.
    pub per_day: u32,
    /// What is not filed yet, the oldest first.
    pub waiting: Vec<DraftView>,
}

/// One that waits.
#[derive(Debug, Serialize)]
pub struct DraftView {
    /// The run that asked for it.
    pub run: String,
    /// When, RFC 3339.
    pub since: String,
    /// One line.
    pub title: String,
    /// Markdown.
    pub body: String,
}

impl DraftsView {
    /// All that wait, or only what runs of one issue asked for.
    pub fn of(state: &State, only: Option<IssueNo>, now: Now) -> Self {
        let all = state.drafts.values();
        let mut drafts: Vec<_> = all
            .filter(|drafts| only.is_none_or(|issue| drafts.run.job == issue))
            .collect();
        drafts.sort_by_key(|drafts| (drafts.since, drafts.run));
        let waiting = drafts.iter().flat_map(|drafts| {
            drafts.issues.iter().map(|draft| DraftView {
                run: drafts.run.to_string(),
                since: stamp(drafts.since),
                title: draft.title.clone(),
                body: draft.body.clone(),
            })
        });
        Self {
            filed: state.meta.today.unwrap_or_default().on(now.0).issues,
            per_day: state.config.config.types.worker.per_day.issues,
            waiting: waiting.collect(),
        }
    }

    /// Why they wait.
    pub fn why(&self) -> String {
        let (filed, per_day) = (self.filed, self.per_day);
        match per_day {
            0 => "types.worker.per_day.issues is 0; raise it to have them filed".to_owned(),
            _ if filed < u64::from(per_day) => "they are filed once the factory works".to_owned(),
            _ => format!(
                "{filed}/{per_day} of the day (types.worker.per_day.issues) are filed, until 00:00 UTC"
            ),
        }
    }

    /// One line for all of them; nothing where none waits.
    pub fn show(&self) -> String {
        match self.waiting.len() {
            0 => String::new(),
            1 => format!("1 issue of an agent is not filed yet: {}\n", self.why()),
            n => format!("{n} issues of agents are not filed yet: {}\n", self.why()),
        }
    }

    /// A line for each.
    pub fn lines(&self) -> String {
        let lines = self
            .waiting
            .iter()
            .map(|draft| format!("{}  {}", draft.run, line(&draft.title)));
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_core::{budget::Today, model::Drafts, report::Draft};

    #[test]
    fn what_waits_is_told_with_its_reason_the_oldest_first() {
        let mut state = State::new("repo".into(), "main".into());
        let view =
            |state: &State, only: Option<u64>| DraftsView::of(state, only.map(IssueNo), Now(9));
        assert_eq!(view(&state, None).show(), "");
        for (run, since) in [("r1-1", 5), ("r2-1", 3)] {
            let run = run.parse().unwrap();
            let (title, body) = ("A\u{1b}[31m\nb".to_owned(), String::new());
            let issues = vec![Draft { title, body }];
            state.drafts.insert(run, Drafts { run, since, issues });
        }
        let shown = r"A\u{1b}[31m b";
        let lines = format!("r2-1  {shown}\nr1-1  {shown}");
        assert_eq!(view(&state, None).lines(), lines);
        assert_eq!(view(&state, Some(1)).waiting.len(), 1);
        let said = "2 issues of agents are not filed yet: they are filed once the factory works\n";
        assert_eq!(view(&state, None).show(), said);
        let mut today = Today::default();
        (0..20).for_each(|_| today.count_issue(9));
        state.meta.today = Some(today);
        let full = "20/20 of the day (types.worker.per_day.issues) are filed, until 00:00 UTC";
        assert_eq!(view(&state, Some(1)).why(), full);
        state.config.config.types.worker.per_day.issues = 0;
        assert_eq!(
            view(&state, None).why(),
            "types.worker.per_day.issues is 0; raise it to have them filed"
        );
    }
}
