//! What a factory costs that has nothing to do.

use crate::{listen::Running, table::Table};
use factory_tests::{Lab, processes};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Threads for blocking work end after ten seconds without any.
const SETTLE: Duration = Duration::from_secs(12);
const WATCHED: Duration = Duration::from_secs(60);
/// Most that all together may use of a core, in percent.
const MOST: f64 = 0.1;
/// Most wakes of all together in a minute: those of one safety reconcile, which
/// comes every five minutes and asks the container engine once.
const MOST_WAKES: f64 = 20.0;

/// What one thread did so far.
#[derive(Default, Clone, Copy)]
struct Thread {
    /// Nanoseconds on a core.
    cpu: u64,
    /// Times that it went to sleep by itself.
    sleeps: u64,
}

struct Process {
    dir: PathBuf,
}

impl Process {
    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// A number after `label` in a file of `label: number [unit]` lines.
    fn number(&self, file: &str, label: &str) -> u64 {
        number(&self.file(file), label)
    }

    fn sleeps(&self) -> bool {
        // After the name, which may hold anything, in brackets.
        self.file("stat")
            .rsplit(") ")
            .next()
            .unwrap()
            .starts_with('S')
    }

    fn threads(&self) -> BTreeMap<String, Thread> {
        let entries = std::fs::read_dir(self.dir.join("task")).unwrap();
        let thread = |entry: std::fs::DirEntry| {
            let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap();
            let cpu = read("schedstat")
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let sleeps = number(&read("status"), "voluntary_ctxt_switches");
            (
                entry.file_name().to_str().unwrap().to_owned(),
                Thread { cpu, sleeps },
            )
        };
        entries.map(|entry| thread(entry.unwrap())).collect()
    }
}

fn number(text: &str, label: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
    let words = line.unwrap_or_else(|| panic!("no {label} in:\n{text}"));
    words.split_whitespace().next().unwrap().parse().unwrap()
}

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
        let process = Process {
            dir: format!("/proc/{}", found.pid).into(),
        };
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
