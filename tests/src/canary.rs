//! Looks for words in all that a process holds, in repositories, files and images.

use rustix::process::getuid;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{ErrorKind, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    thread::JoinHandle,
};

/// Bytes of a page of memory.
const PAGE: u64 = 4096;

/// Looks for a few words, with the name that may follow: `<word>-<name>_`.
#[derive(Debug, Clone)]
pub struct Search(Vec<String>);

impl Search {
    /// For these words, of letters, digits, `-` and `:` alone.
    pub fn of(words: &[&str]) -> Self {
        Self(words.iter().map(|&word| word.to_owned()).collect())
    }

    /// What stands in everything that `feed` writes. Whatever is read goes through one pipe, so
    /// that the size of it does not matter; grep is quicker than a test that is not optimised.
    fn run(&self, feed: impl FnOnce(&mut dyn Write)) -> BTreeSet<String> {
        let mut grep = Command::new("grep");
        // Memory has few line feeds and many zeros.
        grep.args([
            "--text",
            "--null-data",
            "--only-matching",
            "--extended-regexp",
        ]);
        for word in &self.0 {
            grep.arg("-e").arg(format!("{word}(-[a-z]+_)?"));
        }
        let mut child = grep
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut found = child.stdout.take().unwrap();
        let reader: JoinHandle<Vec<u8>> = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            found.read_to_end(&mut bytes).unwrap();
            bytes
        });
        feed(&mut child.stdin.take().unwrap());
        let bytes = reader.join().unwrap();
        // 1: nothing was found.
        assert!(child.wait().unwrap().code().is_some_and(|code| code < 2));
        String::from_utf8_lossy(&bytes)
            .split_terminator('\0')
            .map(str::to_owned)
            .collect()
    }

    /// What stands in `bytes`.
    pub fn bytes(&self, bytes: &[u8]) -> BTreeSet<String> {
        self.run(|to| to.write_all(bytes).unwrap())
    }

    /// What a command prints.
    pub fn output(&self, command: &mut Command) -> BTreeSet<String> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = child.stdout.take().unwrap();
        let found = self.run(|to| {
            std::io::copy(&mut printed, to).unwrap();
        });
        assert!(child.wait().unwrap().success(), "{command:?}");
        found
    }

    /// What the regular files below `dir` hold, names included.
    pub fn files(&self, dir: &Path) -> BTreeSet<String> {
        let mut tar = Command::new("tar");
        // A file may go while it is read.
        tar.args([
            "--create",
            "--ignore-failed-read",
            "--warning=none",
            "--file=-",
            "--directory",
        ]);
        let mut child = tar
            .arg(dir)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut archive = child.stdout.take().unwrap();
        let found = self.run(|to| {
            std::io::copy(&mut archive, to).unwrap();
        });
        // 1: a file changed on the way.
        assert!(child.wait().unwrap().code().is_some_and(|code| code < 2));
        found
    }

    /// What one process holds.
    pub fn process(&self, pid: u32) -> Looked {
        let proc = Path::new("/proc").join(pid.to_string());
        match self.look_into(&proc) {
            Ok(held) => Looked::Into(Box::new(held)),
            Err(error) if error.kind() == ErrorKind::NotFound => Looked::Gone,
            // It ended while it was read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Looked::Gone
            }
            // A process that lets nobody look, or whose memory is for its debugger only.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !getuid().is_root() => {
                let name = std::fs::read_to_string(proc.join("comm")).unwrap_or_default();
                let (name, dir) = (name.trim(), proc.display());
                Looked::Denied(format!(
                    "`{name}` at {dir} is not open to this user: {error}"
                ))
            }
            Err(error) => panic!("{}: {error}", proc.display()),
        }
    }

    fn look_into(&self, proc: &Path) -> std::io::Result<Held> {
        let read =
            |name: &str| Ok::<_, std::io::Error>(self.bytes(&std::fs::read(proc.join(name))?));
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(proc.join("fd"))? {
            let path = entry?.path();
            let Ok(leads_to) = std::fs::read_link(&path) else {
                continue; // Closed by now.
            };
            files.extend(self.bytes(leads_to.as_os_str().as_encoded_bytes()));
            // Pipes, sockets and devices are left to those who use them.
            if path.metadata().is_ok_and(|it| it.is_file())
                && let Ok(mut file) = File::open(path)
            {
                files.extend(self.run(|to| {
                    std::io::copy(&mut file, to).unwrap();
                }));
            }
        }
        Ok(Held {
            environment: read("environ")?,
            arguments: read("cmdline")?,
            files,
            memory: self.memory(proc)?,
        })
    }

    /// What stands in the memory of a process: in each page that it has, in RAM or swapped out.
    fn memory(&self, proc: &Path) -> std::io::Result<BTreeSet<String>> {
        let (memory, pages) = (
            File::open(proc.join("mem"))?,
            File::open(proc.join("pagemap"))?,
        );
        let maps = std::fs::read_to_string(proc.join("smaps"))?;
        Ok(self.run(|to| {
            for (from, end) in used_maps(&maps) {
                let mut table = vec![0; usize::try_from((end - from) / PAGE).unwrap() * 8];
                if pages.read_exact_at(&mut table, from / PAGE * 8).is_err() {
                    continue; // The process is gone.
                }
                // Bit 63: in RAM, bit 62: in swap.
                let used: Vec<bool> = table.chunks_exact(8).map(|it| it[7] & 0xc0 != 0).collect();
                let mut at = from;
                for run in used.chunk_by(|a, b| a == b) {
                    let length = run.len() * usize::try_from(PAGE).unwrap();
                    if run[0] {
                        copy(&memory, at, length, to);
                    }
                    at += length as u64;
                }
                to.write_all(b"\0").unwrap();
            }
        }))
    }
}

