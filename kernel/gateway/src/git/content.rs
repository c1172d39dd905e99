//! The contents of pushed files, read with little memory.

use super::inspect::InspectError;
use super::quarantine::Quarantine;
use factory_ledger::changes::{ChangesError, Entry, FileChange};
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes of a file that are read at once; a larger one comes in pieces.
const AT_ONCE: u64 = 16 << 20;
/// What a larger one is read in.
const PIECE: usize = 1 << 20;
/// Files above this are read by one inspection at a time.
const FREE: u64 = 1 << 20;

/// Held by the one inspection that reads large files.
static LARGE: Mutex<()> = Mutex::new(());

/// The turn to read a file of `size` bytes; files that are small need none.
pub(super) fn turn(size: u64) -> Option<MutexGuard<'static, ()>> {
    (size > FREE).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Gives the content of `entry` to `take`, in one piece or in several.
pub(super) fn read(
    quarantine: &Quarantine,
    change: &FileChange,
    entry: &Entry,
    stop: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), InspectError> {
    let content = change.content(entry, AT_ONCE);
    if let Some(content) = content.map_err(ChangesError::Unread)? {
        take(&content);
        return Ok(());
    }
    let Some(oid) = entry.oid().filter(|_| !entry.is_submodule()) else {
        return Ok(());
    };
    let mut command = quarantine.git(&["cat-file", "blob", oid.as_str()]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut reading = Reading(command.spawn().map_err(InspectError::Spool)?);
    let Some(mut output) = reading.0.stdout.take() else {
        return Err(InspectError::Stopped);
    };
    let mut piece = vec![0; PIECE];
    loop {
        if stop() {
            return Err(InspectError::Stopped);
        }
        match output.read(&mut piece).map_err(InspectError::Spool)? {
            0 => break,
            count => take(&piece[..count]),
        }
    }
    let status = reading.0.wait().map_err(InspectError::Spool)?;
    match status.success() {
        true => Ok(()),
        false => {
            let failed = format!("`git cat-file` did not read {oid} ({status})");
            Err(InspectError::Spool(std::io::Error::other(failed)))
        }
    }
}

/// A process that does not outlive whoever reads from it.
struct Reading(Child);

impl Drop for Reading {
    fn drop(&mut self) {
        // It may have ended, and been collected.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
