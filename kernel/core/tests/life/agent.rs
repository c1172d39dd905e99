//! What agents do in their containers.

use crate::world::World;
use factory_core::{
    grant::Role,
    ids::RunId,
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::ContainerExit,
    plan::Seen,
};

impl World {
    /// The agent in the container does its work at once.
    pub fn live(&mut self, id: RunId) {
        let run = self.state.runs[&id].clone();
        let luck = if self.trouble { self.dice.roll(10) } else { 9 };
        let refused = self.trouble && luck == 5;
        let end = |world: &mut Self, exit| {
            let end = RunEnd {
                exit,
                last_output: "words: #\n---\n".into(),
                stderr_tail: String::new(),
                report_problem: None,
                push_problem: refused.then(|| "not a fast-forward".into()),
            };
            world.push_inbox(id, InboxEntry::End(end));
        };
        let code = match (run.grant.role, luck) {
            (_, 0) => 137,
            (Role::Code, 1) => {
                end(self, EngineExit::Code(0));
                0
            }
            (Role::Code, luck) => {
                let (saved, new) = (self.oid(), self.oid());
                self.push_inbox(id, InboxEntry::Checkpoint { commit: saved });
                let old = run.grant.start.clone();
                self.push_inbox(id, InboxEntry::Push { old, new });
                self.push_inbox(
                    id,
                    InboxEntry::Usage(Usage {
                        status: 200,
                        ..Usage::default()
                    }),
                );
                for json in (self.reports)(id, &mut self.dice) {
                    self.push_inbox(id, InboxEntry::Report { json });
                }
                // Dead before its last word.
                let dies = luck == 4 && self.dice.roll(2) == 0;
                if !dies {
                    end(self, EngineExit::Code(i32::from(luck == 2)));
                }
                if dies { 137 } else { 0 }
            }
            (Role::Split | Role::Plan | Role::Review, luck) => {
                let json = crate::handed::report(self, &run, luck);
                if let Some(json) = json {
                    self.push_inbox(id, InboxEntry::Report { json });
                }
                end(self, EngineExit::Code(i32::from(luck == 2)));
                0
            }
            (Role::Check, luck) => {
                end(self, EngineExit::Code(0));
                if luck == 3 { 1 } else { 0 }
            }
        };
        self.containers
            .insert(id, Seen::Exited(ContainerExit { code, oom: false }));
    }
}
