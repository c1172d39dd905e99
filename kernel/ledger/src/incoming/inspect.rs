//! What a push brings: which commits and files are new, and where their objects come from.
//!
//! `door.git` holds the objects of all runs, and a pack made by hand may name any of them. So
//! what a run pushes has to come with its push, or to be in a history that the run may know.

use super::{COMMITS, Incoming, PARENTS};
use crate::changes::{Bounds, ChangesError, Commit, Contents, FileChange, Origin, Visitor, Walk};
use factory_core::ids::Oid;
use factory_core::wire::CHECKPOINT_WORK;
use std::collections::{HashMap, HashSet};

/// Of how many objects that have to be looked for the place is remembered.
const PLACES: usize = 1000;

/// Most entries that the first level of a checkpoint has; two are used.
const CHECKPOINT_PARTS: usize = 16;

/// What a push is made like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Commits of work.
    Branch,
    /// A commit on top of work, whose tree holds the work tree and the engine's session.
    Checkpoint {
        /// Checkpoints whose work trees and sessions it may go on from.
        earlier: Vec<Oid>,
    },
}

/// Who decides on what a push brings.
pub trait Judge {
    /// What ends the inspection.
    type Error: From<ChangesError>;

    /// A new commit, as it is stored; none where it is longer than 1 MiB, which is an error.
    fn commit(&mut self, commit: &Oid, text: Option<&[u8]>) -> Result<(), Self::Error>;

    /// A file at which a new commit differs from all its parents.
    fn file(&mut self, commit: &Oid, change: &FileChange) -> Result<(), Self::Error>;
}

/// Objects that a push names and does not bring. They may be anywhere in the history that
/// the run may know, or be another run's.
#[derive(Debug, Default)]
pub struct Unsure {
    objects: HashMap<String, Option<Vec<u8>>>,
    found: HashSet<String>,
}

impl Unsure {
    fn add(&mut self, id: git2::Oid, path: &[u8]) {
        let place = (self.objects.len() < PLACES).then(|| path.to_vec());
        self.objects.entry(id.to_string()).or_insert(place);
    }

    fn has_found(&self, id: git2::Oid) -> bool {
        !self.found.is_empty() && self.found.contains(&id.to_string())
    }

    /// True where there is none, or each was found.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The run may know this object.
    pub fn find(&mut self, object: &str) {
        if let Some((id, _)) = self.objects.remove_entry(object) {
            self.found.insert(id);
        }
    }

    /// One that was not found, and where it stands, as far as that was remembered.
    pub fn first(&self) -> Option<(&str, &[u8])> {
        let object = self
            .objects
            .iter()
            .min_by_key(|(id, path)| (path.is_none(), *id))?;
        Some((object.0, object.1.as_deref().unwrap_or_default()))
    }
}

/// A push that is to be inspected.
pub struct Inspection<'a> {
    /// The commits that it brings, the newest first.
    pub brought: &'a [Oid],
    /// Commits whose histories they build on.
    pub there: &'a [Oid],
    /// What it is made like.
    pub form: &'a Form,
    /// Objects that were looked for, and that the run may know.
    pub admitted: &'a Unsure,
    /// How much may change.
    pub bounds: Bounds,
    /// Says whether to give up.
    pub stop: &'a dyn Fn() -> bool,
}

