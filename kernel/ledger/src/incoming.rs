//! What a run pushed, while it is judged: packs in a folder of their own, in front of the
//! objects of `door.git`, which take them over as they are.

use crate::door::DoorRepo;
use crate::repo::{RepoError, io, unread};
use factory_core::ids::Oid;
use git2::{ErrorCode, Odb, Repository};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Most bytes of a commit that is read here.
const LARGEST: usize = 1 << 20;
/// Most commits of one walk.
const COMMITS: usize = 10_000;

/// Objects that `door.git` does not have yet.
pub struct Incoming {
    folder: PathBuf,
    /// The objects of `door.git`, where these go.
    objects: PathBuf,
    /// Sees both.
    repository: Repository,
}

impl Incoming {
    /// Opens an object directory that git wrote packs to; nothing else is taken over.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where either place cannot be read.
    pub fn open(door: &DoorRepo, folder: &Path) -> Result<Self, RepoError> {
        let objects = door.dir().join("objects");
        let open = || {
            let odb = Odb::new()?;
            for dir in [folder, &objects, &door.base().dir().join("objects")] {
                let shown = dir.to_str();
                let shown = shown.ok_or_else(|| git2::Error::from_str("its path is no UTF-8"))?;
                odb.add_disk_alternate(shown)?;
            }
            Repository::from_odb(odb)
        };
        Ok(Self {
            folder: folder.to_owned(),
            repository: open().map_err(unread(&objects))?,
            objects,
        })
    }

    /// What an object is, in git's word; none where it is neither here nor in `door.git`.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where it cannot be read.
    pub fn kind(&self, object: &Oid) -> Result<Option<&'static str>, RepoError> {
        let read = || self.repository.odb()?.read_header(id(object)?);
        match read() {
            Ok((_, kind)) => Ok(Some(kind.str())),
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(unread(&self.objects)(e)),
        }
    }

    /// The parents of a commit; none where it is too large to be read here, or not a commit
    /// to libgit2: git itself may say more.
    pub fn parents(&self, commit: &Oid) -> Option<Vec<Oid>> {
        let read = || -> Result<Option<Vec<git2::Oid>>, git2::Error> {
            let commit = id(commit)?;
            if self.repository.odb()?.read_header(commit)?.0 > LARGEST {
                return Ok(None);
            }
            Ok(Some(
                self.repository.find_commit(commit)?.parent_ids().collect(),
            ))
        };
        let parents = read().ok().flatten()?;
        let known = |parent: &git2::Oid| parent.to_string().parse().ok();
        parents.iter().map(known).collect()
    }

    /// Whether `commit` is `ancestor` or descends from it; none where that takes a walk
    /// through much history, which is git's to make.
    pub fn holds(&self, commit: &Oid, ancestor: &Oid) -> Option<bool> {
        let mut seen = BTreeSet::new();
        let mut next = VecDeque::from([commit.clone()]);
        while let Some(commit) = next.pop_front() {
            if commit == *ancestor {
                return Some(true);
            }
            if seen.len() == COMMITS {
                return None;
            }
            if seen.insert(commit.clone()) {
                next.extend(self.parents(&commit)?);
            }
        }
        Some(false)
    }

    /// Moves the packs to `door.git`; on disk when this returns. No ref leads to what they
    /// hold yet. Packs that are there already hold the same.
    ///
    /// # Errors
    /// [`RepoError::Io`]; what was moved stays, and is harmless.
    pub fn settle(self) -> Result<(), RepoError> {
        let (from, to) = (self.folder.join("pack"), self.objects.join("pack"));
        let files = std::fs::read_dir(&from).and_then(|all| all.collect::<Result<Vec<_>, _>>());
        let mut files: Vec<PathBuf> = files
            .map_err(io("list", &from))?
            .iter()
            .map(|file| file.path())
            .collect();
        // A pack counts from its index on.
        files.sort_by_key(|file| file.extension().is_some_and(|kind| kind == "idx"));
        for file in &files {
            let moved = || {
                File::open(file)?.sync_all()?;
                std::fs::rename(file, to.join(file.file_name().unwrap_or_default()))
            };
            moved().map_err(io("keep the pushed pack", file))?;
        }
        let synced = File::open(&to).and_then(|dir| dir.sync_all());
        synced.map_err(io("keep pushed packs in", &to))
    }
}

fn id(oid: &Oid) -> Result<git2::Oid, git2::Error> {
    git2::Oid::from_str(oid.as_str())
}
