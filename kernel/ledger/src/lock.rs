//! Locks that die with their process: who may be the kernel of a repository,
//! and whose turn it is to move a ref.

use crate::places::way_out;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, test_kill_process};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Who holds a lock, as the holder wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// When it took the lock, in unix seconds.
    pub since: i64,
}

impl Holder {
    /// True once its process is gone. What it had just forked keeps the lock a moment
    /// longer, until it has become another program.
    pub fn is_gone(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} (since {} s after 1970)",
            self.pid, self.since
        )
    }
}

/// A lock that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is held by {}; end that first", match .holder {
        Some(holder) => holder.to_string(),
        None => "a process that is just starting".to_owned(),
    }, path = path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Who has it; none in the moment before the holder has written its name.
        holder: Option<Holder>,
    },
    /// The file cannot be made, locked or written.
    #[error("cannot lock {path}; {way_out}", path = path.display(), way_out = way_out(.source))]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The right to be the one kernel (or gateway) of a repository on this host.
/// It ends when the value is dropped and, at the latest, with the process.
#[derive(Debug)]
pub struct KernelLock {
    // The lock belongs to the open file. std opens with O_CLOEXEC, so children
    // do not keep it.
    _file: File,
}

impl KernelLock {
    /// Takes the lock at `path` for process `pid`, or says who has it.
    pub fn acquire(path: &Path, pid: u32, since: i64) -> Result<Self, LockError> {
        let failed = |source| LockError::File {
            path: path.to_owned(),
            source,
        };
        let mut file = open(path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Busy {
                    path: path.to_owned(),
                    holder: read_holder(&mut file).map_err(failed)?,
                });
            }
            Err(e) => return Err(failed(e.into())),
        }
        // The name of the last holder goes first: nobody may be told to wait
        // for a process that is gone.
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        file.write_all(format!("{pid} {since}\n").as_bytes())
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn read_holder(file: &mut File) -> std::io::Result<Option<Holder>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // Without its line feed the line is still being written.
    let line = text.strip_suffix('\n').and_then(|l| l.split_once(' '));
    Ok(line.and_then(|(pid, since)| {
        Some(Holder {
            pid: pid.parse().ok()?,
            since: since.parse().ok()?,
        })
    }))
}

/// The turn of one thread of one process to move refs of one repository.
///
/// libgit2 locks a ref with a file of its own, and a process that is killed
/// leaves that file behind. Everybody who moves a ref holds this lock, so
/// whoever holds it knows that a lock file it finds belongs to nobody.
#[derive(Debug)]
pub(crate) struct RefTurn {
    file: File,
}

impl RefTurn {
    /// Waits for the turn; others hold it for one ref update.
    pub(crate) fn wait(repository: &Path) -> Result<Self, LockError> {
        let path = repository.join("refs.turn");
        let failed = |source| LockError::File {
            path: path.clone(),
            source,
        };
        let file = open(&path).map_err(failed)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
    }
}

impl RefTurn {
    /// The turn in a form that a child process can be given as one of its
    /// standard streams: it then lasts as long as the child, whoever dies first.
    pub(crate) fn to_pass_on(&self) -> std::io::Result<Stdio> {
        Ok(Stdio::from(self.file.try_clone()?))
    }
}

/// The turn of one process to pack one repository.
#[derive(Debug)]
pub(crate) struct PackTurn {
    file: File,
}

impl PackTurn {
    /// Takes the turn; none while somebody else packs.
    pub(crate) fn take(repository: &Path) -> Result<Option<Self>, LockError> {
        let path = repository.join("pack.turn");
        let failed = |source| LockError::File {
            path: path.clone(),
            source,
        };
        let file = open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed(e.into())),
        }
    }

    /// As [`RefTurn::to_pass_on`].
    pub(crate) fn to_pass_on(&self) -> std::io::Result<Stdio> {
        Ok(Stdio::from(self.file.try_clone()?))
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // Opening must not cut the file: its text names the holder.
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}
