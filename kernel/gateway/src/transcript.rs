//! A run's transcript: the engine's output as it came, one line per model call,
//! redacted, bounded. Kept in a file while the run lives, in `door.git` afterwards.

use crate::{error::GatewayError, keys::Keys, stores::Stores};
use factory_core::{ids::RunId, inbox::Usage};
use factory_ledger::{
    git::{Git, GitError},
    places::Places,
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Most bytes that a run's transcript takes.
const LIMIT: u64 = 20 << 20;
/// Most bytes of one output line that are kept.
const LINE_LIMIT: usize = 1 << 20;

/// One line of the file.
#[derive(Serialize)]
struct Entry<'a> {
    /// Unix seconds.
    t: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<&'a str>,
}

/// The transcripts of all runs.
pub(crate) struct Transcripts {
    places: Places,
    /// One writer at a time, so that the bound holds and lines stay whole.
    /// Names the runs whose transcript is full.
    full: Mutex<BTreeSet<RunId>>,
}

impl Transcripts {
    pub(crate) fn new(places: &Places) -> Self {
        Self {
            places: places.clone(),
            full: Mutex::default(),
        }
    }

    /// Takes the engine's output of `run` in pieces and writes it line by line.
    pub(crate) fn lines(&self, run: RunId) -> LineWriter<'_> {
        LineWriter {
            transcripts: self,
            run,
            pending: Vec::new(),
            overlong: false,
        }
    }

    /// One line about a model call.
    pub(crate) fn call(&self, run: RunId, seconds: i64, usage: &Usage) {
        self.write(
            run,
            &Entry {
                t: seconds,
                line: None,
                call: Some(usage),
                cut: None,
            },
        );
    }

    fn write(&self, run: RunId, entry: &Entry<'_>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full.contains(&run) {
            return;
        }
        if let Err(error) = self.try_write(run, entry, &mut full) {
            // The transcript is for people: a run does not fail for it.
            tracing::warn!(%run, %error, "a transcript line was not written");
        }
    }

    fn try_write(
        &self,
        run: RunId,
        entry: &Entry<'_>,
        full: &mut BTreeSet<RunId>,
    ) -> std::io::Result<()> {
        let mut file = append_to(self.places.transcript(run))?;
        let mut text = serde_json::to_vec(entry)?;
        text.push(b'\n');
        if file.metadata()?.len() + text.len() as u64 > LIMIT {
            full.insert(run);
            let marker = Entry {
                t: entry.t,
                line: None,
                call: None,
                cut: Some("the transcript reached 20 MiB; the rest is not kept"),
            };
            text = serde_json::to_vec(&marker)?;
            text.push(b'\n');
        }
        file.write_all(&text)
    }

    /// Keeps the transcript of `run` in `door.git`, where it has one.
    pub(crate) fn commit(&self, stores: &Stores, run: RunId) -> Result<(), GatewayError> {
        let path = self.places.transcript(run);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(GatewayError::File {
                    path,
                    what: "read",
                    source,
                });
            }
        };
        keep(&stores.places.door_git(), run, text, (stores.clock)())
            .map_err(|source| GatewayError::Transcript { run, source })
    }
}

/// Commits `text` to `refs/transcripts/<run>`. The same text gives the same commit.
fn keep(door_git: &Path, run: RunId, text: Vec<u8>, seconds: i64) -> Result<(), GitError> {
    let git = Git::isolated(door_git);
    let blob = git
        .call(["hash-object", "-w", "--stdin"])
        .stdin(text)
        .text()?;
    let tree = git
        .call(["mktree"])
        .stdin(format!("100644 blob {blob}\ttranscript.jsonl\n"))
        .text()?;
    let mut commit = git
        .call(["commit-tree", "-m"])
        .arg(format!("{run}: transcript"))
        .arg(tree);
    for who in ["AUTHOR", "COMMITTER"] {
        commit = commit
            .env(format!("GIT_{who}_NAME"), "factory")
            .env(format!("GIT_{who}_EMAIL"), "factory@localhost")
            .env(format!("GIT_{who}_DATE"), format!("{seconds} +0000"));
    }
    let commit = commit.text()?;
    git.run(["update-ref", &format!("refs/transcripts/{run}"), &commit])
        .map(drop)
}

fn append_to(path: PathBuf) -> std::io::Result<File> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
    };
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            open()
        }
        other => other,
    }
}

/// Splits what an engine writes into lines.
pub(crate) struct LineWriter<'a> {
    transcripts: &'a Transcripts,
    run: RunId,
    pending: Vec<u8>,
    overlong: bool,
}

impl LineWriter<'_> {
    /// The next piece of output, cut anywhere.
    pub(crate) fn feed(&mut self, bytes: &[u8], seconds: i64, keys: &Keys) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = pieces.next() {
            self.take(first);
        }
        for piece in pieces {
            self.flush(seconds, keys);
            self.take(piece);
        }
    }

    /// The output is over; an unended last line counts as a line.
    pub(crate) fn finish(&mut self, seconds: i64, keys: &Keys) {
        if !self.pending.is_empty() {
            self.flush(seconds, keys);
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let room = LINE_LIMIT - self.pending.len();
        self.overlong |= piece.len() > room;
        self.pending
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn flush(&mut self, seconds: i64, keys: &Keys) {
        let mut line = keys.redact(&String::from_utf8_lossy(&self.pending));
        if self.overlong {
            line.push_str(" [line cut at 1 MiB]");
        }
        self.pending.clear();
        self.overlong = false;
        self.transcripts.write(
            self.run,
            &Entry {
                t: seconds,
                line: Some(&line),
                call: None,
                cut: None,
            },
        );
    }
}