impl Incoming {
    /// The commits that `new` brings to histories of commits that are there; none where git
    /// has to list them, since some were there before, or since they are many.
    ///
    /// # Errors
    /// [`ChangesError::Unread`], [`ChangesError::Stopped`], and [`ChangesError::Parents`] of a
    /// commit that it brings.
    pub fn brings(
        &self,
        new: &Oid,
        there: &[Oid],
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Oid>>, ChangesError> {
        let there = there.iter().map(|oid| self.id(oid));
        let there = there.collect::<Result<HashSet<_>, _>>()?;
        let mut seen = HashSet::new();
        let mut brought = Vec::new();
        let mut next = vec![self.id(new)?];
        while let Some(id) = next.pop() {
            if there.contains(&id) || !seen.insert(id) {
                continue;
            }
            // Nothing that was not here before is in a history that was.
            if brought.len() == COMMITS || !self.brings_object(id) || self.before.has(id) {
                return Ok(None);
            }
            if stop() {
                return Err(ChangesError::Stopped);
            }
            let Some(commit) = self.all.commit(id)? else {
                return Ok(None);
            };
            let oid = self.oid(id)?;
            let parents = few_parents(&oid, &commit)?;
            brought.push(oid);
            next.extend(parents.into_iter().filter(|parent| !seen.contains(parent)));
        }
        Ok(Some(brought))
    }

    /// True where the push itself brings the object.
    pub fn is_own(&self, object: &Oid) -> bool {
        self.id(object).is_ok_and(|id| self.brings_object(id))
    }

    /// Shows `judge` the new commits, and what they change. Blocks.
    ///
    /// Gives the objects that are neither pushed nor in the trees of the commits that these
    /// build on; what they hold was passed over. Whoever calls has to look whether the run
    /// may know them, and inspect again.
    ///
    /// # Errors
    /// What `judge` gives, and [`ChangesError`] beyond the bounds.
    pub fn inspect<J: Judge>(
        &self,
        inspection: &Inspection,
        judge: &mut J,
    ) -> Result<Unsure, J::Error> {
        let Inspection {
            form, bounds, stop, ..
        } = *inspection;
        let brought = self.ids(inspection.brought)?;
        let there = self.ids(inspection.there)?;
        let new: HashSet<_> = brought.iter().copied().collect();
        let mut bringing = Bringing {
            incoming: self,
            commit: Oid::zero(),
            is_own: true,
            there,
            contents: None,
            wanted: self.borrowed.clone(),
            admitted: inspection.admitted,
            unsure: Unsure::default(),
            judged: HashSet::new(),
            stop,
            judge,
        };
        let mut commits = Vec::with_capacity(brought.len());
        let mut trees = HashMap::new();
        for id in &brought {
            if stop() {
                return Err(ChangesError::Stopped.into());
            }
            let text = self.all.commit_text(*id).map_err(ChangesError::Unread)?;
            let oid = self.oid(*id)?;
            bringing
                .judge
                .commit(&oid, text.as_ref().map(|text| text.data()))?;
            let commit = self.all.commit(*id).map_err(ChangesError::Unread)?;
            let commit = commit.ok_or(ChangesError::Compared)?;
            let parents = few_parents(&oid, &commit)?;
            trees.insert(*id, commit.tree);
            // From where contents may come back.
            let known = parents.iter().filter(|parent| !new.contains(parent));
            bringing.there.extend(known);
            commits.push((oid, commit.tree, parents));
        }
        let mut walk = Walk::new(&self.all, bounds, stop);
        // The oldest first: what it brings, those that follow may move.
        for ((oid, tree, named), id) in commits.into_iter().zip(&brought).rev() {
            bringing.commit = oid;
            bringing.is_own = self.brings_object(*id);
            let mut parents = Vec::with_capacity(named.len());
            for parent in named {
                if stop() {
                    return Err(ChangesError::Stopped.into());
                }
                let tree = match trees.get(&parent) {
                    Some(tree) => *tree,
                    None => {
                        let tree = self.all.tree_of(parent).map_err(ChangesError::Unread)?;
                        trees.insert(parent, tree);
                        tree
                    }
                };
                parents.push(Some(tree));
            }
            match form {
                Form::Checkpoint { earlier } if brought.first() == Some(id) => {
                    self.checkpoint(&mut walk, tree, &parents, earlier, &mut bringing)?;
                }
                Form::Branch | Form::Checkpoint { .. } => {
                    walk.compare(tree, &parents, b"", &mut bringing)?;
                }
            }
        }
        bringing.ended()
    }

    /// Its first level is the checkpoint's own.
    fn checkpoint<J: Judge>(
        &self,
        walk: &mut Walk,
        tree: git2::Oid,
        parents: &[Option<git2::Oid>],
        earlier: &[Oid],
        bringing: &mut Bringing<J>,
    ) -> Result<(), J::Error> {
        let parts = |tree| {
            let read = self.all.parts(tree, CHECKPOINT_PARTS);
            read.map_err(ChangesError::Unread)
        };
        let mut known = Vec::new();
        for id in self.ids(earlier)? {
            known.extend(
                parts(self.all.tree_of(id).map_err(ChangesError::Unread)?)?
                    .into_iter()
                    .flatten(),
            );
        }
        if bringing.origin(tree, b"")? != Origin::New {
            return Ok(());
        }
        for part in parts(tree)?.ok_or(ChangesError::Compared)? {
            bringing.mode(part.mode, false, &part.name)?;
            let before = known
                .iter()
                .filter(|other| other.name == part.name && other.is_tree == part.is_tree);
            let mut before: Vec<_> = before.map(|other| Some(other.id)).collect();
            if part.name == CHECKPOINT_WORK.as_bytes() {
                before.extend(parents);
            }
            if part.is_tree {
                walk.compare(part.id, &before, &part.name, bringing)?;
            } else if !before.contains(&Some(part.id)) {
                bringing.origin(part.id, &part.name)?;
            }
        }
        Ok(())
    }

    fn ids(&self, oids: &[Oid]) -> Result<Vec<git2::Oid>, ChangesError> {
        let ids = oids.iter().map(|oid| self.id(oid));
        Ok(ids.collect::<Result<_, _>>()?)
    }

    fn oid(&self, id: git2::Oid) -> Result<Oid, ChangesError> {
        let oid = id.to_string().parse();
        let wrong = |_| git2::Error::from_str("an object has no name of 40 digits");
        Ok(oid.map_err(|e| self.all.unread(wrong(e)))?)
    }
}

/// The parents of a pushed commit, each once: one that names thousands would have each of
/// them read and compared.
fn few_parents(oid: &Oid, commit: &Commit) -> Result<Vec<git2::Oid>, ChangesError> {
    if commit.parents.len() > PARENTS {
        return Err(ChangesError::Parents {
            commit: oid.clone(),
            limit: PARENTS,
        });
    }
    Ok(commit.distinct_parents())
}

/// One push, while it is compared with what was there.
struct Bringing<'a, J> {
    incoming: &'a Incoming,
    /// Whose changes are looked at.
    commit: Oid,
    /// The push brought it; else it came with a checkpoint that the run may know.
    is_own: bool,
    /// Commits that the push builds on.
    there: Vec<git2::Oid>,
    /// What stands in their trees, once that was asked for.
    contents: Option<Contents>,
    /// What the pack was made from and does not bring, as far as it was not seen yet.
    wanted: HashSet<git2::Oid>,
    admitted: &'a Unsure,
    unsure: Unsure,
    /// Files that were judged in older commits: there they did or did not break a rule. Bounded
    /// by the entries that may differ.
    judged: HashSet<git2::Oid>,
    stop: &'a dyn Fn() -> bool,
    judge: &'a mut J,
}

