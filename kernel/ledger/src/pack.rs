//! Packing our repositories: many small files become few large ones. Writers
//! go on meanwhile, and nothing that is younger than two weeks is thrown away.

use crate::git::Git;
use crate::lock::{LockError, PackTurn, RefTurn};
use crate::places::Places;
use crate::repair;
use factory_core::ids::Oid;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, UNIX_EPOCH};

/// Age at which what a packing that was killed left behind is removed.
const LEFTOVER: Duration = Duration::from_secs(86_400);
/// git's exit code for an option that it does not know.
const USAGE: i32 = 129;

/// A repository of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// `state.git`.
    State,
    /// `door.git`.
    Door,
    /// `base.git`. Containers read it, so it is packed only while no run lives.
    Base,
}

impl Which {
    /// Its directory.
    pub fn dir(self, places: &Places) -> PathBuf {
        match self {
            Which::State => places.state_git(),
            Which::Door => places.door_git(),
            Which::Base => places.base_git(),
        }
    }
}

/// How thoroughly a repository is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is new, and packs that are small beside it. Throws nothing away.
    Quick,
    /// Everything anew; what no ref has led to for two weeks goes. For nobody
    /// may write such an object again meanwhile, no kernel and no run lives.
    /// Never of `base.git`, whose objects `door.git` borrows.
    Whole,
}

