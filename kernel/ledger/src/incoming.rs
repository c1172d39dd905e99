//! What a run pushed, while it is judged: packs in a folder of their own, in front of the
//! objects of `door.git`, which take them over as they are.

use crate::door::DoorRepo;
use crate::repo::{RepoError, io, unread};
use factory_core::ids::Oid;
use git2::{ErrorCode, Odb, Repository};
use std::fs::File;
use std::path::{Path, PathBuf};

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

    /// The first parent of a commit; none where it has none.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where it cannot be read.
    pub fn first_parent(&self, commit: &Oid) -> Result<Option<Oid>, RepoError> {
        let read = || {
            let commit = self.repository.find_commit(id(commit)?)?;
            Ok(commit.parent_ids().next())
        };
        let parent = read().map_err(unread(&self.objects))?;
        Ok(parent.and_then(|parent| parent.to_string().parse().ok()))
    }

    /// True where `commit` is `ancestor` or descends from it.
    ///
    /// # Errors
    /// [`RepoError::Objects`] where a commit of the history cannot be read.
    pub fn holds(&self, commit: &Oid, ancestor: &Oid) -> Result<bool, RepoError> {
        let read = || {
            self.repository
                .graph_descendant_of(id(commit)?, id(ancestor)?)
        };
        Ok(commit == ancestor || read().map_err(unread(&self.objects))?)
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
