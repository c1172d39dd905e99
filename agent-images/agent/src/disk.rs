//! What the workspace takes of its disk, held to the run's limit.
//!
//! No quota can be had without root, so it is counted. What is free on the disk is cheap to
//! ask for, and tells when counting is worth its while: the rest of the limit cannot be
//! used up before as much is gone. What others remove meanwhile is not set off against it.

use crate::{
    places::Places,
    processes::is_init,
    stop::{Stopper, Why},
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, chmodat, openat, statat};
use std::{
    collections::HashSet,
    convert::Infallible,
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// Bytes that no disk takes faster in a second.
const FASTEST: u64 = 2 << 30;
/// Shortest and longest time between two looks at the disk.
const LOOKS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Time between two counts of a disk that changes, by whomever: what others remove between two
/// looks hides what this run writes.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// A fall of what is free by less than this part of the limit is worth no count.
const PART: u64 = 256;
/// What an entry takes at least: an empty file has a name and an inode. It bounds a count.
const LEAST: u64 = 4096;
/// Entries that are counted until others have their turn.
const AT_ONCE: u32 = 256;
/// Folders in folders. What is deeper cannot be counted, and no program needs it.
const DEPTH: usize = 512;

/// Stops the run once its workspace takes more than `limit` bytes. Counts what is written
/// to the end, so it may see it a moment late: as long as looks and counts take.
pub async fn watch(places: &Places, limit: u64, stopper: &Stopper) -> Infallible {
    let workspace = places.workspace();
    let mut said = false;
    let mut last: Option<Counted> = None;
    loop {
        match look(&workspace, limit, last.as_mut()).await {
            Ok(Some(counted)) if counted.taken > limit => {
                stopper.stop(Why::Disk);
                std::future::pending::<Infallible>().await;
            }
            Ok(Some(counted)) => last = Some(counted),
            Ok(None) => {}
            Err(e) => {
                if !std::mem::replace(&mut said, true) {
                    crate::log(format_args!("what the work tree takes is not known: {e}"));
                }
            }
        }
        let (soonest, latest) = LOOKS;
        let pause = last.as_ref().map_or(latest, |last| {
            let millis = limit.saturating_sub(last.taken) * 1000 / FASTEST;
            // A count takes at most half of the time.
            Duration::from_millis(millis).clamp(soonest.max(last.took), latest.max(last.took))
        });
        tokio::time::sleep(pause).await;
    }
}

/// A count of the workspace.
#[derive(Debug)]
struct Counted {
    /// Bytes that it takes.
    taken: u64,
    /// Bytes that were free at the newest look.
    free: u64,
    /// Bytes that were free before, and not any more at a look, added up.
    fell: u64,
    /// What is free is not what it was.
    changed: bool,
    at: Instant,
    took: Duration,
}

/// Counts where that is due. Two counts agree where it is over the limit: what is moved
/// meanwhile may be counted twice.
async fn look(
    workspace: &Path,
    limit: u64,
    last: Option<&mut Counted>,
) -> io::Result<Option<Counted>> {
    let disk = rustix::fs::statvfs(workspace)?;
    let free = disk.f_bfree.saturating_mul(disk.f_frsize);
    let mut may_open = false;
    if let Some(last) = last {
        last.changed |= free != last.free;
        last.fell = last.fell.saturating_add(last.free.saturating_sub(free));
        last.free = free;
        may_open = last.fell >= limit.saturating_sub(last.taken).max(limit / PART);
        let is_due = last.changed && last.at.elapsed() >= COUNT_EVERY;
        if !may_open && !is_due {
            return Ok(None);
        }
    }
    let at = Instant::now();
    let mut taken = Count::of(workspace, limit, may_open).await?;
    if taken > limit {
        taken = Count::of(workspace, limit, may_open).await?;
    }
    let took = at.elapsed();
    Ok(Some(Counted {
        taken,
        free,
        fell: 0,
        changed: false,
        at,
        took,
    }))
}

/// A count under way.
struct Count {
    device: u64,
    limit: u64,
    taken: u64,
    /// What has several names, or none, and was counted.
    seen: HashSet<u64>,
    entries: u32,
    /// Folders that nobody may look into are opened for the count.
    may_open: bool,
}

/// A folder that is being counted.
struct Folder {
    entries: Dir,
    /// Its own mode, where it was opened for the count, and its path for the way back.
    closed: Option<(OwnedFd, Mode)>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some((folder, mode)) = &self.closed {
            // It may be gone; then there is nothing to close.
            rustix::fs::fchmod(folder, *mode).ok();
        }
    }
}

impl Count {
    /// Bytes that `workspace` takes; no more than a little above `limit` is counted.
    async fn of(workspace: &Path, limit: u64, may_open: bool) -> io::Result<u64> {
        let top = openat(rustix::fs::CWD, workspace, FOLDER, Mode::empty())?;
        let mut count = Self {
            device: rustix::fs::fstat(&top)?.st_dev,
            limit,
            taken: 0,
            seen: HashSet::new(),
            entries: 0,
            may_open,
        };
        count
            .folders(Folder {
                entries: Dir::new(top)?,
                closed: None,
            })
            .await;
        if is_init() {
            count.open_files().await;
        }
        Ok(count.taken)
    }

