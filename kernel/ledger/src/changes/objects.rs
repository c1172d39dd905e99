//! Commits and trees as they are stored, read with bounds.

use super::ChangesError;
use crate::repo::{RepoError, unread};
use factory_core::ids::Oid;
use git2::{ErrorCode, ObjectType, Odb, OdbLookupFlags, OdbObject};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most bytes of a commit that is read.
const COMMIT_BYTES: u64 = 1 << 20;
/// Most bytes of a commit that was let in before there was a limit.
const LARGE_COMMIT_BYTES: u64 = 64 << 20;
/// Most trees and files of known commits that are remembered; of more, git is asked.
const CONTENTS: usize = 500_000;

/// Objects of one or more places.
pub(crate) struct Objects {
    odb: Odb<'static>,
    /// Named where they cannot be read.
    place: PathBuf,
}

/// What matters of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) tree: git2::Oid,
    pub(crate) parents: Vec<git2::Oid>,
}

impl Objects {
    /// Opens object directories; `place` is the one that is told of.
    pub(crate) fn open(dirs: &[&Path], place: &Path) -> Result<Self, RepoError> {
        let open = || {
            let odb = Odb::new()?;
            for dir in dirs {
                let shown = dir.to_str();
                let shown = shown.ok_or_else(|| git2::Error::from_str("its path is no UTF-8"))?;
                odb.add_disk_alternate(shown)?;
            }
            Ok(odb)
        };
        Ok(Self {
            odb: open().map_err(unread(place))?,
            place: place.to_owned(),
        })
    }

    pub(crate) fn unread(&self, error: git2::Error) -> RepoError {
        unread(&self.place)(error)
    }

    /// Whether it is in one of the places, as these were when they were opened.
    pub(crate) fn has(&self, id: git2::Oid) -> bool {
        self.odb.exists_ext(id, OdbLookupFlags::NO_REFRESH)
    }

    /// Size in bytes and kind; none where there is no such object.
    pub(crate) fn header(&self, id: git2::Oid) -> Result<Option<(u64, ObjectType)>, RepoError> {
        match self.odb.read_header(id) {
            Ok((size, kind)) => Ok(Some((size as u64, kind))),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.unread(error)),
        }
    }

    /// Its size in bytes.
    pub(crate) fn size(&self, id: git2::Oid) -> Result<u64, RepoError> {
        let header = self.odb.read_header(id).map_err(|e| self.unread(e))?;
        Ok(header.0 as u64)
    }

    /// A file's content; none of one that is longer than `limit` bytes.
    pub(crate) fn content(&self, id: git2::Oid, limit: u64) -> Result<Option<Vec<u8>>, RepoError> {
        let read = self.read(id, limit, ObjectType::Blob)?;
        Ok(read.map(|object| object.data().to_vec()))
    }

    /// A tree; none of one that is longer than `limit` bytes.
    pub(crate) fn tree(
        &self,
        id: git2::Oid,
        limit: u64,
    ) -> Result<Option<OdbObject<'_>>, RepoError> {
        self.read(id, limit, ObjectType::Tree)
    }

    /// The entries of a tree; none where there are more than `limit`, or where it is too large.
    pub(crate) fn parts(
        &self,
        id: git2::Oid,
        limit: usize,
    ) -> Result<Option<Vec<Part>>, RepoError> {
        let Some(tree) = self.tree(id, super::HELD)? else {
            return Ok(None);
        };
        let part = |raw: Raw| Part {
            name: raw.name.to_vec(),
            mode: raw.mode,
            is_tree: raw.is_tree(),
            id: raw.id,
        };
        let entries = Entries::of(tree.data()).take(limit + 1);
        let parts = entries
            .map(|raw| raw.map(part))
            .collect::<Result<Vec<_>, _>>();
        let parts = parts.map_err(|e| self.unread(e))?;
        Ok((parts.len() <= limit).then_some(parts))
    }

    /// A commit as it is stored; none of one that is too large to be read.
    pub(crate) fn commit_text(&self, id: git2::Oid) -> Result<Option<OdbObject<'_>>, RepoError> {
        self.read(id, COMMIT_BYTES, ObjectType::Commit)
    }

    /// A commit's tree and parents; none of one that is too large to be read.
    pub(crate) fn commit(&self, id: git2::Oid) -> Result<Option<Commit>, RepoError> {
        self.commit_within(id, COMMIT_BYTES)
    }

    /// The tree of a commit that has to be there; people's are read however large they are.
    pub(crate) fn tree_of(&self, id: git2::Oid) -> Result<git2::Oid, RepoError> {
        let commit = self.commit_within(id, LARGE_COMMIT_BYTES)?;
        let large = || git2::Error::from_str(&format!("the commit {id} is longer than 64 MiB"));
        Ok(commit.ok_or_else(|| self.unread(large()))?.tree)
    }

    fn commit_within(&self, id: git2::Oid, limit: u64) -> Result<Option<Commit>, RepoError> {
        let Some(text) = self.read(id, limit, ObjectType::Commit)? else {
            return Ok(None);
        };
        let read = Commit::read(text.data());
        let read = read.ok_or_else(|| git2::Error::from_str(&format!("{id} is no commit")));
        read.map(Some).map_err(|e| self.unread(e))
    }

    /// An object's name, as it is used here.
    pub(crate) fn id(&self, oid: &Oid) -> Result<git2::Oid, RepoError> {
        git2::Oid::from_str(oid.as_str()).map_err(|e| self.unread(e))
    }

    fn read(
        &self,
        id: git2::Oid,
        limit: u64,
        kind: ObjectType,
    ) -> Result<Option<OdbObject<'_>>, RepoError> {
        let (size, found) = self.odb.read_header(id).map_err(|e| self.unread(e))?;
        if found != kind {
            let wrong = git2::Error::from_str(&format!("{id} is a {}, no {kind}", found.str()));
            return Err(self.unread(wrong));
        }
        if size as u64 > limit {
            return Ok(None);
        }
        self.odb.read(id).map(Some).map_err(|e| self.unread(e))
    }
}

