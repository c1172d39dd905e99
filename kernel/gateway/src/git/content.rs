//! The contents of pushed files, read with little memory.

use super::inspect::InspectError;
use super::quarantine::Quarantine;
use factory_ledger::changes::{ChangesError, Entry, FileChange};
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Most bytes of a file that are read at once; a larger one comes in pieces.
const AT_ONCE: u64 = 16 << 20;
/// What a larger one is read in.
const PIECE: usize = 1 << 20;
/// Files above this are read by one inspection at a time.
const FREE: u64 = 1 << 20;

/// Between two looks whether whoever waits for a turn may give up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether an inspection reads a large file.
static IS_TAKEN: Mutex<bool> = Mutex::new(false);
/// Told when it was read.
static GIVEN_BACK: Condvar = Condvar::new();

/// The turn to read a large file, until dropped.
struct Turn;

impl Turn {
    /// Waits until no other large file is read.
    fn take(stop: &dyn Fn() -> bool) -> Result<Self, InspectError> {
        let mut taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if stop() {
                return Err(InspectError::Stopped);
            }
            if !*taken {
                *taken = true;
                return Ok(Self);
            }
            let waited = GIVEN_BACK.wait_timeout(taken, LOOK_EVERY);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        GIVEN_BACK.notify_one();
    }
}

/// Gives the content of `entry` to `take`, in one piece or in several.
pub(super) fn read(
    quarantine: &Quarantine,
    change: &FileChange,
    entry: &Entry,
    stop: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), InspectError> {
    if stop() {
        return Err(InspectError::Stopped);
    }
    let size = change.size_of(entry).map_err(ChangesError::Unread)?;
    let _turn = (size > FREE).then(|| Turn::take(stop)).transpose()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn who_waits_for_a_turn_may_give_up() {
        let turn = Turn::take(&|| false).unwrap();
        let looks = Cell::new(0);
        let stop = || {
            looks.set(looks.get() + 1);
            looks.get() > 2
        };
        assert!(matches!(Turn::take(&stop), Err(InspectError::Stopped)));
        drop(turn);
        assert!(Turn::take(&|| false).is_ok());
    }
}
