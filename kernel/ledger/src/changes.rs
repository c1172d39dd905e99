//! What changed between trees, file by file, for those who judge what others made.
//!
//! Trees of others may be deep and wide, and may hold themselves many times over: a walk
//! ends within its [`Bounds`], and holds little of them at a time.

mod objects;
#[cfg(test)]
mod tests;

pub(crate) use objects::{Commit, Contents, Objects, Raw};

use crate::repo::RepoError;
use factory_core::ids::Oid;
use git2::OdbObject;
use objects::Entries;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// Most directories that stand in each other.
const DEPTH: usize = 128;
/// Most bytes of a path: no system opens longer ones.
const PATH_BYTES: usize = 4096;
/// Most bytes of trees that are held at a time.
const HELD: u64 = 256 << 20;
/// Between two looks whether to go on.
const LOOK_EVERY: u64 = 1024;

/// How much a walk may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most files and directories that differ.
    pub entries: u64,
    /// Most entries of trees that are compared: a large directory costs as many as it has
    /// for each commit that changes a file in it.
    pub compared: u64,
    /// Most bytes of all added and changed files together.
    pub bytes: u64,
    /// Most bytes of one of them.
    pub file: u64,
}

impl Bounds {
    /// For what agents push.
    pub const PUSH: Self = Self {
        entries: 200_000,
        compared: 20_000_000,
        bytes: 2 << 30,
        file: 100 << 20,
    };
    /// For what was let in before: files of people may be larger.
    pub const MERGE: Self = Self {
        bytes: u64::MAX,
        file: u64::MAX,
        ..Self::PUSH
    };
}

/// Why a walk ended early. Paths are bytes of others.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// More files and directories than may differ.
    #[error("more than {limit} files and directories change")]
    Entries {
        /// The limit.
        limit: u64,
    },
    /// More entries than are compared, or more of them at once than are held.
    #[error("the directories that change have too many entries to be compared")]
    Compared,
    /// Changed files are too large together.
    #[error("the files that change have more than {limit} bytes together")]
    Bytes {
        /// The limit in bytes.
        limit: u64,
    },
    /// One changed file is too large.
    #[error("a file has {size} bytes, and at most {limit} are allowed")]
    File {
        /// Where it is.
        path: Vec<u8>,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A path is too long, or its directories too deep.
    #[error("a path is longer than 4096 bytes, or deeper than 128 directories")]
    Depth {
        /// Its beginning.
        path: Vec<u8>,
    },
    /// An entry has a mode that git does not write; it takes most of them for submodules.
    #[error("an entry has the mode {mode:o}, which git does not write")]
    Mode {
        /// Where it is.
        path: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// A commit has more parents than may be.
    #[error("the commit {commit} has more than {limit} parents")]
    Parents {
        /// The commit.
        commit: Oid,
        /// The limit.
        limit: usize,
    },
    /// Nobody waits for the result any more.
    #[error("the comparison was stopped")]
    Stopped,
    /// A commit or tree could not be read.
    #[error("the changes could not be read")]
    Unread(#[source] RepoError),
}

impl From<RepoError> for ChangesError {
    fn from(error: RepoError) -> Self {
        Self::Unread(error)
    }
}

/// What stands at a path: a file, a symbolic link or a submodule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    id: git2::Oid,
}

impl Entry {
    /// Its mode, as git has it.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    pub(crate) fn id(&self) -> git2::Oid {
        self.id
    }

    /// Its object; of a submodule, the commit in the other repository.
    pub fn oid(&self) -> Option<Oid> {
        self.id.to_string().parse().ok()
    }

    /// True for a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    /// True for a submodule's commit, and for what git takes for one.
    pub fn is_submodule(&self) -> bool {
        !objects::is_file_or_link(self.mode)
    }
}

/// One path at which a tree differs from all trees that it is compared with.
pub struct FileChange<'a> {
    /// From the root; any bytes.
    pub path: &'a [u8],
    /// What each of the other trees has there, in their order.
    pub before: &'a [Option<Entry>],
    /// What is there now; none where it was removed.
    pub after: Option<Entry>,
    /// Bytes of the file that is there now; of a removed file and a submodule none.
    pub size: u64,
    /// The content was there before, at this path or another: it was renamed, or came back.
    pub known: bool,
    /// It is a symbolic link that stood before, at this path or another.
    pub is_known_link: bool,
    objects: &'a Objects,
}

