//! People: they file, approve, hold, release, bump, cancel, merge, and look at what needs them.

use super::{HOUR, Happens, MINUTE, Sim};
use factory_core::{
    event::Command,
    ids::{IssueNo, PrNo},
    model::{IssueState, NEEDS_HUMAN, PrState, REJECTED},
};

/// How often a person tries the same again.
const TRIES: u32 = 4;

impl Sim {
    /// Some issues come at once, then none for a while.
    pub fn file_some(&mut self) {
        let some = self.between(1, 40).min(self.to_file as i64);
        self.to_file -= some as u64;
        for _ in 0..some {
            self.file_one();
        }
        let pause = self.between(MINUTE, 60 * MINUTE);
        match self.to_file {
            0 => self.after(3 * HOUR, Happens::Looked),
            _ => self.after(pause, Happens::Filed),
        }
    }

    fn file_one(&mut self) {
        let labels = match self.roll(100) {
            0..3 => vec!["priority/critical"],
            3..20 => vec!["priority/high", "ui"],
            20..40 => vec!["priority/low"],
            _ => Vec::new(),
        };
        let last = self.world.state.meta.last_issue as i64;
        let (mut on, mut done) = (Vec::new(), Vec::new());
        if last > 0 && self.chance(12) {
            for _ in 0..self.between(1, 2) {
                let other = IssueNo((last - self.roll(last.min(20))) as u64);
                if self.tally.is_merged(other) {
                    done.push(other);
                } else if !self.world.state.issues.contains_key(&other) {
                    continue;
                }
                on.push(format!("#{other}"));
            }
        }
        let mut body = match on.is_empty() {
            true => "Do it.".to_owned(),
            false => format!("Do it.\n\nDepends-on: {}\n", on.join(", ")),
        };
        if self.chance(20) {
            let (part, file) = (self.roll(20), self.roll(3));
            body.push_str(&format!("\nTouches: part{part}/{file}, docs/{part}\n"));
        }
        let filed = self.order(Command::NewIssue {
            title: "Work".into(),
            body,
            labels: labels.into_iter().map(str::to_owned).collect(),
            done,
        });
        assert!(filed, "an issue was refused");
        let number = IssueNo(self.world.state.meta.last_issue);
        let thinks = self.roll(HOUR);
        match self.roll(100) {
            0..3 => self.after(thinks, Happens::Ordered(Command::CloseIssue(number))),
            // Nobody looks at it until the end, unless its gate opens by itself.
            3..5 => {}
            _ => self.after(thinks, Happens::Ordered(Command::Approve(number))),
        }
    }

    /// Looks at everything that waits for a person.
    pub fn look(&mut self) {
        if self.to_file == 0 {
            self.calm = true;
            self.outage = None;
        }
        let mut did = false;
        let needing: Vec<IssueNo> = self.world.state.needing_human().collect();
        for issue in needing {
            did |= self.look_at(issue);
        }
        let ready = self.world.state.prs.values();
        let ready = ready.filter(|pr| pr.state == PrState::Ready);
        let ready: Vec<_> = ready
            .map(|pr| (pr.number, pr.issue, pr.note.is_some()))
            .collect();
        for (pr, issue, noted) in ready {
            let needs = self.world.state.issues[&issue].has_label(NEEDS_HUMAN);
            did |= !needs && self.look_at_pr(pr, issue, noted);
        }
        let proposed = self.world.state.issues.values();
        let proposed = proposed.filter(|issue| issue.state == IssueState::Proposed);
        let proposed: Vec<_> = proposed
            .map(|issue| (issue.number, issue.has_label(REJECTED)))
            .collect();
        for (issue, rejected) in proposed {
            let again = rejected && self.chance(30) && self.tries_again(issue);
            if again || (self.calm && !rejected) {
                did |= self.order(Command::Approve(issue));
            }
        }
        if self.calm {
            for issue in self.tally.held() {
                did |= self.order(Command::Release(issue));
            }
        }
        let at_rest = self.world.state.is_idle() && self.tasks.is_empty();
        if !(self.calm && at_rest && !did) {
            self.after(10 * MINUTE, Happens::Looked);
        }
    }

