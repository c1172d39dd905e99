//! How long a killed factory takes to have its live agents back.

use crate::{
    listen::{At, Running},
    table::{Table, Values},
};
use factory_core::state::State;
use factory_ledger::state::StateRepo;
use factory_runtime::{
    Runtime,
    docker::{DockerRuntime, connect},
};
use factory_tests::Lab;
use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

/// Live agents.
const AGENTS: usize = 8;
/// Measured recoveries of each kind; one more comes first and is not counted.
const SAMPLES: usize = 7;
/// As an engine that waits for its model.
const WAITS: &str = "cat >/dev/null\nexec sleep 100000\n";

/// What any program has to do that finds its agents again: start, ask the
/// engine for its containers, read the state.
fn floor(lab: &Lab, runtime: &tokio::runtime::Runtime, home: &str) -> f64 {
    let began = At::now();
    let started = lab.factory().arg("--version").output().unwrap();
    assert!(started.status.success());
    let found = runtime.block_on(async {
        let engine = DockerRuntime::new(connect().await.unwrap()).await.unwrap();
        engine.list(home).await.unwrap()
    });
    assert_eq!(found.len(), AGENTS);
    let store = StateRepo::open(&places(lab)).unwrap();
    let head = store.head().unwrap().unwrap();
    let state = State::decode(&store.read_live(&head).unwrap()).unwrap();
    assert_eq!(state.runs.len(), AGENTS);
    At::now().since(began)
}

fn places(lab: &Lab) -> factory_ledger::places::Places {
    factory_ledger::places::Places::below(lab.repo().join(".git"))
}

/// Waits until every agent's door is open.
fn doors_are_open(lab: &Lab) -> At {
    let door = |n: usize| -> PathBuf { lab.below(&format!("run/r{n}-1/gw.sock")) };
    for n in 1..=AGENTS {
        // The path of a deep directory is longer than an address may be.
        let dir = std::fs::File::open(door(n).parent().unwrap()).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
        let address = format!("/proc/self/fd/{fd}/gw.sock");
        while UnixStream::connect(&address).is_err() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    At::now()
}

/// Kills launcher and kernel, and the gateway as well, with agents at work.
pub fn measure(table: &mut Table) {
    let lab = Lab::new();
    lab.scripted(WAITS, &format!("slots: {AGENTS}\n"));
    let mut factory = Running::start(&lab);
    for n in 1..=AGENTS {
        lab.approved(&format!("Wait {n}"), "");
    }
    for n in 1..=AGENTS {
        factory.lines.said(&format!("run r{n}-1: running"));
    }
    let home = lab.home().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut bare, mut kernel, mut all) = (Values::default(), Values::default(), Values::default());
    for sample in 0..=SAMPLES {
        let measured = [
            (&["kernel"][..], &mut kernel),
            (&["gateway", "kernel"], &mut all),
        ];
        for (killed, values) in measured {
            let floor = floor(&lab, &runtime, &home);
            factory.killed(&lab, killed);
            let began = At::now();
            factory = Running::begin(&lab);
            let adopted = (1..=AGENTS).map(|n| format!("r{n}-1")).collect::<Vec<_>>();
            let adopted = format!(", adopted {}", adopted.join(", "));
            let adopted = factory.lines.said(&adopted);
            let recovered = doors_are_open(&lab).max(adopted);
            if sample > 0 {
                bare.0.push(floor);
                values.0.push(recovered.since(began));
            }
        }
    }
    let said = lab.say(&["stop", "--now"]);
    assert_eq!(said.code, 0, "{}", said.err);
    factory.ended(&lab);
    lab.assert_at_rest();
    table.times("Recovery with 8 live agents: `factory start` -> all adopted, ms");
    table.row(
        "bare: a process start, one `docker ps`, the state read",
        &bare,
    );
    table.row("launcher and kernel were killed", &kernel);
    table.ratio("  beside the bare steps", &kernel, &bare);
    table.row("the gateway as well: until all doors are open", &all);
    table.ratio("  beside the bare steps", &all, &bare);
}