impl Commit {
    /// Its parents in their order, each once, however often it names them.
    pub(crate) fn distinct_parents(&self) -> Vec<git2::Oid> {
        let mut seen = HashSet::new();
        let parents = self.parents.iter().copied();
        parents.filter(|parent| seen.insert(*parent)).collect()
    }

    fn read(text: &[u8]) -> Option<Self> {
        let id = |hex: &[u8]| git2::Oid::from_str(std::str::from_utf8(hex.get(..40)?).ok()?).ok();
        let mut lines = text.split(|byte| *byte == b'\n');
        let tree = id(lines.next()?.strip_prefix(b"tree ")?)?;
        let parents = lines
            .map_while(|line| line.strip_prefix(b"parent "))
            .map(id);
        Some(Self {
            tree,
            parents: parents.collect::<Option<_>>()?,
        })
    }
}

/// An entry of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'t> {
    pub(crate) mode: u32,
    pub(crate) name: &'t [u8],
    pub(crate) id: git2::Oid,
}

impl Raw<'_> {
    /// True where it names an object that comes with its tree; every other mode is a
    /// submodule's commit to git.
    pub(crate) fn has_object(&self) -> bool {
        self.is_tree() || is_file_or_link(self.mode)
    }

    pub(crate) fn is_tree(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    /// How git sorts entries: a directory as if its name ended with a slash.
    pub(crate) fn order(&self, other: &Raw) -> Ordering {
        let shared = self.name.len().min(other.name.len());
        let next = |raw: &Raw| match raw.name.get(shared) {
            Some(byte) => *byte,
            None if raw.is_tree() => b'/',
            None => 0,
        };
        self.name[..shared]
            .cmp(&other.name[..shared])
            .then_with(|| next(self).cmp(&next(other)))
            .then_with(|| self.name.len().cmp(&other.name.len()))
            .then_with(|| self.is_tree().cmp(&other.is_tree()))
    }
}

/// What git takes for a submodule is neither, nor a directory.
pub(super) fn is_file_or_link(mode: u32) -> bool {
    matches!(mode & 0o170_000, 0o100_000 | 0o120_000)
}

/// An entry of a tree that outlives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) is_tree: bool,
    pub(crate) id: git2::Oid,
}

/// The entries of a tree, as they are stored.
pub(crate) struct Entries<'t> {
    rest: &'t [u8],
}

impl<'t> Entries<'t> {
    pub(crate) fn of(tree: &'t [u8]) -> Self {
        Self { rest: tree }
    }

    fn read(&mut self) -> Option<Raw<'t>> {
        let rest = self.rest;
        let space = rest.iter().take(8).position(|byte| *byte == b' ')?;
        let mode = std::str::from_utf8(&rest[..space]).ok()?;
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let rest = &rest[space + 1..];
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let (id, rest) = rest.split_at_checked(20)?;
        let id = git2::Oid::from_bytes(id).ok()?;
        self.rest = rest;
        Some(Raw { mode, name, id })
    }
}

impl<'t> Iterator for Entries<'t> {
    type Item = Result<Raw<'t>, git2::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.rest = &[];
        }
        Some(read.ok_or_else(|| git2::Error::from_str("a tree is malformed")))
    }
}

/// The trees and files that some trees hold, themselves among them.
pub(crate) struct Contents {
    ids: HashSet<git2::Oid>,
    /// The targets of symbolic links among them.
    links: HashSet<git2::Oid>,
}

impl Contents {
    /// Reads whole trees. What is beyond its bound is left out.
    pub(crate) fn of(
        objects: &Objects,
        roots: &[git2::Oid],
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, ChangesError> {
        let mut ids = HashSet::new();
        let mut links = HashSet::new();
        let mut next = roots.to_vec();
        while let Some(tree) = next.pop() {
            if stop() {
                return Err(ChangesError::Stopped);
            }
            if !ids.insert(tree) {
                continue;
            }
            let Some(tree) = objects.tree(tree, super::HELD)? else {
                continue;
            };
            for raw in Entries::of(tree.data()) {
                let raw = raw.map_err(|e| objects.unread(e))?;
                if ids.len() + next.len() >= CONTENTS {
                    return Ok(Self { ids, links });
                }
                if raw.is_tree() {
                    next.push(raw.id);
                } else if raw.has_object() {
                    ids.insert(raw.id);
                    if raw.is_link() {
                        links.insert(raw.id);
                    }
                }
            }
        }
        Ok(Self { ids, links })
    }

    pub(crate) fn has(&self, id: git2::Oid) -> bool {
        self.ids.contains(&id)
    }

    pub(crate) fn has_link(&self, id: git2::Oid) -> bool {
        self.links.contains(&id)
    }
}