/// Reads a piece of memory; what went away meanwhile is left out.
fn copy(memory: &File, from: u64, length: usize, to: &mut dyn Write) {
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let want = piece.len().min(length - at);
        match memory.read_at(&mut piece[..want], from + at as u64) {
            Ok(0) => return,
            Ok(read) => {
                to.write_all(&piece[..read]).unwrap();
                at += read;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A device's registers, or a page behind the end of its file.
            Err(_) => return,
        }
    }
}

/// The readable pieces of an address space of which something is there.
fn used_maps(smaps: &str) -> Vec<(u64, u64)> {
    let mut used = Vec::new();
    let mut map = None;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some((from, end)) = first.split_once('-') {
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let special = ["[vvar", "[vsyscall", "[vdso"]
                .iter()
                .any(|it| rest.contains(it));
            map = (rest.starts_with('r') && !special).then(|| (hex(from), hex(end)));
        } else if ["Rss:", "Swap:"].contains(&first)
            && rest.trim() != "0 kB"
            && let Some(map) = map.take()
        {
            used.push(map);
        }
    }
    used
}

/// What became of a look into a process.
#[derive(Debug)]
pub enum Looked {
    /// It holds this.
    Into(Box<Held>),
    /// It is gone.
    Gone,
    /// Only root may look; names it, and says why.
    Denied(String),
}

impl Looked {
    /// What it holds.
    ///
    /// # Panics
    /// It is gone, or nobody may look.
    pub fn held(self) -> Held {
        match self {
            Self::Into(held) => *held,
            Self::Gone => panic!("the process is gone"),
            Self::Denied(why) => panic!("{why}"),
        }
    }
}

/// What was found in one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// In its environment, as it was begun with.
    pub environment: BTreeSet<String>,
    /// In its arguments.
    pub arguments: BTreeSet<String>,
    /// In the names and contents of its open files.
    pub files: BTreeSet<String>,
    /// In its memory.
    pub memory: BTreeSet<String>,
}

impl Held {
    /// Wherever it stands.
    pub fn all(&self) -> BTreeSet<String> {
        let parts = [
            &self.environment,
            &self.arguments,
            &self.files,
            &self.memory,
        ];
        parts.into_iter().flatten().cloned().collect()
    }
}