/// A repository that was not packed. It is as good as before.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The turn was not taken.
    #[error(transparent)]
    Turn(#[from] LockError),
    /// Git could not be started, or a file not be removed.
    #[error("cannot pack {path}; is git in PATH, and the folder writable?", path = path.display())]
    Io {
        /// The repository, or the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Git failed.
    #[error("git did not pack {path} ({status}): {said}; see what is wrong with\n  factory state verify", path = path.display())]
    Failed {
        /// The repository.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
}

/// The right to pack one repository now. It lasts until this value and the
/// child that it started are both gone.
#[derive(Debug)]
pub struct Packing {
    which: Which,
    dir: PathBuf,
    turn: PackTurn,
}

impl Packing {
    /// Takes the right to pack; none while somebody else packs, or where there
    /// is no such repository. Clears away what a packing that was killed left
    /// a day before `now`, in unix seconds.
    pub fn begin(places: &Places, which: Which, now: i64) -> Result<Option<Self>, PackError> {
        let dir = which.dir(places);
        if !dir.join("HEAD").is_file() {
            return Ok(None);
        }
        let Some(turn) = PackTurn::take(&dir)? else {
            return Ok(None);
        };
        let packing = Self { which, dir, turn };
        if which == Which::State {
            packing.hold_directories()?;
        }
        packing.remove_leftovers(now)?;
        Ok(Some(packing))
    }

    /// The process that packs the objects: one thread, and the turn held to its
    /// end. The caller starts it, lowers its priority, and hands over to
    /// [`Packing::pack_refs`] when it succeeded. Killing it is harmless.
    pub fn command(&self, depth: Depth) -> Result<Command, PackError> {
        let mut args = vec!["-c", "core.fsync=all", "-c", "pack.threads=1"];
        // No bitmaps: nobody clones from these, and they cost time.
        args.extend([
            "-c",
            "repack.writeBitmaps=false",
            "repack",
            "-q",
            "-d",
            "-l",
        ]);
        match depth {
            Depth::Whole if self.which != Which::Base => {
                args.extend(["--cruft", "--cruft-expiration=2.weeks.ago"]);
            }
            Depth::Whole | Depth::Quick => args.push("--geometric=2"),
        }
        let mut command = Git::isolated(&self.dir).call(args).command();
        let turn = self.turn.to_pass_on().map_err(self.io())?;
        command.stdout(turn).stderr(Stdio::piped());
        Ok(command)
    }

    /// Packs the refs. Short; moves of refs in `state.git` wait for it.
    pub fn pack_refs(self) -> Result<(), PackError> {
        let git = Git::isolated(&self.dir);
        let mut command = match self.which {
            // An old value of the state that shows up when its file is lost
            // would be taken for the newest. Older gits cannot exclude a ref:
            // there, inboxes stay files until they are dropped.
            Which::State => git.call([
                "pack-refs",
                "--all",
                "--exclude=refs/state",
                "--exclude=refs/anchor",
            ]),
            Which::Door | Which::Base => git.call(["pack-refs", "--all"]),
        }
        .command();
        match self.which {
            Which::State => {
                let turn = state_turn(&self.dir)?;
                command.stdout(turn.to_pass_on().map_err(self.io())?);
            }
            Which::Door | Which::Base => {
                unlock_refs(&self.dir)?;
                command.stdout(Stdio::null());
            }
        }
        let out = command.stderr(Stdio::piped()).output().map_err(self.io())?;
        match self.which == Which::State && out.status.code() == Some(USAGE) {
            true => Ok(()),
            false => self.ended(out.status, &out.stderr),
        }
    }

    /// Judges how a child of [`Packing::command`] ended.
    pub fn ended(&self, status: ExitStatus, stderr: &[u8]) -> Result<(), PackError> {
        match status.success() {
            true => Ok(()),
            false => Err(failed(&self.dir, status, stderr)),
        }
    }

    /// Names this repository when the system refused.
    pub fn io(&self) -> impl FnOnce(std::io::Error) -> PackError {
        io(&self.dir)
    }

    /// git removes directories of objects that become empty; libgit2 makes
    /// one and then moves an object into it, and fails where git was quicker.
    fn hold_directories(&self) -> Result<(), PackError> {
        for n in 0..=255_u8 {
            let dir = self.dir.join(format!("objects/{n:02x}"));
            // As git names objects that are being written: its checks pass it over.
            let file = dir.join("tmp_obj_keeps_directory");
            if !file.exists() {
                std::fs::create_dir_all(&dir).map_err(io(&dir))?;
                std::fs::write(&file, "").map_err(io(&file))?;
            }
        }
        Ok(())
    }

    fn remove_leftovers(&self, now: i64) -> Result<(), PackError> {
        let old = u64::try_from(now)
            .map_or(UNIX_EPOCH, |now| UNIX_EPOCH + Duration::from_secs(now))
            .checked_sub(LEFTOVER);
        let entries = std::fs::read_dir(self.dir.join("objects/pack"));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let made = entry.metadata().and_then(|meta| meta.modified());
            let stale = made.is_ok_and(|made| Some(made) < old);
            // A pack without its index is one whose taking over was cut short.
            let is_half = name.ends_with(".pack") && !entry.path().with_extension("idx").exists();
            if stale && (is_half || name.starts_with("tmp_") || name.starts_with(".tmp-")) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Packs a repository at once, in the foreground. Tells whether it did: not
/// where somebody else packs it.
pub fn pack(places: &Places, which: Which, depth: Depth, now: i64) -> Result<bool, PackError> {
    let Some(packing) = Packing::begin(places, which, now)? else {
        return Ok(false);
    };
    let out = packing.command(depth)?.output().map_err(packing.io())?;
    packing.ended(out.status, &out.stderr)?;
    if depth == Depth::Whole && which == Which::Door {
        // Packing passes over single files that are old enough to go. Not in
        // `state.git`: this removes directories that libgit2 may be writing to.
        let prune = Git::isolated(&packing.dir).call(["prune", "--expire=2.weeks.ago"]);
        let out = prune.command().output().map_err(packing.io())?;
        packing.ended(out.status, &out.stderr)?;
    }
    packing.pack_refs()?;
    Ok(true)
}

/// A ref with the commit that it leads to and that commit's date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatedRef {
    /// Full name.
    pub name: String,
    /// Where it is.
    pub oid: Oid,
    /// When the commit was made, in unix seconds.
    pub seconds: i64,
}

/// The refs below a prefix such as `refs/inbox/`, with their dates.
pub fn dated_refs(places: &Places, which: Which, prefix: &str) -> Result<Vec<DatedRef>, PackError> {
    let dir = which.dir(places);
    if !dir.join("HEAD").is_file() {
        return Ok(Vec::new());
    }
    let format = "--format=%(committerdate:unix) %(objectname) %(refname)";
    let mut command = Git::isolated(&dir)
        .call(["for-each-ref", format, prefix])
        .command();
    let out = command.output().map_err(io(&dir))?;
    if !out.status.success() {
        return Err(failed(&dir, out.status, &out.stderr));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    // What has no date is no commit, and was not put there by us.
    Ok(text.lines().filter_map(dated).collect())
}

fn dated(line: &str) -> Option<DatedRef> {
    let mut fields = line.splitn(3, ' ');
    Some(DatedRef {
        seconds: fields.next()?.parse().ok()?,
        oid: fields.next()?.parse().ok()?,
        name: fields.next()?.to_owned(),
    })
}

/// Removes refs that are still where they were found, all or none.
pub fn drop_refs(places: &Places, which: Which, refs: &[DatedRef]) -> Result<(), PackError> {
    if refs.is_empty() {
        return Ok(());
    }
    let dir = which.dir(places);
    let mut orders = tempfile::tempfile_in(&dir).map_err(io(&dir))?;
    for dated in refs {
        use std::io::Write;
        write!(orders, "delete {}\0{}\0", dated.name, dated.oid).map_err(io(&dir))?;
    }
    std::io::Seek::rewind(&mut orders).map_err(io(&dir))?;
    let mut command = Git::isolated(&dir)
        .call(["update-ref", "-z", "--stdin"])
        .command();
    command.stdin(orders).stderr(Stdio::piped());
    match which {
        Which::State => {
            let turn = state_turn(&dir)?;
            command.stdout(turn.to_pass_on().map_err(io(&dir))?);
        }
        Which::Door | Which::Base => {
            unlock_refs(&dir)?;
            command.stdout(Stdio::null());
        }
    }
    let out = command.output().map_err(io(&dir))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(failed(&dir, out.status, &out.stderr)),
    }
}

/// The turn to move refs of `state.git`. A lock file found under it belongs
/// to nobody.
fn state_turn(dir: &Path) -> Result<RefTurn, PackError> {
    let turn = RefTurn::wait(dir)?;
    remove(&dir.join("packed-refs.lock"))?;
    Ok(turn)
}

/// Removes the lock of a git that a power cut ended while it wrote the packed
/// refs of `door.git` or `base.git`: no ref could be removed ever after.
pub fn unlock_refs(dir: &Path) -> Result<(), PackError> {
    let lock = dir.join("packed-refs.lock");
    let Ok(found) = std::fs::symlink_metadata(&lock) else {
        return Ok(());
    };
    // A git that comes now cannot take the lock: it is there.
    if repair::git_works_in(dir) || !repair::is_still(&lock, &found) {
        return Ok(());
    }
    tracing::warn!(lock = %lock.display(), "removing the ref lock of a git that was killed");
    remove(&lock)
}

fn remove(file: &Path) -> Result<(), PackError> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(file)(e)),
        _ => Ok(()),
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::Io { path, source }
}

fn failed(dir: &Path, status: ExitStatus, stderr: &[u8]) -> PackError {
    PackError::Failed {
        path: dir.to_owned(),
        status,
        said: String::from_utf8_lossy(stderr).trim().to_owned(),
    }
}
