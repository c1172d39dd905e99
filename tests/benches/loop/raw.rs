//! The floor of all that is kept in git: the same files, committed by libgit2 alone.

use factory_core::change::FileChange;
use git2::{FileMode, Repository, Signature, build::TreeUpdateBuilder};
use std::path::Path;

/// libgit2 with nothing around it, as durable as the state.
pub struct Raw {
    repository: Repository,
}

impl Raw {
    /// Opens a new bare repository there, or one that is there already.
    pub fn make(dir: &Path) -> Self {
        let made = Repository::init_bare(dir).unwrap();
        let mut config = made.config().unwrap();
        config.set_bool("core.fsyncObjectFiles", true).unwrap();
        // Read when a repository is opened.
        Self {
            repository: Repository::open_bare(dir).unwrap(),
        }
    }

    /// A new bare repository there, with one empty commit.
    pub fn begin(dir: &Path) -> Self {
        let raw = Self::make(dir);
        let git = &raw.repository;
        let tree = git.treebuilder(None).unwrap().write().unwrap();
        let tree = git.find_tree(tree).unwrap();
        let who = Signature::now("bench", "bench@localhost").unwrap();
        git.commit(Some("refs/state"), &who, &who, "begin", &tree, &[])
            .unwrap();
        drop(tree);
        raw
    }

    /// Leaves out what is to be removed and is not there, which libgit2 refuses.
    pub fn possible(&self, changes: Vec<FileChange>) -> Vec<FileChange> {
        let state = self.repository.find_reference("refs/state").unwrap();
        let tree = state.peel_to_tree().unwrap();
        let there = |path: &str| tree.get_path(Path::new(path)).is_ok();
        let mut changes = changes;
        changes.retain(|change| change.content.is_some() || there(&change.path));
        changes
    }

    /// One commit on `refs/state`: on the disk when this returns.
    pub fn commit(&self, changes: &[FileChange], message: &str) {
        let git = &self.repository;
        let parent = git.find_reference("refs/state").unwrap();
        let parent = parent.peel_to_commit().unwrap();
        let mut update = TreeUpdateBuilder::new();
        for change in changes {
            match &change.content {
                Some(bytes) => {
                    let blob = git.blob(bytes).unwrap();
                    update.upsert(change.path.as_str(), blob, FileMode::Blob)
                }
                None => update.remove(change.path.as_str()),
            };
        }
        let tree = update.create_updated(git, &parent.tree().unwrap()).unwrap();
        let tree = git.find_tree(tree).unwrap();
        let who = Signature::now("bench", "bench@localhost").unwrap();
        git.commit(Some("refs/state"), &who, &who, message, &tree, &[&parent])
            .unwrap();
    }
}
