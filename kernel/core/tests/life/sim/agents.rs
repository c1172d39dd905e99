//! Agents and checks: how long they take, and how they end.

use super::{HOUR, Happens, MINUTE, Outage, SECOND, Sim};
use crate::{handed, world::World};
use factory_core::{
    grant::Role,
    ids::RunId,
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::{ContainerExit, Purpose},
    plan::Seen,
};

/// How a run ends.
#[derive(Clone, Copy)]
pub enum End {
    /// It pushed, and says so.
    Pushes,
    /// It hands in its report.
    HandsIn,
    /// A later push was refused.
    PushesInPart,
    /// It reports success and pushed nothing.
    Lies,
    /// The engine broke off.
    Breaks {
        /// It pushed before.
        pushed: bool,
    },
    /// It said nothing any more.
    Stalls,
    /// It took too long.
    TakesTooLong,
    /// Its work tree grew beyond its limit.
    FillsDisk,
    /// It ran out of memory.
    OutOfMemory,
    /// Its container was killed from outside.
    Killed,
    /// Its container is gone.
    Vanishes,
    /// It used up what it may.
    OverBudget,
    /// The provider does not let it in.
    Refused,
    /// A check ended with this exit code.
    Verdict(i64),
}

/// Of so many issues one is too hard for every agent.
const HOPELESS: u64 = 40;

/// The last line of an engine that did all it could.
const DONE: &str = r#"{"type": "result", "is_error": false, "result": "It is done."}"#;

impl Sim {
    /// A container was started: decides how it ends, and when.
    pub fn lives(&mut self, run: RunId) {
        let Some(live) = self.world.state.runs.get(&run) else {
            return;
        };
        let (role, purpose) = (live.grant.role, live.purpose.clone());
        let (takes, end) = match (role, purpose) {
            (Role::Code, _) if run.job.0.is_multiple_of(HOPELESS) => (MINUTE, End::Lies),
            (Role::Code, _) => self.code(),
            (Role::Split | Role::Plan | Role::Review, _) => self.read(),
            (Role::Check, Purpose::MergeTest { .. }) => self.check(20 * SECOND, MINUTE, 95),
            (Role::Check, _) => self.check(30 * SECOND, 5 * MINUTE, 80),
        };
        if role == Role::Code && self.chance(30) {
            let at = self.roll(takes);
            self.after(at, Happens::Saved(run));
        }
        self.after(takes, Happens::Ends(run, end));
    }

    fn code(&mut self) -> (i64, End) {
        let works = self.between(2 * MINUTE, 20 * MINUTE);
        match self.outage {
            Some(Outage::Refuses) => return (self.between(5 * SECOND, MINUTE), End::Refused),
            Some(Outage::Breaks) => {
                let pushed = self.chance(10);
                return (self.between(5 * SECOND, MINUTE), End::Breaks { pushed });
            }
            None => {}
        }
        match self.roll(100) {
            0..6 => (works, End::Lies),
            6..10 => (works, End::Breaks { pushed: false }),
            10..12 => (works, End::Breaks { pushed: true }),
            12..15 => (works + 10 * MINUTE, End::Stalls),
            15 => (45 * MINUTE, End::TakesTooLong),
            16 => (works, End::FillsDisk),
            17..20 => (works, End::OutOfMemory),
            20..22 => (works, End::Killed),
            22..24 => (works, End::Vanishes),
            24..26 => (works, End::PushesInPart),
            26 => (works, End::OverBudget),
            _ => (works, End::Pushes),
        }
    }

    /// What only reads: most hand in what they should.
    fn read(&mut self) -> (i64, End) {
        match (self.outage, self.chance(90)) {
            (None, true) => (self.between(MINUTE, 4 * MINUTE), End::HandsIn),
            _ => match self.code() {
                (takes, End::Pushes | End::PushesInPart) => (takes, End::HandsIn),
                other => other,
            },
        }
    }

