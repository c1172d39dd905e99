//! Many short agents over few slots: how many containers there are at a time, and how
//! long it takes beside the same containers made by the container engine alone.

use crate::{
    bare::Bare,
    listen::{At, Events, Span},
    spawn::{Work, say},
    table::Table,
};
use factory_tests::Lab;

const AGENTS: usize = 64;
const SLOTS: usize = 8;
/// What ours gets done in the time in which the engine alone gets one done.
const LEAST: f64 = 0.85;
/// How long agents wait, as for one answer of a model, in seconds. With the first the
/// engine's own work fills a small machine: what is seen is what a run costs beside that.
const ANSWERS: [u32; 2] = [1, 5];

/// Waits, then hands in a commit.
const AGENT: &str = "cat >/dev/null
set -eu
sleep SECONDS
date +%s%N >moment.txt
git add moment.txt
git commit -q -m 'Note the moment'
git push -q
";

/// Enough memory for all slots on a small machine.
const CONFIG: &str = "slots: 8\nrequests: {memory: 256MiB}\n";

/// What the agent around it does: a checkout, the script, its end. It pushes to a
/// repository of its own.
const BARE: &str = "set -eu
git config --global safe.directory '*'
git clone -q -s -b main /factory/base.git tree
cd tree
git remote set-url origin /workspace/door.git
git checkout -q -b work
git config push.default current
exec sh ./agent.sh </dev/null
";

/// How long they took together, and how many there were at a time.
struct Took {
    seconds: f64,
    most: usize,
}

/// From the first container's creation to the last one's removal.
fn took(spans: &[Span]) -> Took {
    assert_eq!(spans.len(), AGENTS, "each container is made once");
    let first = spans.iter().map(|span| span.created).min().unwrap();
    let last = spans.iter().map(|span| span.gone).max().unwrap();
    let at_once = |at: At| {
        let there = |span: &&Span| span.created <= at && at < span.gone;
        spans.iter().filter(there).count()
    };
    Took {
        seconds: last.since(first) / 1000.0,
        most: spans
            .iter()
            .map(|span| at_once(span.created))
            .max()
            .unwrap(),
    }
}

fn alone(bare: &mut Bare) -> Took {
    let mut events = Events::record();
    let names = bare.many(AGENTS, SLOTS, BARE);
    took(&events.spans(&names))
}

/// 64 short agents over 8 slots.
pub fn measure(table: &mut Table) {
    table.heading(
        &format!("{AGENTS} short agents over {SLOTS} slots, s"),
        &["together", "at a time"],
    );
    for seconds in ANSWERS {
        let ratio = agents(table, seconds);
        table.least("throughput beside Docker alone", ratio, LEAST);
    }
}

/// What ours gets done of agents that wait so many seconds, in the time in which the
/// engine alone gets one done.
fn agents(table: &mut Table, seconds: u32) -> f64 {
    let lab = Lab::new();
    lab.scripted(&AGENT.replace("SECONDS", &seconds.to_string()), CONFIG);
    // One that is not counted: it brings the target's history and fills caches.
    let mut work = Work::begin(&lab);
    work.spawn(1);
    let run = work.ended(1);
    work.end();
    let numbers = 2..=AGENTS + 1;
    for number in numbers.clone() {
        let title = format!("Sample {number}.");
        say(&lab, &["issue", "new", "--title", &title]);
        say(&lab, &["issue", "approve", &number.to_string()]);
    }
    let mut floor = Bare::like(&lab, &run);
    let before = alone(&mut floor);
    let mut work = Work::begin(&lab);
    let names: Vec<_> = numbers.clone().map(|n| work.container(n)).collect();
    let ours = took(&work.events.spans(&names));
    work.end();
    let after = alone(&mut floor);
    for number in numbers {
        let branch = format!("factory/{number}-sample-{number}");
        lab.git(&["rev-parse", "--verify", "--quiet", &branch]);
    }
    assert!(ours.most <= SLOTS, "{} containers at a time", ours.most);
    let mut row = |name: &str, took: &Took| {
        table.line(
            &format!("{name}, {seconds} s each"),
            [format!("{:.1}", took.seconds), took.most.to_string()],
        );
    };
    row("Docker alone, before", &before);
    row("Docker alone, after", &after);
    row("ours", &ours);
    (before.seconds + after.seconds) / 2.0 / ours.seconds
}