    /// Goes through a folder and all below it. What cannot be read, or goes meanwhile, is
    /// passed over.
    async fn folders(&mut self, top: Folder) {
        let mut open = vec![top];
        loop {
            let depth = open.len();
            let Some(folder) = open.last_mut() else {
                return;
            };
            self.pause().await;
            if self.taken > self.limit {
                return;
            }
            let Some(Ok(entry)) = folder.entries.read() else {
                open.pop();
                continue;
            };
            let name = entry.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(parent) = folder.entries.fd() else {
                continue;
            };
            let Ok(stat) = statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != self.device {
                continue;
            }
            self.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            if depth == DEPTH {
                // So that nothing is hidden there.
                self.taken = u64::MAX;
                return;
            }
            if let Ok(below) = self.enter(parent, &name, &stat) {
                open.push(below);
            }
        }
    }

    fn enter(
        &self,
        parent: impl rustix::fd::AsFd,
        name: &CString,
        stat: &Stat,
    ) -> io::Result<Folder> {
        let mode = Mode::from_raw_mode(stat.st_mode);
        let wanted = Mode::RUSR | Mode::XUSR;
        let is_closed = self.may_open && !mode.contains(wanted);
        if is_closed {
            chmodat(&parent, name, mode | wanted, AtFlags::empty())?;
        }
        let folder = openat(parent, name, FOLDER, Mode::empty())?;
        let closed = match is_closed {
            true => Some((folder.try_clone()?, mode)),
            false => None,
        };
        Ok(Folder {
            entries: Dir::new(folder)?,
            closed,
        })
    }

    /// Files without a name that processes of the container hold open.
    async fn open_files(&mut self) {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return;
        };
        for process in processes.flatten() {
            let is_process = process
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit);
            // One that ends has none any more.
            let Some(files) = is_process.then(|| std::fs::read_dir(process.path().join("fd")))
            else {
                continue;
            };
            for file in files.into_iter().flatten().flatten() {
                self.pause().await;
                self.open_file(&file.path());
            }
        }
    }

    fn open_file(&mut self, path: &PathBuf) {
        let Ok(meta) = std::fs::metadata(path) else {
            return;
        };
        if meta.dev() == self.device && meta.nlink() == 0 && self.seen.insert(meta.ino()) {
            self.taken = self.taken.saturating_add(meta.blocks().saturating_mul(512));
        }
    }

    fn add(&mut self, stat: &Stat) {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_folder && stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
            return;
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let bytes = blocks.saturating_mul(512).max(LEAST);
        self.taken = self.taken.saturating_add(bytes);
    }

    /// Lets others have their turn now and then.
    async fn pause(&mut self) {
        self.entries += 1;
        if self.entries.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
}

/// A folder is entered itself, never what a link leads to.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    const MIB: u64 = 1 << 20;

    async fn taken(dir: &Path, may_open: bool) -> u64 {
        Count::of(dir, u64::MAX - 1, may_open).await.unwrap() / MIB
    }

    #[tokio::test]
    async fn blocks_count_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("far"), vec![1; 4 << 20]).unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), vec![1; 2 << 20]).unwrap();
        fs::hard_link(at("a/b/file"), at("again")).unwrap();
        let sparse = fs::File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("link")).unwrap();
        assert_eq!(taken(dir.path(), false).await, 2);
        for n in 0..512 {
            fs::write(at("a").join(n.to_string()), "").unwrap();
        }
        assert_eq!(taken(dir.path(), false).await, 4, "names take room as well");
    }

    #[tokio::test]
    async fn what_is_deep_or_closed_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("file"), vec![1; 2 << 20]).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(taken(dir.path(), true).await, 2);
        let mode = fs::metadata(&closed).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0, "it is closed again");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let deep = dir.path().join("d/".repeat(DEPTH));
        fs::create_dir_all(deep).unwrap();
        assert!(taken(dir.path(), false).await > 1 << 40);
    }

    #[tokio::test]
    async fn it_counts_only_where_the_limit_can_have_been_reached() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 64 * MIB;
        let first = look(dir.path(), limit, None).await.unwrap().unwrap();
        assert!(first.taken < MIB);
        let as_if_free = |free, fell| Counted {
            free,
            fell,
            ..first
        };
        // Others write to this disk as well, but not terabytes.
        let mut same = as_if_free(first.free.saturating_add(32 * MIB), 0);
        let none = look(dir.path(), limit, Some(&mut same)).await.unwrap();
        assert!(none.is_none() && same.fell > 0, "{none:?}");
        let mut fell = as_if_free(first.free.saturating_add(1 << 42), 0);
        let counted = look(dir.path(), limit, Some(&mut fell)).await.unwrap();
        assert!(counted.is_some_and(|counted| counted.fell == 0));
        // What others removed since takes nothing back.
        let mut rose = as_if_free(first.free / 2, limit);
        let counted = look(dir.path(), limit, Some(&mut rose)).await.unwrap();
        assert!(counted.is_some());
    }
}
