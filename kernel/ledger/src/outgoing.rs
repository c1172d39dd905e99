//! What a few commits add, as a pack made without a process: most work branches move by one
//! small push.

use crate::door::DoorRepo;
use crate::repo::{RepoError, unread};
use factory_core::ids::Oid;
use git2::{ObjectType, Repository, Tree};
use std::collections::BTreeSet;

/// Most objects of a small pack.
const OBJECTS: usize = 1000;
/// Most bytes of its objects, before compression.
const BYTES: usize = 4 << 20;

/// What the history of `commit` adds to that of those of `had` that `door` knows: all
/// objects that whoever has these lacks, or a few more. None where that is much.
pub(crate) fn small_pack<'a>(
    door: &DoorRepo,
    commit: &Oid,
    had: impl Iterator<Item = &'a Oid>,
) -> Result<Option<Vec<u8>>, RepoError> {
    made(door, commit, had).map_err(unread(&door.dir().join("objects")))
}

fn made<'a>(
    door: &DoorRepo,
    commit: &Oid,
    had: impl Iterator<Item = &'a Oid>,
) -> Result<Option<Vec<u8>>, git2::Error> {
    let repository = Repository::open_bare(door.dir())?;
    let mut walk = repository.revwalk()?;
    walk.push(git2::Oid::from_str(commit.as_str())?)?;
    for oid in had {
        let oid = git2::Oid::from_str(oid.as_str())?;
        if repository.find_commit(oid).is_ok() {
            walk.hide(oid)?;
        }
    }
    let mut added = Added {
        repository: &repository,
        objects: BTreeSet::new(),
        bytes: 0,
    };
    for oid in walk {
        let commit = repository.find_commit(oid?)?;
        let parents: Result<Vec<_>, _> = commit.parents().map(|parent| parent.tree()).collect();
        added.take(commit.id())?;
        added.tree(&commit.tree()?, &parents?)?;
        if added.is_much() {
            return Ok(None);
        }
    }
    let mut pack = repository.packbuilder()?;
    for oid in added.objects {
        pack.insert_object(oid, None)?;
    }
    let mut bytes = git2::Buf::new();
    pack.write_buf(&mut bytes)?;
    Ok(Some(bytes.to_vec()))
}

struct Added<'r> {
    repository: &'r Repository,
    objects: BTreeSet<git2::Oid>,
    bytes: usize,
}

impl Added<'_> {
    fn is_much(&self) -> bool {
        self.objects.len() > OBJECTS || self.bytes > BYTES
    }

    fn take(&mut self, oid: git2::Oid) -> Result<(), git2::Error> {
        if self.objects.insert(oid) {
            self.bytes += self.repository.odb()?.read_header(oid)?.0;
        }
        Ok(())
    }

    /// Takes a tree and what is below it, but for what one of the trees `before` has
    /// in the same place.
    fn tree(&mut self, tree: &Tree<'_>, before: &[Tree<'_>]) -> Result<(), git2::Error> {
        if self.is_much() || before.iter().any(|old| old.id() == tree.id()) {
            return Ok(());
        }
        self.take(tree.id())?;
        for entry in tree {
            let old = |tree: &Tree<'_>| {
                let old = tree.get_name_bytes(entry.name_bytes());
                old.map(|old| old.id())
            };
            let old: Vec<_> = before.iter().filter_map(old).collect();
            if old.contains(&entry.id()) {
                continue;
            }
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    let old: Vec<_> = old
                        .into_iter()
                        .filter_map(|id| self.repository.find_tree(id).ok())
                        .collect();
                    let below = self.repository.find_tree(entry.id())?;
                    self.tree(&below, &old)?;
                }
                Some(ObjectType::Blob) => self.take(entry.id())?,
                // A submodule's commit is not ours.
                _ => {}
            }
        }
        Ok(())
    }
}
