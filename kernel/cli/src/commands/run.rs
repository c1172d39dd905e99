//! `factory run`.

use crate::{
    args::Run as Runs,
    clock,
    factory::Factory,
    failure::{Class, Failure},
    views::{
        self, Reader, archive,
        run::{RunView, purpose, show, standing},
        transcript,
    },
    wait::LOOK_AGAIN,
};
use factory_core::{ids::RunId, model::Run, state};
use factory_ledger::git::{Git, GitError};
use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    process::ExitCode,
};

/// Most bytes of a transcript that are read at once.
const PIECE: u64 = 1 << 20;

/// Does what is asked for.
pub fn run(factory: &Factory, command: Runs) -> Result<ExitCode, Failure> {
    match command {
        Runs::List { all, json } => list(factory, all, json.json),
        Runs::Show { run, json } => {
            let run = find(factory, run.parse()?)?;
            if json.json {
                views::print_json(&RunView::from(&run))?;
            } else {
                views::print(&show(&run, clock::now()))?;
            }
            Ok(())
        }
        Runs::Logs { run, follow, json } => logs(factory, run.parse()?, follow, json.json),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A run, live or over.
fn find(factory: &Factory, id: RunId) -> Result<Run, Failure> {
    if let Some(run) = factory.state.runs.get(&id) {
        return Ok(run.clone());
    }
    archive::run(factory, id)?.ok_or_else(|| {
        Failure::new(Class::Refused, format!("there is no run {id}"))
            .help("see them with `factory run list --all`")
    })
}

fn list(factory: &Factory, all: bool, json: bool) -> Result<(), Failure> {
    let mut runs = if all {
        archive::runs(factory)?
    } else {
        Vec::new()
    };
    runs.extend(factory.state.runs.values().cloned());
    runs.sort_by_key(|run| run.id);
    if json {
        let views: Vec<_> = runs.iter().map(RunView::from).collect();
        views::print_json(&views)?;
        return Ok(());
    }
    if runs.is_empty() {
        return views::hint("no live runs; ended ones are shown by `factory run list --all`");
    }
    let now = clock::now();
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            let slot = if run.is_open() {
                run.slot.to_string()
            } else {
                String::new()
            };
            [run.id.to_string(), purpose(run), slot, standing(run, now)]
        })
        .collect();
    views::print(&views::table(["RUN", "FOR", "SLOT", "STATE"], &rows))?;
    Ok(())
}

/// Prints a transcript, whole or as it grows.
fn logs(factory: &Factory, id: RunId, follow: bool, json: bool) -> Result<(), Failure> {
    let mut open = find(factory, id)?.is_open();
    let mut tail = Tail {
        factory,
        id,
        offset: 0,
        pending: Vec::new(),
    };
    let mut any = false;
    loop {
        // A run that was over before this look has written its last line.
        let last = !(follow && open);
        let lines = tail.read(last)?;
        any |= !lines.is_empty();
        for line in lines {
            let reader = match json {
                true => views::print_raw_json(&format!("{line}\n"))?,
                false => views::print(&transcript::show(&line))?,
            };
            if reader == Reader::Gone {
                return Ok(());
            }
        }
        if last {
            break;
        }
        open = is_open(factory, id)?;
        if open {
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }
    if !any {
        let why = if open {
            "has said nothing yet; `-f` waits for it"
        } else {
            "left no transcript"
        };
        views::hint(&format!("run {id} {why}"))?;
    }
    Ok(())
}

/// Whether the newest state still has the run open.
fn is_open(factory: &Factory, id: RunId) -> Result<bool, Failure> {
    let Some(head) = factory.store.head()? else {
        return Ok(false);
    };
    let path = format!("runs/active/{id}.yaml");
    let bytes = factory.store.read_file(&head, &path)?;
    let run: Option<Run> = bytes.map(|bytes| state::parse(&path, &bytes)).transpose()?;
    Ok(run.is_some_and(|run| run.is_open()))
}

/// A transcript from where it was read to.
struct Tail<'a> {
    factory: &'a Factory,
    id: RunId,
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    pending: Vec<u8>,
}

impl Tail<'_> {
    /// The next whole lines; with `last` also one without an end.
    fn read(&mut self, last: bool) -> Result<Vec<String>, Failure> {
        let new = match File::open(self.factory.places.transcript(self.id)) {
            Ok(file) => self.read_file(file, last)?,
            // It moved to `door.git` when the run was over.
            Err(error) if error.kind() == ErrorKind::NotFound && last => self.read_kept()?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        self.offset += new.len() as u64;
        self.pending.extend(new);
        let end = match self.pending.iter().rposition(|byte| *byte == b'\n') {
            _ if last => self.pending.len(),
            Some(at) => at + 1,
            None => 0,
        };
        let whole: Vec<u8> = self.pending.drain(..end).collect();
        Ok(String::from_utf8_lossy(&whole)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn read_file(&self, mut file: File, last: bool) -> Result<Vec<u8>, Failure> {
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(self.offset))?;
        let limit = if last { u64::MAX } else { PIECE };
        file.take(limit).read_to_end(&mut new)?;
        Ok(new)
    }

    fn read_kept(&self) -> Result<Vec<u8>, Failure> {
        let door = self.factory.places.door_git();
        if !door.exists() {
            return Ok(Vec::new());
        }
        let name = format!("refs/transcripts/{}:transcript.jsonl", self.id);
        match Git::isolated(door).run(["cat-file", "blob", &name]) {
            Ok(out) => {
                let from = usize::try_from(self.offset).unwrap_or(usize::MAX);
                Ok(out.stdout.get(from..).unwrap_or_default().to_vec())
            }
            // No such ref: the run wrote nothing, or so long ago that it was dropped.
            Err(GitError::Failed { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}
