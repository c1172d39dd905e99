//! What every world is made of.

use crate::world::World;
use factory_core::{
    config::{Amounts, AutoMerge, Config, EngineKind, Gate, Gates, Slots},
    event::{Command, Event},
    ids::Oid,
    quantity::{Bytes, Milli},
};

/// A deterministic source of choices.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub fn oid(n: u64) -> Oid {
    // Different from the first digit on, as real ones are.
    format!("{n:08x}{n:032x}").parse().unwrap()
}

/// Large enough for everything.
pub fn engine() -> Amounts {
    Amounts {
        memory: Bytes(64 << 30),
        cpus: Milli(16_000),
    }
}

pub fn config(auto: bool) -> Config {
    let gate = if auto { Gate::Auto } else { Gate::Human };
    Config {
        slots: Slots::Fixed(2),
        engine: EngineKind::Command(vec!["agent".into()]),
        checks: vec!["true".into()],
        gates: Gates {
            issues: gate,
            plan: Gate::Auto,
            merge: gate,
        },
        rounds: 3,
        auto_merge: AutoMerge {
            review: false,
            ..AutoMerge::default()
        },
        ..Config::default()
    }
}

pub fn file(world: &mut World, title: &str) {
    let command = Command::NewIssue {
        title: title.into(),
        body: "body\n---\n: # \"'\n".into(),
        labels: Vec::new(),
        done: Vec::new(),
    };
    assert!(world.journal(Event::Command {
        by: "ann".into(),
        command
    }));
}
