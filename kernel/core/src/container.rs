//! What a container is to be: pure data, turned into engine calls by `factory-runtime`.

use crate::ids::{Epoch, RunId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Everything the engine is told about one container. Two specs with the same
/// [`ContainerSpec::digest`] describe the same container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `factory-<home>-<run>`; creating by name makes creation idempotent.
    pub name: String,
    /// Image id (`sha256:…`), never a moving tag.
    pub image: String,
    /// The engine's OCI runtime; its own default where none is named. Without one the digest is
    /// as it was before there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Program and arguments; replaces the image's entry point.
    pub argv: Vec<String>,
    /// The whole environment apart from what the image sets.
    pub env: BTreeMap<String, String>,
    /// Working directory inside.
    pub workdir: String,
    /// Numeric user inside.
    pub uid: u32,
    /// Numeric group inside.
    pub gid: u32,
    /// Host directories and files that are mounted.
    pub mounts: Vec<Mount>,
    /// Memory file systems, mounted `rw,exec,nosuid,nodev`.
    pub tmpfs: Vec<Tmpfs>,
    /// Hard limits.
    pub limits: ContainerLimits,
    /// Which factory, run and epoch it belongs to.
    pub owner: Owner,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// A memory file system inside the container. Its pages count as memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path inside.
    pub target: String,
    /// Size limit in bytes.
    pub size: u64,
}

/// Hard limits of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLimits {
    /// Bytes, swap included.
    pub memory: u64,
    /// Thousandths of a core.
    pub milli_cpus: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of one file.
    pub file_size: u64,
}

/// Who owns a container; written on it as labels `factory.home`, `factory.run`,
/// `factory.epoch` (and `factory.spec`, the digest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Eight hexadecimal digits naming this factory on this host.
    pub home: String,
    /// The run.
    pub run: RunId,
    /// Epoch of the grant. Not part of the digest: an adopted container keeps
    /// the epoch it was created under.
    pub epoch: Epoch,
}

impl ContainerSpec {
    /// Name of the container of `run` in the factory `home`.
    pub fn name_for(home: &str, run: RunId) -> String {
        format!("factory-{home}-{run}")
    }

    /// SHA-256 over the canonical JSON of the spec without its epoch.
    pub fn digest(&self) -> String {
        let mut same = self.clone();
        same.owner.epoch = Epoch(0);
        // Serialising plain data with string keys cannot fail.
        let json = serde_json::to_vec(&same).unwrap_or_default();
        Sha256::digest(json)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }
}