impl FileChange<'_> {
    /// What stood there before, each content once.
    pub fn contents_before(&self) -> Vec<Entry> {
        let mut seen = HashSet::new();
        let all = self.before.iter().flatten();
        all.filter(|entry| seen.insert(entry.id)).copied().collect()
    }

    /// The content of one of its entries; none of one that is longer than `limit` bytes, and
    /// of a submodule.
    ///
    /// # Errors
    /// [`RepoError::Objects`].
    pub fn content(&self, entry: &Entry, limit: u64) -> Result<Option<Vec<u8>>, RepoError> {
        if entry.is_submodule() {
            return Ok(None);
        }
        self.objects.content(entry.id, limit)
    }

    /// Bytes of the content of one of its entries; of a submodule none.
    ///
    /// # Errors
    /// [`RepoError::Objects`].
    pub fn size_of(&self, entry: &Entry) -> Result<u64, RepoError> {
        match entry.is_submodule() {
            true => Ok(0),
            false => self.objects.size(entry.id),
        }
    }
}

/// Where an object that stands in a tree comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It came with the tree: what it holds is asked for in turn.
    New,
    /// It was there before, with all that it holds.
    Known,
    /// It may be there, with all that it holds, and counts as new.
    Admitted,
    /// That has to be looked for: what it holds is passed over.
    Unsure,
}

/// Who is shown what a walk finds.
pub(crate) trait Visitor {
    /// What ends the walk.
    type Error: From<ChangesError>;

    /// Where a tree or file comes from that differs.
    fn origin(&mut self, id: git2::Oid, path: &[u8]) -> Result<Origin, Self::Error>;

    /// Judges the mode of an entry that differs, and that came with its tree. `has_stood`: the
    /// same mode stood there.
    fn mode(&mut self, _mode: u32, _has_stood: bool, _path: &[u8]) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Whether a symbolic link's target is one that stood before, as a link.
    fn is_known_link(&mut self, _id: git2::Oid) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// An object that stands in one of the other trees, where these were looked into.
    fn stood(&mut self, _id: git2::Oid) {}

    /// A file that differs.
    fn file(&mut self, change: &FileChange) -> Result<(), Self::Error>;
}

