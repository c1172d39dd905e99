//! What a few commits add, as a pack made without a process: most work branches move by one
//! small push. What is much, or strange, is left to git.

use crate::door::DoorRepo;
use crate::repo::{RepoError, unread};
use factory_core::ids::Oid;
use git2::{ObjectType, Odb, Repository, Tree};
use std::collections::BTreeSet;

/// Most objects of a small pack: as many as git itself unpacks.
const OBJECTS: usize = 100;
/// Most bytes of its objects, before compression, and of each object that is looked at.
const BYTES: usize = 4 << 20;

/// What the history of `commit` adds to `had` and to what `base.git` has: all objects that
/// whoever has these lacks, or a few more. None where that is much.
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
    let base = Odb::new()?;
    let objects = door.base().dir().join("objects");
    let Some(objects) = objects.to_str() else {
        return Ok(None);
    };
    base.add_disk_alternate(objects)?;
    let had: Result<BTreeSet<_>, _> = had.map(|oid| git2::Oid::from_str(oid.as_str())).collect();
    let had = had?;
    let mut added = Added {
        repository: &repository,
        objects: BTreeSet::new(),
        bytes: 0,
    };
    let mut commits = vec![git2::Oid::from_str(commit.as_str())?];
    while let Some(oid) = commits.pop() {
        if had.contains(&oid) || base.exists(oid) || !added.take(oid)? {
            continue;
        }
        if added.is_much() {
            return Ok(None);
        }
        let commit = repository.find_commit(oid)?;
        commits.extend(commit.parent_ids());
        let mut before = Vec::new();
        for parent in commit.parent_ids() {
            if size_of(&repository, parent)? > BYTES {
                return Ok(None);
            }
            before.push(repository.find_commit(parent)?.tree_id());
        }
        if !added.tree(commit.tree_id(), before)? {
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

fn size_of(repository: &Repository, oid: git2::Oid) -> Result<usize, git2::Error> {
    Ok(repository.odb()?.read_header(oid)?.0)
}

struct Added<'r> {
    repository: &'r Repository,
    objects: BTreeSet<git2::Oid>,
    bytes: usize,
}

impl<'r> Added<'r> {
    fn is_much(&self) -> bool {
        self.objects.len() > OBJECTS || self.bytes > BYTES
    }

    /// False where it was taken before.
    fn take(&mut self, oid: git2::Oid) -> Result<bool, git2::Error> {
        let is_new = self.objects.insert(oid);
        if is_new {
            self.bytes += size_of(self.repository, oid)?;
        }
        Ok(is_new)
    }

    /// A tree that is small enough to be looked at.
    fn small(&self, oid: git2::Oid) -> Result<Option<Tree<'r>>, git2::Error> {
        match size_of(self.repository, oid)? > BYTES {
            true => Ok(None),
            false => self.repository.find_tree(oid).map(Some),
        }
    }

    /// Takes a tree and what is below it, but for what one of the trees `before` has in
    /// the same place; each once, in however many places it is. False where that is much.
    fn tree(&mut self, tree: git2::Oid, before: Vec<git2::Oid>) -> Result<bool, git2::Error> {
        let mut trees = vec![(tree, before)];
        while let Some((oid, before)) = trees.pop() {
            if before.contains(&oid) || !self.take(oid)? {
                continue;
            }
            let Some(tree) = self.small(oid)?.filter(|_| !self.is_much()) else {
                return Ok(false);
            };
            let mut old = Vec::new();
            for oid in before {
                match self.small(oid)? {
                    Some(tree) => old.push(tree),
                    None => return Ok(false),
                }
            }
            for entry in &tree {
                let same_place = old.iter().filter_map(|tree| {
                    let old = tree.get_name_bytes(entry.name_bytes())?;
                    Some((old.id(), old.kind()))
                });
                let same_place: Vec<_> = same_place.collect();
                if same_place.iter().any(|(id, _)| *id == entry.id()) {
                    continue;
                }
                match entry.kind() {
                    Some(ObjectType::Tree) => {
                        let is_tree = |kind: &Option<ObjectType>| *kind == Some(ObjectType::Tree);
                        let old = same_place.iter().filter(|(_, kind)| is_tree(kind));
                        trees.push((entry.id(), old.map(|(id, _)| *id).collect()));
                    }
                    Some(ObjectType::Blob) => {
                        self.take(entry.id())?;
                        if self.is_much() {
                            return Ok(false);
                        }
                    }
                    // A submodule's commit is not ours.
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}