    /// True as often as people have the patience.
    fn tries_again(&mut self, issue: IssueNo) -> bool {
        let tries = self.tries.entry(issue).or_default();
        *tries += 1;
        *tries <= TRIES
    }

    fn look_at(&mut self, issue: IssueNo) -> bool {
        let job = &self.world.state.jobs[&issue];
        let pr = job.pr;
        if let Some(on) = self.world.state.lost_dependency(job) {
            let (on, off) = (Vec::new(), vec![on]);
            return self.tries_again(issue) && self.order(Command::Depend { issue, on, off });
        }
        match (self.roll(10), pr) {
            (0..2, _) if !self.calm => false,
            _ if !self.tries_again(issue) => false,
            (2, _) => self.order(Command::CloseIssue(issue)),
            (3, Some(pr)) => self.order(Command::MergePr(pr)),
            (4..6, _) => self.order(Command::Retry(issue)),
            _ => self.order(Command::Approve(issue)),
        }
    }

    fn look_at_pr(&mut self, pr: PrNo, issue: IssueNo, noted: bool) -> bool {
        if noted && !self.tries_again(issue) {
            return false;
        }
        match self.roll(100) {
            0..3 => self.order(Command::RejectPr {
                pr,
                reason: "not like this".into(),
            }),
            3..20 if !self.calm => false,
            _ => self.order(Command::MergePr(pr)),
        }
    }

    /// One of the jobs, whichever.
    fn some_job(&mut self) -> Option<IssueNo> {
        let last = self.world.state.meta.last_issue as i64;
        let from = IssueNo(self.roll(last + 1) as u64);
        let jobs = &self.world.state.jobs;
        jobs.range(from..).next().map(|(issue, _)| *issue)
    }

    /// Somebody orders something while a run of the job is being prepared.
    pub fn interrupt(&mut self, issue: IssueNo, takes: i64) {
        if self.calm {
            return;
        }
        let command = match (self.roll(4), self.some_job()) {
            (0, _) => Command::Hold(issue),
            (1, Some(other)) => {
                let (on, off) = (vec![other], Vec::new());
                Command::Depend { issue, on, off }
            }
            (2, Some(other)) => Command::Bump(other),
            _ => Command::Cancel(issue),
        };
        let at = self.roll(takes);
        self.after(at, Happens::Ordered(command));
        let then = self.between(MINUTE, HOUR);
        self.after(then, Happens::Ordered(Command::Release(issue)));
    }

    pub fn meddle(&mut self) {
        if self.calm {
            return;
        }
        let next = self.between(MINUTE, 6 * MINUTE);
        self.after(next, Happens::Meddled);
        let (Some(issue), Some(other)) = (self.some_job(), self.some_job()) else {
            return;
        };
        let labels = ["priority/low", "priority/high", "priority/critical", "ui"];
        let label = labels[self.roll(4) as usize].to_owned();
        let command = match self.roll(100) / 5 {
            0 if self.chance(20) => {
                let stopped = self.between(MINUTE, 20 * MINUTE);
                self.after(stopped, Happens::Ordered(Command::Thaw));
                Command::Freeze
            }
            0..5 => {
                let holds = self.between(MINUTE, 6 * HOUR);
                self.after(holds, Happens::Ordered(Command::Release(issue)));
                Command::Hold(issue)
            }
            5..8 => Command::Bump(issue),
            8..11 => Command::Label {
                issue,
                add: vec![label],
                remove: Vec::new(),
            },
            11..14 => Command::Depend {
                issue,
                on: vec![other],
                off: Vec::new(),
            },
            14..16 => Command::Retry(issue),
            16 => Command::CloseIssue(issue),
            17 => Command::Comment {
                issue,
                text: "Mind the tests.".into(),
            },
            18 => Command::Release(issue),
            _ => {
                // Cancelled, and soon wanted after all.
                let thinks = self.roll(10_000);
                self.after(thinks, Happens::Ordered(Command::Approve(issue)));
                Command::Cancel(issue)
            }
        };
        // May be refused: nobody looked first.
        self.order(command);
    }
}
