//! What actions do outside the state.

use super::*;

impl World {
    /// Does what an action does outside the state; gives what it wants journalled.
    pub fn act(&mut self, action: &Action) -> Vec<Event> {
        match action.clone() {
            Action::Journal(event) => return vec![event],
            Action::Grant { job, purpose, slot } => {
                return self.grant(job, purpose, slot).into_iter().collect();
            }
            Action::Spawn(run) => {
                self.containers.entry(run).or_insert(Seen::Created);
                if self.trouble && self.dice.roll(8) == 0 {
                    return Vec::new();
                }
                if self.containers[&run] == Seen::Created {
                    assert!(self.started.insert(run), "{run} was started twice");
                    self.containers.insert(run, Seen::Running);
                }
                if self.containers[&run] == Seen::Running {
                    return vec![Event::RunRunning { run }];
                }
            }
            Action::Await(_) => {}
            Action::Kill(run) | Action::Stop(run) => {
                let killed = ContainerExit {
                    code: 137,
                    oom: false,
                };
                if self.containers.get(&run) == Some(&Seen::Running) {
                    self.containers.insert(run, Seen::Exited(killed));
                }
            }
            Action::Conclude(run, exit) => return vec![Event::ContainerEnded { run, exit }],
            Action::Collect(run) => {
                self.containers.remove(&run);
                return vec![Event::RunCollected { run }];
            }
            Action::RemoveStray(run) => {
                self.containers.remove(&run);
            }
            Action::Perform(key) => {
                let result = self.effect(&key);
                return vec![Event::EffectDone { key, result }];
            }
            Action::Merge(pr) => return self.merge(pr).into_iter().collect(),
            Action::Compare(job) => return self.compare(job).into_iter().collect(),
        }
        Vec::new()
    }

    fn grant(&mut self, job: IssueNo, purpose: Purpose, slot: u32) -> Option<Event> {
        let found = self.state.jobs.get(&job)?;
        let tip = self.branches.get(&found.branch).cloned();
        let or_target = |tip: Option<Oid>| tip.unwrap_or(self.target.clone());
        let (start, branch_tip) = match (&purpose, found.stage()) {
            (Purpose::Split, _) => {
                assert!(found.branch.is_empty(), "an instruction has no branch");
                (self.target.clone(), None)
            }
            (Purpose::Plan, _) => (or_target(tip), None),
            (Purpose::Code, _) => (or_target(tip.clone()), tip),
            (Purpose::Check, Stage::CheckDue { commit, tests, .. }) => match tests {
                Tests::Own => (commit.clone(), None),
                Tests::Base { commit } => (commit.clone(), None),
            },
            (Purpose::Review, Stage::ReviewDue { commit }) => (commit.clone(), None),
            (Purpose::Verify, _) => (self.target.clone(), None),
            (Purpose::MergeTest { pr }, _) => match &self.state.prs.get(pr)?.state {
                PrState::Testing { merge, .. } => (merge.clone(), None),
                _ => return None,
            },
            (Purpose::Check | Purpose::Review, _) => return None,
        };
        let facts = GrantFacts {
            home: "12345678".into(),
            start,
            merge_target: None,
            branch_tip,
            intent: self.target.clone(),
            image: "sha256:x".into(),
            fresh_session: false,
        };
        Some(Event::RunGranted {
            job,
            purpose,
            slot,
            facts,
        })
    }

    /// What a commit changes: always the same of the same one.
    fn change(&mut self, commit: &Oid) -> Change {
        if let Some(change) = self.known.get(commit) {
            return change.clone();
        }
        let mut change = self.every_change.clone();
        if self.trouble {
            if self.dice.roll(8) == 0 {
                change.lines = 5000;
            }
            if self.dice.roll(3) == 0 {
                change.with_base_tests = Some(self.oid());
            }
            change.places = vec![format!("src/{}", self.dice.roll(9))];
        }
        self.known.insert(commit.clone(), change.clone());
        change
    }

