//! What a factory costs that has nothing to do.

use crate::{
    listen::Running,
    process::{Process, Thread},
    table::Table,
};
use factory_tests::{Lab, processes};
use std::time::Duration;

/// Threads for blocking work end after ten seconds without any.
const SETTLE: Duration = Duration::from_secs(12);
const WATCHED: Duration = Duration::from_secs(60);
/// Most that all together may use of a core, in percent.
const MOST: f64 = 0.1;
/// Most wakes of all together in a minute: those of one safety reconcile, which
/// comes every five minutes and asks the container engine once.
const MOST_WAKES: f64 = 20.0;

/// Runs whose agent waits, as for its model.
const WAITS: &str = "cat >/dev/null\nexec sleep 100000\n";

/// Watches the processes while nothing is to do: beside an agent that is silent,
/// and when that run has ended and an issue waits at its gate.
pub fn measure(table: &mut Table) {
    let lab = Lab::new();
    lab.scripted(WAITS, "");
    let mut factory = Running::start(&lab);
    lab.approved("Wait", "");
    factory.lines.said("run r1-1: running");
    watch(
        table,
        &lab,
        &mut factory,
        "Nothing to do beside an agent that is silent",
    );
    lab.ok(&["issue", "new", "--title", "Waits for a person"]);
    lab.ok(&["issue", "close", "1"]);
    factory.lines.said("run r1-1: collected");
    watch(
        table,
        &lab,
        &mut factory,
        "Nothing to do: a run has ended, an issue waits at its gate",
    );
    factory.stop(&lab);
}

fn watch(table: &mut Table, lab: &Lab, factory: &mut Running, title: &str) {
    factory.lines.quiet(SETTLE);
    // The launcher is known by its program, the others by their repository.
    let all = processes(lab.repo().parent().unwrap());
    let watched: Vec<_> = [
        ("launcher", "start"),
        ("kernel", "kernel"),
        ("gateway", "gateway"),
    ]
    .into_iter()
    .map(|(name, role)| {
        let found = all.iter().find(|p| p.is(role));
        let found = found.unwrap_or_else(|| panic!("no {role} among {all:?}"));
        let process = Process::of(found.pid);
        assert!(process.sleeps(), "the {name} does not sleep");
        let before = process.threads();
        (name, process, before)
    })
    .collect();
    factory.lines.silence(WATCHED);
    table.heading(
        title,
        &["RSS MiB", "PSS MiB", "threads", "% of core", "wakes/min"],
    );
    let seconds = WATCHED.as_secs_f64();
    let (mut core, mut wakes) = (0.0, 0.0);
    for (name, process, before) in &watched {
        let after = process.threads();
        let done = |of: fn(&Thread) -> u64| -> f64 {
            let begun = |id| before.get(id).copied().unwrap_or_default();
            let sum: u64 = after
                .iter()
                .map(|(id, now)| of(now).saturating_sub(of(&begun(id))))
                .sum();
            sum as f64
        };
        let (percent, per_minute) = (
            done(|t| t.cpu) / 1e7 / seconds,
            done(|t| t.sleeps) * 60.0 / seconds,
        );
        core += percent;
        wakes += per_minute;
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        table.line(
            name,
            [
                mib(process.number("status", "VmRSS")),
                mib(process.number("smaps_rollup", "Pss")),
                after.len().to_string(),
                format!("{percent:.4}"),
                format!("{per_minute:.1}"),
            ],
        );
    }
    table.limit("a core, together", core, MOST, " %");
    table.limit("wakes a minute, together", wakes, MOST_WAKES, "");
}
