//! One decision of the scheduler, with few and with many jobs in line.

use crate::{
    life,
    table::{Table, Values},
};
use factory_core::{
    config::Amounts,
    event::{Command, Event, Now},
    ids::IssueNo,
    plan::{Observed, plan},
    quantity::{Bytes, Milli},
    state::State,
    step::step,
};
use std::{hint::black_box, time::Instant};

/// Jobs in line.
const FEW: u64 = 100;
const MANY: u64 = 100_000;
/// Decisions that are measured of each, in turns.
const DECISIONS: usize = 300;
/// Longest that one may take, in milliseconds.
const MOST: f64 = 1.0;
/// Most that a thousand times as many jobs may add.
const GROWTH: f64 = 2.0;

/// A state whose issues are all approved and wait for a slot.
fn in_line(jobs: u64) -> State {
    let mut state = State::new("bench".to_owned(), "main".to_owned());
    let mut journal = |event, now| {
        let made = step(&state, event, Now(now)).unwrap();
        state.apply(made.delta);
    };
    journal(
        Event::ConfigLoaded {
            commit: None,
            config: Box::new(life::config()),
        },
        0,
    );
    let labels = ["priority/low", "ui", "priority/high", "priority/critical"];
    for n in 1..=jobs {
        let order = |command| Event::Command {
            by: "Uma User".to_owned(),
            command,
        };
        // A third of them touch what others do.
        let body = match n % 3 {
            0 => format!("What is asked for.\n\nTouches: part{}\n", n % 50),
            _ => "What is asked for.\n".to_owned(),
        };
        let new = Command::NewIssue {
            title: format!("Issue {n}"),
            body,
            labels: vec![labels[(n % 4) as usize].to_owned()],
            done: Vec::new(),
        };
        journal(order(new), n as i64);
        journal(order(Command::Approve(IssueNo(n))), n as i64);
    }
    state
}

/// Decides with eight free slots, and prints what a decision takes.
pub fn measure(table: &mut Table) {
    let observed = Observed {
        slots: Some(8),
        engine: Amounts {
            memory: Bytes(64 << 30),
            cpus: Milli(16_000),
        },
        ..Observed::default()
    };
    let states = [FEW, MANY].map(in_line);
    let mut times = [Values::default(), Values::default()];
    for _ in 0..DECISIONS {
        for (state, times) in states.iter().zip(&mut times) {
            let begun = Instant::now();
            let actions = black_box(plan(black_box(state), &observed, Now(200_000)));
            times.0.push(begun.elapsed().as_secs_f64() * 1e3);
            assert_eq!(actions.len(), 8, "one start for each slot");
        }
    }
    let [few, many] = times;
    table.heading(
        "a decision of the scheduler, in µs",
        &["min", "median", "max"],
    );
    for (name, values) in [(FEW, &few), (MANY, &many)] {
        let micros = Values(values.0.iter().map(|ms| ms * 1e3).collect());
        table.row(&format!("{name} jobs in line"), &micros);
    }
    table.limit("at 100,000, in ms", many.median(), MOST, " ms");
    let growth = many.median() / few.median();
    table.limit("growth from 100 to 100,000", growth, GROWTH, " x");
}