/// Compares trees. What it counts adds up over all comparisons.
pub(crate) struct Walk<'a> {
    objects: &'a Objects,
    bounds: Bounds,
    stop: &'a dyn Fn() -> bool,
    entries: u64,
    compared: u64,
    looked: u64,
    bytes: u64,
    held: u64,
    /// Bounded by the entries that differ.
    sizes: HashMap<git2::Oid, u64>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(objects: &'a Objects, bounds: Bounds, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            objects,
            bounds,
            stop,
            entries: 0,
            compared: 0,
            looked: 0,
            bytes: 0,
            held: 0,
            sizes: HashMap::new(),
        }
    }

    /// Shows every path below `path` at which the tree `after` differs from each of `before`.
    pub(crate) fn compare<V: Visitor>(
        &mut self,
        after: git2::Oid,
        before: &[Option<git2::Oid>],
        path: &[u8],
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        if before.contains(&Some(after)) {
            return Ok(());
        }
        for tree in before.iter().flatten() {
            visitor.stood(*tree);
        }
        let origin = visitor.origin(after, path)?;
        if origin == Origin::Unsure {
            return Ok(());
        }
        let place = Place { depth: 0, origin };
        self.directory(Some(after), before, &mut path.to_vec(), place, visitor)
    }

    fn directory<V: Visitor>(
        &mut self,
        after: Option<git2::Oid>,
        before: &[Option<git2::Oid>],
        path: &mut Vec<u8>,
        place: Place,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        if place.depth == DEPTH {
            return Err(ChangesError::Depth { path: path.clone() }.into());
        }
        let held = self.held;
        let after = after.map(|id| self.tree(id)).transpose()?;
        let before = before
            .iter()
            .map(|id| id.map(|id| self.tree(id)).transpose());
        let before = before.collect::<Result<Vec<_>, _>>()?;
        let side = |tree| Side::new(tree).map_err(|e| self.malformed(e));
        let mut now = side(after.as_ref())?;
        let then = before.iter().map(|tree| side(tree.as_ref()));
        let mut then = then.collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<Option<Raw>> = Vec::with_capacity(then.len());
        loop {
            let heads = now
                .head
                .iter()
                .chain(then.iter().filter_map(|side| side.head.as_ref()));
            let Some(first) = heads
                .copied()
                .reduce(|a, b| if b.order(&a).is_lt() { b } else { a })
            else {
                break;
            };
            self.count(1 + then.len() as u64)?;
            let present = now.take(&first).map_err(|e| self.malformed(e))?;
            found.clear();
            for side in &mut then {
                let taken = side.take(&first).map_err(|e| self.malformed(e))?;
                if let Some(taken) = taken.as_ref().filter(|taken| taken.has_object()) {
                    visitor.stood(taken.id);
                }
                found.push(taken);
            }
            let differs = match present {
                Some(present) => found
                    .iter()
                    .flatten()
                    .all(|other| other.id != present.id || other.mode != present.mode),
                None => !found.is_empty() && found.iter().all(Option::is_some),
            };
            if !differs {
                continue;
            }
            self.entries += 1;
            if self.entries > self.bounds.entries {
                let limit = self.bounds.entries;
                return Err(ChangesError::Entries { limit }.into());
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(first.name);
            if path.len() > PATH_BYTES {
                return Err(ChangesError::Depth { path: path.clone() }.into());
            }
            if let Some(raw) = present.filter(|_| place.origin == Origin::New) {
                let has_stood = found.iter().flatten().any(|other| other.mode == raw.mode);
                visitor.mode(raw.mode, has_stood, path)?;
            }
            if first.is_tree() {
                let ids: Vec<_> = found.iter().map(|raw| raw.map(|raw| raw.id)).collect();
                let origin = match present {
                    Some(raw) if !ids.contains(&Some(raw.id)) => {
                        place.origin_of(raw.id, path, visitor)?
                    }
                    _ => Origin::Known,
                };
                if origin != Origin::Unsure {
                    let depth = place.depth + 1;
                    let below = Place { depth, origin };
                    self.directory(present.map(|raw| raw.id), &ids, path, below, visitor)?;
                }
            } else {
                self.file(present, &found, path, place, visitor)?;
            }
            path.truncate(length);
        }
        self.held = held;
        Ok(())
    }

    fn file<V: Visitor>(
        &mut self,
        after: Option<Raw>,
        before: &[Option<Raw>],
        path: &[u8],
        place: Place,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        let entry = |raw: Raw| Entry {
            mode: raw.mode,
            id: raw.id,
        };
        let after = after.map(entry);
        let before: Vec<_> = before.iter().map(|raw| raw.map(entry)).collect();
        let (mut size, mut known) = (0, true);
        if let Some(after) = after.filter(|after| !after.is_submodule()) {
            // The mode alone may have changed.
            let same = before.iter().flatten().any(|other| other.id == after.id);
            let origin = match same {
                true => Origin::Known,
                false => place.origin_of(after.id, path, visitor)?,
            };
            if origin == Origin::Unsure {
                return Ok(());
            }
            known = origin == Origin::Known;
            size = self.size(after.id)?;
            let limit = self.bounds.file;
            if size > limit && !known {
                let path = path.to_vec();
                return Err(ChangesError::File { path, size, limit }.into());
            }
            self.bytes = self.bytes.saturating_add(size);
            if self.bytes > self.bounds.bytes {
                let limit = self.bounds.bytes;
                return Err(ChangesError::Bytes { limit }.into());
            }
        }
        let is_known_link = match after.filter(Entry::is_link) {
            None => false,
            Some(_) if place.origin == Origin::Known => true,
            Some(link) => visitor.is_known_link(link.id)?,
        };
        visitor.file(&FileChange {
            path,
            before: &before,
            after,
            size,
            known,
            is_known_link,
            objects: self.objects,
        })
    }

    fn tree(&mut self, id: git2::Oid) -> Result<OdbObject<'a>, ChangesError> {
        self.count(1)?;
        let room = HELD - self.held;
        let tree = self.objects.tree(id, room)?;
        let tree = tree.ok_or(ChangesError::Compared)?;
        self.held += tree.len() as u64;
        Ok(tree)
    }

    fn size(&mut self, id: git2::Oid) -> Result<u64, ChangesError> {
        if let Some(size) = self.sizes.get(&id) {
            return Ok(*size);
        }
        let size = self.objects.size(id)?;
        self.sizes.insert(id, size);
        Ok(size)
    }

    fn count(&mut self, more: u64) -> Result<(), ChangesError> {
        self.compared += more;
        if self.compared > self.bounds.compared {
            return Err(ChangesError::Compared);
        }
        if self.compared - self.looked >= LOOK_EVERY {
            self.looked = self.compared;
            if (self.stop)() {
                return Err(ChangesError::Stopped);
            }
        }
        Ok(())
    }

    fn malformed(&self, error: git2::Error) -> ChangesError {
        ChangesError::Unread(self.objects.unread(error))
    }
}

