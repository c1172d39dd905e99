//! What a run pushed, while it is judged: packs in a folder of their own, in front of the
//! objects of `door.git`, which take them over as they are.

mod inspect;

pub use inspect::{Form, Inspection, Judge, Unsure};

use crate::changes::Objects;
use crate::door::DoorRepo;
use crate::repo::{RepoError, io};
use factory_core::ids::Oid;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Most parents of a commit that is pushed; git's own merges of many have few.
const PARENTS: usize = 64;
/// Most commits of one walk.
const COMMITS: usize = 10_000;

/// Objects that `door.git` does not have yet.
pub struct Incoming {
    folder: PathBuf,
    /// The objects of `door.git`, where these go.
    objects: PathBuf,
    /// What was pushed, with what its packs were completed by.
    own: Objects,
    /// Objects that were here before, from which pushed ones are made: the packs were completed by them.
    borrowed: HashSet<git2::Oid>,
    /// What was there before, with what other runs pushed.
    before: Objects,
    /// Both.
    all: Objects,
}

impl Incoming {
    /// Opens an object directory that git wrote packs to; nothing else is taken over. `bases`
    /// are the objects that deltas in the pushed pack name.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where either place cannot be read.
    pub fn open(door: &DoorRepo, folder: &Path, bases: &[[u8; 20]]) -> Result<Self, RepoError> {
        let objects = door.dir().join("objects");
        let base = door.base().dir().join("objects");
        let before = door.objects()?;
        let bases = bases.iter().filter_map(|id| git2::Oid::from_bytes(id).ok());
        Ok(Self {
            own: Objects::open(&[folder], folder)?,
            borrowed: bases.filter(|id| before.has(*id)).collect(),
            before,
            all: Objects::open(&[folder, &objects, &base], &objects)?,
            folder: folder.to_owned(),
            objects,
        })
    }

    /// What an object is, in git's word; none where it is neither here nor in `door.git`.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where it cannot be read.
    pub fn kind(&self, object: &Oid) -> Result<Option<&'static str>, RepoError> {
        let header = self.all.header(self.id(object)?)?;
        Ok(header.map(|(_, kind)| kind.str()))
    }

    /// The parents of a commit, each once; none where it is too large to be read here, or no commit.
    pub fn parents(&self, commit: &Oid) -> Option<Vec<Oid>> {
        let commit = self.all.commit(self.id(commit).ok()?).ok().flatten()?;
        let known = |parent: git2::Oid| parent.to_string().parse().ok();
        commit.distinct_parents().into_iter().map(known).collect()
    }

    /// Whether `commit` is `ancestor` or descends from it; none where that takes a walk
    /// through much history, which is git's to make.
    pub fn holds(&self, commit: &Oid, ancestor: &Oid) -> Option<bool> {
        let mut seen = BTreeSet::from([commit.clone()]);
        let mut next = VecDeque::from([commit.clone()]);
        while let Some(commit) = next.pop_front() {
            if commit == *ancestor {
                return Some(true);
            }
            for parent in self.parents(&commit)? {
                if seen.insert(parent.clone()) {
                    next.push_back(parent);
                }
            }
            if seen.len() > COMMITS {
                return None;
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

    /// The push itself brings the object.
    fn brings_object(&self, id: git2::Oid) -> bool {
        self.own.has(id) && !self.borrowed.contains(&id)
    }

    fn id(&self, oid: &Oid) -> Result<git2::Oid, RepoError> {
        self.all.id(oid)
    }
}
