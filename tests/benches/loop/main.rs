//! `make bench`: what a spawn costs beside the bare container engine, how soon each
//! engine asks its model beside the same program without us, what a journalled
//! step costs beside bare libgit2, how soon a killed factory has its agents back,
//! what one costs that has nothing to do, what the gateway costs a model's stream, and how
//! much many short agents get done over few slots. Floors are measured in the same run, in turns with what stands beside
//! them: the ratios say something, the times only something of this machine.

#![expect(
    clippy::unwrap_used,
    reason = "a measurement ends at what it did not expect"
)]

mod archive;
mod bare;
mod decide;
mod engine;
mod gateway;
mod idle;
mod life;
mod listen;
mod process;
mod raw;
mod recover;
mod slots;
mod spawn;
mod state;
mod table;

use std::process::ExitCode;
use table::Table;

/// Measures one thing and enters it.
type Measure = fn(&mut Table);

/// What is measured, in this order; names on the command line choose.
const PARTS: [(&str, Measure); 10] = [
    ("state", state::measure),
    ("decide", decide::measure),
    ("idle", idle::measure),
    ("recover", recover::measure),
    ("gateway", gateway::measure),
    ("command", spawn::command),
    ("slots", slots::measure),
    ("claude", engine::claude),
    ("codex", engine::codex),
    ("mini", engine::mini),
];

/// What others do beside the same floor: only by name.
const PEERS: (&str, Measure) = ("peers", gateway::peers);

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    // Only `cargo bench` says so; in a debug build the figures would mean nothing.
    if !asked.iter().any(|arg| arg == "--bench") {
        println!("skipped: loop: run it by `make bench`");
        return ExitCode::SUCCESS;
    }
    let named: Vec<_> = asked.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut table = Table::default();
    for (name, measure) in PARTS {
        if named.is_empty() || named.iter().any(|asked| *asked == name) {
            measure(&mut table);
        }
    }
    let (peers, measure) = PEERS;
    if named.iter().any(|asked| *asked == peers) {
        measure(&mut table);
    }
    print!("{table}");
    for line in table.exceeded() {
        eprintln!("bench: beyond its limit: {line}");
    }
    match table.exceeded() {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