    fn check(&mut self, least: i64, most: i64, green: i64) -> (i64, End) {
        let takes = self.between(least, most);
        match self.roll(100) {
            luck if luck < green => (takes, End::Verdict(0)),
            97 => (takes, End::Killed),
            98 => (HOUR, End::Verdict(124)),
            99 => (takes, End::Verdict(125)),
            _ => (takes, End::Verdict(1)),
        }
    }

    fn is_running(&self, run: RunId) -> bool {
        self.world.containers.get(&run) == Some(&Seen::Running)
            && self.world.state.runs.contains_key(&run)
    }

    pub fn saved(&mut self, run: RunId) {
        if self.is_running(run) {
            let commit = self.world.oid();
            self.world
                .push_inbox(run, InboxEntry::Checkpoint { commit });
            self.world.now = self.clock().0;
            self.world.drain(run);
        }
    }

    pub fn ends(&mut self, run: RunId, end: End) {
        // Killed meanwhile, or gone with the engine.
        if !self.is_running(run) {
            return;
        }
        let world = &mut self.world;
        let (said, code, oom) = match end {
            End::Pushes => {
                push(world, run);
                (Some(word(EngineExit::Code(0))), 0, false)
            }
            End::HandsIn => {
                let live = world.state.runs[&run].clone();
                let asks = world.dice.roll(100) < 15;
                let json = match (live.grant.role, asks) {
                    (Role::Review, true) => Some(handed::review("request_changes", 0.9)),
                    _ => handed::report(world, &live, 9),
                };
                if let Some(json) = json {
                    world.push_inbox(run, InboxEntry::Report { json });
                }
                (Some(word(EngineExit::Code(0))), 0, false)
            }
            End::PushesInPart => {
                push(world, run);
                let end = RunEnd {
                    push_problem: Some("not a fast-forward".into()),
                    ..word(EngineExit::Code(0))
                };
                (Some(end), 0, false)
            }
            End::Lies => {
                let json = r#"{"summary": "All of it is done."}"#.to_owned();
                world.push_inbox(run, InboxEntry::Report { json });
                (Some(word(EngineExit::Code(0))), 0, false)
            }
            End::Breaks { pushed } => {
                if pushed {
                    push(world, run);
                }
                let end = RunEnd {
                    last_output: String::new(),
                    ..word(EngineExit::Code(1))
                };
                (Some(end), 0, false)
            }
            End::Stalls => (Some(word(EngineExit::Stalled)), 0, false),
            End::FillsDisk => (Some(word(EngineExit::OutOfDisk)), 0, false),
            End::TakesTooLong => (Some(word(EngineExit::Deadline)), 0, false),
            End::OutOfMemory => (None, 137, true),
            End::Killed => (None, 137, false),
            End::Vanishes => {
                world.containers.remove(&run);
                return;
            }
            End::OverBudget => {
                world.push_inbox(run, InboxEntry::OverBudget);
                (Some(word(EngineExit::Code(1))), 0, false)
            }
            End::Refused => {
                called(world, run, 402);
                (Some(word(EngineExit::Code(1))), 0, false)
            }
            End::Verdict(code) => (Some(word(EngineExit::Code(0))), code, false),
        };
        if let Some(said) = said {
            world.push_inbox(run, InboxEntry::End(said));
        }
        let exit = ContainerExit { code, oom };
        world.containers.insert(run, Seen::Exited(exit));
    }
}

fn push(world: &mut World, run: RunId) {
    let (old, new) = (world.state.runs[&run].grant.start.clone(), world.oid());
    called(world, run, 200);
    world.push_inbox(run, InboxEntry::Push { old, new });
}

fn called(world: &mut World, run: RunId, status: u16) {
    let usage = Usage {
        status,
        ..Usage::default()
    };
    world.push_inbox(run, InboxEntry::Usage(usage));
}

fn word(exit: EngineExit) -> RunEnd {
    RunEnd {
        exit,
        last_output: DONE.into(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    }
}
