//! What agents do in their containers.

use crate::world::World;
use factory_core::{
    grant::Role,
    ids::RunId,
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::ContainerExit,
    plan::Seen,
};

/// The last line of an engine that did all it could.
const DONE: &str = r#"{"type": "result", "is_error": false, "result": "It is done."}"#;

impl World {
    /// The agent in the container does its work at once.
    pub fn live(&mut self, id: RunId) {
        let run = self.state.runs[&id].clone();
        let luck = if self.trouble { self.dice.roll(10) } else { 9 };
        let refused = self.trouble && luck == 5;
        // What its engine says of itself, where it is one that does.
        let is_known = run.engine.known().is_some() && run.grant.role.has_engine();
        let malformed = self.trouble && luck == 6 && run.grant.role.only_reads();
        let end = |world: &mut Self, exit: EngineExit| {
            let last_output = match (is_known, &exit) {
                (true, EngineExit::Code(0)) => DONE,
                (true, _) => "",
                (false, _) => "words: #\n---\n",
            };
            let end = RunEnd {
                exit,
                last_output: last_output.into(),
                stderr_tail: String::new(),
                report_problem: malformed.then(|| "line 1 column 1".into()),
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
                match luck {
                    3 | 7 => 1,
                    4 => 124,
                    5 if self.trouble => 125,
                    _ => 0,
                }
            }
        };
        self.containers
            .insert(id, Seen::Exited(ContainerExit { code, oom: false }));
    }
}
