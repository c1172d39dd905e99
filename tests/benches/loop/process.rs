//! What a process uses, as the system counts it.

use std::{collections::BTreeMap, path::PathBuf};

/// What one thread did so far.
#[derive(Default, Clone, Copy)]
pub struct Thread {
    /// Nanoseconds on a core.
    pub cpu: u64,
    /// Times that it went to sleep by itself.
    pub sleeps: u64,
}

/// A running process.
pub struct Process {
    dir: PathBuf,
}

impl Process {
    /// The process of this id.
    pub fn of(pid: u32) -> Self {
        Self {
            dir: format!("/proc/{pid}").into(),
        }
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// A number after `label` in a file of `label: number [unit]` lines.
    pub fn number(&self, file: &str, label: &str) -> u64 {
        number(&self.file(file), label)
    }

    /// Whether it waits for something.
    pub fn sleeps(&self) -> bool {
        // After the name, which may hold anything, in brackets.
        self.file("stat")
            .rsplit(") ")
            .next()
            .unwrap()
            .starts_with('S')
    }

    /// What each of its threads did, by id.
    pub fn threads(&self) -> BTreeMap<String, Thread> {
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

    /// Nanoseconds on a core so far, of the threads that there are.
    pub fn cpu(&self) -> u64 {
        self.threads().values().map(|thread| thread.cpu).sum()
    }

    /// Forgets the most memory that it ever had: [`Process::most`] begins anew.
    pub fn forget_most(&self) {
        std::fs::write(self.dir.join("clear_refs"), "5").unwrap();
    }

    /// Most KiB of memory that it had at a time.
    pub fn most(&self) -> u64 {
        self.number("status", "VmHWM")
    }

    /// KiB of memory that it has.
    pub fn memory(&self) -> u64 {
        self.number("status", "VmRSS")
    }
}

fn number(text: &str, label: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
    let words = line.unwrap_or_else(|| panic!("no {label} in:\n{text}"));
    words.split_whitespace().next().unwrap().parse().unwrap()
}