    /// Tries the merge with every open pull request.
    fn compare(&mut self, job: IssueNo) -> Option<Event> {
        let Stage::Opening { commit } = self.state.jobs.get(&job)?.stage().clone() else {
            return None;
        };
        let others = self.state.prs.values().filter(|pr| pr.issue != job);
        let others: Vec<PrNo> = others.map(|pr| pr.number).collect();
        let mut conflicts = Vec::new();
        for pr in others {
            if self.trouble && self.dice.roll(3) == 0 {
                let files = "a.txt".to_owned();
                conflicts.push(Conflict { pr, files });
            }
        }
        Some(Event::Compared {
            job,
            commit,
            conflicts,
        })
    }

    fn merge(&mut self, number: PrNo) -> Option<Event> {
        let pr = self.state.prs.get(&number)?;
        let PrState::Queued { at, .. } = pr.state else {
            return None;
        };
        let (head, target) = (pr.head.clone(), self.target.clone());
        let found = self.branches.get(&pr.branch).filter(|tip| **tip != head);
        let result = if self.merged.contains(&number.0) {
            MergeResult::AlreadyMerged
        } else if let Some(found) = found.cloned() {
            MergeResult::BranchMoved {
                change: self.change(&found),
                found,
            }
        } else if self.trouble && self.dice.roll(20) == 0 {
            let why = "it failed again and again".into();
            return Some(Event::MergeFailed { pr: number, why });
        } else if self.trouble && self.dice.roll(6) == 0 {
            MergeResult::Conflict {
                paths: vec!["a.txt".into()],
            }
        } else if self.trouble && self.dice.roll(8) == 0 {
            MergeResult::Forbidden {
                findings: "a.txt:1: an added line matches `x`".into(),
                person: (self.dice.roll(2) == 0).then(|| "Ann".into()),
            }
        } else {
            let of = (number, target.clone(), head.clone(), at);
            let (merge, tree_is_heads) = match self.merges.get(&of) {
                Some(made) => made.clone(),
                None => {
                    let made = (self.oid(), self.dice.roll(2) == 0);
                    self.merges.insert(of, made.clone());
                    made
                }
            };
            MergeResult::Clean {
                merge,
                tree_is_heads,
                worktree: None,
                protected: ToldPaths::default(),
                change: self.change(&head),
            }
        };
        if self.trouble && self.dice.roll(10) == 0 {
            self.target = self.oid();
        }
        Some(Event::MergeMade {
            pr: number,
            target,
            result,
        })
    }

    /// Performs an effect as recorded, first looking whether it was done.
    fn effect(&mut self, key: &str) -> EffectResult {
        let kind = self.effects[key].clone();
        match kind {
            EffectKind::MoveBranch {
                branch, old, new, ..
            } => {
                let found = self.branches.get(&branch).cloned();
                let change = self.change(&new);
                if found.as_ref() == Some(&new) {
                    return EffectResult::Moved { change };
                }
                if found != old {
                    let found = found.map(|found| (found.clone(), self.change(&found)));
                    return EffectResult::BranchTaken { found };
                }
                if self.trouble && self.dice.roll(20) == 0 {
                    let why = "a directory is in the way".into();
                    return EffectResult::Failed { why };
                }
                self.changes(key);
                self.branches.insert(branch, new);
                EffectResult::Moved { change }
            }
            EffectKind::AdvanceTarget { pr, old, new, .. } => {
                if self.target == new {
                    return EffectResult::Done;
                }
                if self.target != old {
                    return EffectResult::TargetMoved;
                }
                match if self.trouble { self.dice.roll(20) } else { 9 } {
                    0 | 1 => EffectResult::TargetRefused {
                        why: "a file is in the way".into(),
                    },
                    2 => EffectResult::WorktreeChanged {
                        worktree: Some("/elsewhere".into()),
                    },
                    _ => {
                        self.changes(key);
                        self.target = new;
                        self.merged.push(pr.0);
                        EffectResult::Done
                    }
                }
            }
        }
    }

    fn changes(&mut self, key: &str) {
        assert!(self.changed.insert(key.to_owned()), "{key} was done twice");
    }
}