impl<J: Judge> Bringing<'_, J> {
    /// Whether it stands in a tree that the push builds on.
    fn stands(&mut self, id: git2::Oid) -> Result<bool, ChangesError> {
        if self.contents.is_none() {
            self.there.sort_unstable();
            self.there.dedup();
            let trees = self.there.iter().map(|id| self.incoming.all.tree_of(*id));
            let trees = trees.collect::<Result<Vec<_>, _>>()?;
            self.contents = Some(Contents::of(&self.incoming.all, &trees, self.stop)?);
        }
        let contents = self.contents.as_ref();
        Ok(contents.is_some_and(|contents| contents.has(id)))
    }

    fn ended(mut self) -> Result<Unsure, J::Error> {
        for id in std::mem::take(&mut self.wanted) {
            if !self.stands(id)? && !self.admitted.has_found(id) {
                self.unsure.add(id, b"");
            }
        }
        Ok(self.unsure)
    }
}

impl<J: Judge> Visitor for Bringing<'_, J> {
    type Error = J::Error;

    fn origin(&mut self, id: git2::Oid, path: &[u8]) -> Result<Origin, J::Error> {
        if self.judged.contains(&id) {
            return Ok(Origin::Known);
        }
        let own = self.incoming.brings_object(id);
        // Most of what is pushed was never here.
        if own && !self.incoming.before.has(id) {
            return Ok(Origin::New);
        }
        if self.stands(id)? {
            return Ok(Origin::Known);
        }
        if own || !self.is_own {
            return Ok(Origin::New);
        }
        if self.admitted.has_found(id) {
            return Ok(Origin::Admitted);
        }
        self.unsure.add(id, path);
        Ok(Origin::Unsure)
    }

    fn mode(&mut self, mode: u32, has_stood: bool, path: &[u8]) -> Result<(), J::Error> {
        match mode {
            0o040_000 | 0o100_644 | 0o100_755 | 0o120_000 | 0o160_000 => Ok(()),
            // Old versions of git wrote it.
            0o100_664 if has_stood => Ok(()),
            _ => {
                let path = path.to_vec();
                Err(ChangesError::Mode { path, mode }.into())
            }
        }
    }

    fn is_known_link(&mut self, id: git2::Oid) -> Result<bool, J::Error> {
        self.stands(id)?;
        let contents = self.contents.as_ref();
        Ok(contents.is_some_and(|contents| contents.has_link(id)))
    }

    fn stood(&mut self, id: git2::Oid) {
        if !self.wanted.is_empty() {
            self.wanted.remove(&id);
        }
    }

    fn file(&mut self, change: &FileChange) -> Result<(), J::Error> {
        self.judge.file(&self.commit, change)?;
        // A submodule's commit is no object of the push: under its name anything could come in.
        let file = change.after.filter(|after| !after.is_submodule());
        self.judged.extend(file.map(|file| file.id()));
        Ok(())
    }
}
