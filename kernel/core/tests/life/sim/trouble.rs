//! What goes wrong beside agents: providers, the container engine, clocks, kernels; and
//! what users change under the factory.

use super::{HOUR, Happens, MINUTE, SECOND, Sim, config};
use factory_core::{config::Gate, event::Event, model::KernelId, plan::Seen};

/// What goes wrong again and again.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// No code run can do its work for a while.
    Outage,
    /// The container engine goes away, mostly with all containers.
    EngineLoss,
    /// The clock is set, to or fro.
    ClockSet,
    /// The kernel dies, and another one starts.
    KernelDies,
    /// `factory.yaml` is changed: slots and gates.
    ConfigChanged,
    /// A user commits to the target or to a work branch.
    UserCommits,
}

/// How a provider is out.
#[derive(Clone, Copy)]
pub enum Outage {
    /// It refuses, which no other try mends.
    Refuses,
    /// Its answers break off.
    Breaks,
}

impl Trouble {
    pub const ALL: [Trouble; 6] = [
        Trouble::Outage,
        Trouble::EngineLoss,
        Trouble::ClockSet,
        Trouble::KernelDies,
        Trouble::ConfigChanged,
        Trouble::UserCommits,
    ];

    /// Hours from one to the next, about.
    fn every(self) -> i64 {
        match self {
            Trouble::Outage | Trouble::EngineLoss => 6,
            Trouble::ClockSet | Trouble::KernelDies => 3,
            Trouble::ConfigChanged => 8,
            Trouble::UserCommits => 1,
        }
    }
}

impl Sim {
    /// Trouble is on its way.
    pub fn comes(&mut self, trouble: Trouble) {
        let every = trouble.every() * HOUR;
        let at = self.between(every / 4, 2 * every);
        self.after(at, Happens::Trouble(trouble));
    }

    pub fn trouble(&mut self, trouble: Trouble) {
        if self.calm {
            return;
        }
        match trouble {
            Trouble::Outage => {
                let (outage, most) = match self.chance(30) {
                    true => (Outage::Refuses, 10),
                    false => (Outage::Breaks, 40),
                };
                self.outage = Some(outage);
                let lasts = self.between(2 * MINUTE, most * MINUTE);
                self.after(lasts, Happens::ProviderBack);
            }
            Trouble::EngineLoss => {
                let away = self.between(10 * SECOND, 5 * MINUTE);
                self.engine_away = self.time + away;
                if self.chance(60) {
                    self.world
                        .containers
                        .retain(|_, seen| *seen != Seen::Running);
                }
                self.after(away, Happens::Again);
            }
            Trouble::ClockSet => {
                let most = match self.roll(10) {
                    0 => 2 * 24 * 3600,
                    1..4 => 3600,
                    _ => 600,
                };
                self.skew += self.between(-most, most);
            }
            Trouble::KernelDies => self.kernel_dies(),
            Trouble::ConfigChanged => {
                let slots = [16, 16, 16, 12, 8][self.roll(5) as usize];
                let mut config = config(slots);
                for gate in [&mut config.gates.issues, &mut config.gates.merge] {
                    if self.world.dice.roll(2) == 0 {
                        *gate = Gate::Auto;
                    }
                }
                self.deliver(Event::ConfigLoaded {
                    commit: None,
                    config: Box::new(config),
                });
            }
            Trouble::UserCommits => {
                let commit = self.world.oid();
                let branches = self.world.branches.len() as i64;
                if branches > 0 && self.chance(30) {
                    let which = self.roll(branches) as usize;
                    let branch = self.world.branches.values_mut().nth(which);
                    *branch.unwrap() = commit;
                } else {
                    self.world.target = commit;
                }
            }
        }
        self.comes(trouble);
    }

    /// What it was at is over; the next one has the state and what it sees.
    pub fn kernel_dies(&mut self) {
        self.tasks.clear();
        self.kernel += 1;
        let runs = self.world.state.runs.values().filter(|run| run.is_open());
        let lives = |id: &_| self.world.containers.get(id) == Some(&Seen::Running);
        let adopted = runs.map(|run| run.id).filter(lives).collect();
        let kernel = KernelId {
            host: "h".into(),
            pid: 1,
            boot: "b".into(),
            since: self.clock().0,
            start: None,
            slots: None,
            engine: Some(self.observed().engine),
        };
        self.deliver(Event::KernelStarted { kernel, adopted });
    }
}