/// Where a walk stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    /// Where the directory comes from.
    origin: Origin,
}

impl Place {
    /// Where something comes from that stands here.
    fn origin_of<V: Visitor>(
        self,
        id: git2::Oid,
        path: &[u8],
        visitor: &mut V,
    ) -> Result<Origin, V::Error> {
        match self.origin {
            Origin::New => visitor.origin(id, path),
            held @ (Origin::Known | Origin::Admitted | Origin::Unsure) => Ok(held),
        }
    }
}

/// One of the trees that are compared, in the order of its names.
struct Side<'t> {
    head: Option<Raw<'t>>,
    rest: Entries<'t>,
}

impl<'t> Side<'t> {
    fn new(tree: Option<&'t OdbObject<'_>>) -> Result<Self, git2::Error> {
        let mut rest = Entries::of(tree.map_or(&[], |tree| tree.data()));
        let head = rest.next().transpose()?;
        Ok(Self { head, rest })
    }

    /// Its next entry, where that has the name of `first`.
    fn take(&mut self, first: &Raw) -> Result<Option<Raw<'t>>, git2::Error> {
        let is_it = |head: &Raw| head.order(first) == Ordering::Equal;
        let taken = self.head.filter(is_it);
        if taken.is_some() {
            self.head = self.rest.next().transpose()?;
        }
        Ok(taken)
    }
}

/// Shows every file at which the commit `to` differs from `from`; both are in `objects`.
pub(crate) fn between<E: From<ChangesError>>(
    objects: &Objects,
    (from, to): (&Oid, &Oid),
    bounds: Bounds,
    stop: &dyn Fn() -> bool,
    show: impl FnMut(&FileChange) -> Result<(), E>,
) -> Result<(), E> {
    let tree = |commit: &Oid| {
        let tree = objects.id(commit).and_then(|id| objects.tree_of(id));
        tree.map_err(ChangesError::Unread)
    };
    let (before, after) = (tree(from)?, tree(to)?);
    let mut pair = Pair {
        objects,
        before,
        stop,
        held: None,
        show,
    };
    Walk::new(objects, bounds, stop).compare(after, &[Some(before)], b"", &mut pair)
}

/// What stood in one tree is known.
struct Pair<'a, F> {
    objects: &'a Objects,
    before: git2::Oid,
    stop: &'a dyn Fn() -> bool,
    held: Option<Contents>,
    show: F,
}

impl<E: From<ChangesError>, F: FnMut(&FileChange) -> Result<(), E>> Visitor for Pair<'_, F> {
    type Error = E;

    fn origin(&mut self, id: git2::Oid, _path: &[u8]) -> Result<Origin, E> {
        let held = match &mut self.held {
            Some(held) => held,
            none => none.insert(Contents::of(self.objects, &[self.before], self.stop)?),
        };
        Ok(match held.has(id) {
            true => Origin::Known,
            false => Origin::New,
        })
    }

    fn file(&mut self, change: &FileChange) -> Result<(), E> {
        (self.show)(change)
    }
}
