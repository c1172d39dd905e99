//! What the kernel asks of a container engine, and what it hears back.

use factory_core::container::ContainerSpec;
use factory_core::ids::{Epoch, RunId};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;

/// Label that holds [`factory_core::container::Owner::home`].
pub const LABEL_HOME: &str = "factory.home";
/// Label that holds the run's name.
pub const LABEL_RUN: &str = "factory.run";
/// Label that holds the epoch under which the container was created.
pub const LABEL_EPOCH: &str = "factory.epoch";
/// Label that holds [`ContainerSpec::digest`].
pub const LABEL_SPEC: &str = "factory.spec";

/// A container engine.
///
/// Containers are named by the caller, so every call may be repeated: after a
/// crash the caller asks again and finds what it made. A container that ever
/// started is never started again.
pub trait Runtime: Send + Sync + 'static {
    /// Asks the engine what it is and what it can do.
    fn engine(&self) -> impl Future<Output = Result<EngineInfo, RuntimeError>> + Send;

    /// Creates the container, or finds the one of the same name, home and spec.
    ///
    /// # Errors
    /// [`RuntimeError::NameTaken`] when another container has the name,
    /// [`RuntimeError::NoImage`], and [`RuntimeError::Refused`] when the engine
    /// does not accept the spec (such as a mount whose source does not exist).
    fn create(
        &self,
        spec: &ContainerSpec,
    ) -> impl Future<Output = Result<Created, RuntimeError>> + Send;

    /// Starts a container that never ran.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyEnded`] when it ran before, and
    /// [`RuntimeError::Refused`] when the engine could not run its program; the
    /// container is then still [`ContainerState::Created`].
    fn start(&self, name: &str) -> impl Future<Output = Result<Started, RuntimeError>> + Send;

    /// What is known of the container; `None` when there is none of this name.
    /// It may belong to somebody else: look at [`ContainerStatus::home`].
    fn inspect(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<ContainerStatus>, RuntimeError>> + Send;

    /// All containers of one home in any state, ordered by name.
    fn list(
        &self,
        home: &str,
    ) -> impl Future<Output = Result<Vec<ContainerStatus>, RuntimeError>> + Send;

    /// Returns once the container has ended, at once when it had before. Rides
    /// out an engine that restarts.
    ///
    /// # Errors
    /// [`RuntimeError::NeverStarted`] for a container that was only created,
    /// [`RuntimeError::NotFound`] when it is absent or is removed meanwhile.
    fn wait(&self, name: &str) -> impl Future<Output = Result<Exit, RuntimeError>> + Send;

    /// Asks the container to end (SIGTERM) and kills it after `grace_seconds`.
    /// Returns when it has ended. Fine when it is not running or absent.
    fn stop(
        &self,
        name: &str,
        grace_seconds: u32,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Kills the container. Returns when it has ended. Fine when it is not
    /// running or absent.
    fn kill(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes the container, killing it if need be. Fine when it is absent.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last `bytes` of what the container printed, for diagnostics only:
    /// output is lost when the engine restarts, and may not be kept at all.
    fn output_tail(
        &self,
        name: &str,
        bytes: usize,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Identifies this engine across restarts.
    pub id: String,
    /// Version of the engine, such as `20.10.24`.
    pub version: String,
    /// Version of its API, such as `1.41`.
    pub api: String,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub operating_system: String,
    /// Such as `x86_64`.
    pub architecture: String,
    /// Bytes of memory of the engine's machine.
    pub memory: u64,
    /// Cores of the engine's machine.
    pub cpus: u32,
    /// SELinux confines containers: ours run with `label=disable`.
    pub selinux: bool,
    /// User ids inside are other ids outside (`userns-remap`).
    pub userns_remap: bool,
    /// The engine runs without root.
    pub rootless: bool,
    /// Limits that this engine accepts and does not enforce, out of `memory`,
    /// `swap`, `cpus` and `pids`.
    pub unenforced_limits: Vec<&'static str>,
    /// OCI runtimes that a container may ask for by name, sorted; none where the engine takes
    /// no such wish (Podman passes over it).
    pub runtimes: Option<Vec<String>>,
}

/// Outcome of [`Runtime::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The container is new and has not started.
    New,
    /// A container of this name, home and spec was there. It may have started,
    /// ended, and carry an older epoch.
    Existing(ContainerStatus),
}

/// Outcome of [`Runtime::start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// This call started it.
    Now,
    /// It was running before.
    AlreadyRunning,
}

/// What is known of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// All its labels, those of its image included.
    pub labels: BTreeMap<String, String>,
}

impl ContainerStatus {
    /// The factory it belongs to; `None` for somebody else's container.
    pub fn home(&self) -> Option<&str> {
        self.labels.get(LABEL_HOME).map(String::as_str)
    }

    /// The run it was made for.
    pub fn run(&self) -> Option<RunId> {
        self.labels.get(LABEL_RUN)?.parse().ok()
    }

    /// The epoch it was created under.
    pub fn epoch(&self) -> Option<Epoch> {
        self.labels.get(LABEL_EPOCH)?.parse().ok()
    }

    /// Digest of the spec it was created from.
    pub fn spec(&self) -> Option<&str> {
        self.labels.get(LABEL_SPEC).map(String::as_str)
    }

    /// True when it was created from `spec`, under whatever epoch.
    pub fn is_from(&self, spec: &ContainerSpec) -> bool {
        self.home() == Some(&spec.owner.home) && self.spec() == Some(&spec.digest())
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It never ran.
    Created,
    /// It runs (or is paused).
    Running,
    /// It ran and ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of pid 1; 128 + signal when a signal ended it.
    pub code: i64,
    /// The kernel killed a process in it for lack of memory. Not necessarily
    /// pid 1: it may be true with code 0.
    pub oom_killed: bool,
    /// When it started, by the engine's clock.
    pub started: Timestamp,
    /// When it ended, by the engine's clock; never before `started`.
    pub finished: Timestamp,
}

/// An error of some other library, kept as the cause of one of ours.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No engine listens anywhere we look.
    #[error(
        "no Docker engine found (looked at {}); install and start Docker, or point DOCKER_HOST at its socket",
        list(looked_at)
    )]
    NoEngine {
        /// The sockets that were tried.
        looked_at: Vec<PathBuf>,
    },

    /// The engine's socket is not ours to open.
    #[error(
        "no permission to use the Docker engine at {}; add your user to its group (`sudo usermod -aG docker $USER`) and log in again",
        socket.display()
    )]
    Denied {
        /// The engine's socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },

    /// Not an engine of this machine: it could not mount our directories.
    #[error(
        "DOCKER_HOST is `{address}`, which is not a socket of this machine, and a remote engine cannot mount our directories; unset it or set it to unix:///path/to/docker.sock"
    )]
    RemoteEngine {
        /// The value of `DOCKER_HOST`.
        address: String,
    },

    /// The engine is older than what containers are made with here.
    #[error(
        "the Docker engine at {} speaks API {api}, and 1.41 (Docker 20.10) is the oldest that works; upgrade it",
        socket.display()
    )]
    TooOld {
        /// The engine's socket.
        socket: PathBuf,
        /// The newest API version it speaks.
        api: String,
    },

    /// The engine's socket is there, but the engine is not, or does not answer,
    /// or went away during a call. Whether the call had an effect is unknown.
    #[error(
        "the Docker engine at {} does not answer ({operation}); check that it runs (`docker info`)",
        socket.display()
    )]
    Unreachable {
        /// The engine's socket.
        socket: PathBuf,
        /// What it was asked to do.
        operation: &'static str,
        /// What went wrong.
        #[source]
        source: Cause,
    },

    /// The engine does not hold the image.
    #[error("the engine has no image {image}; run `factory image build`")]
    NoImage {
        /// Id of the image.
        image: String,
    },

    /// Another container has this name.
    #[error(
        "the name {name} is taken by a container that was not made from this spec; see `docker inspect {name}`, then `docker rm` it"
    )]
    NameTaken {
        /// The name.
        name: String,
    },

    /// There is no such container.
    #[error("there is no container {name}; create it first")]
    NotFound {
        /// The name.
        name: String,
    },

    /// The container ran before; it is never started again.
    #[error("container {name} has already run; remove it and make a new run")]
    AlreadyEnded {
        /// The name.
        name: String,
    },

    /// The container never ran, so there is no end to wait for.
    #[error("container {name} was never started; start it before waiting for its end")]
    NeverStarted {
        /// The name.
        name: String,
    },

    /// The engine does not accept the container as described.
    #[error("the engine refuses to {operation} container {name}; correct what its answer names")]
    Refused {
        /// What it was asked to do.
        operation: &'static str,
        /// The container.
        name: String,
        /// The engine's answer.
        #[source]
        source: Cause,
    },

    /// The engine tried and failed.
    #[error("the engine failed to {operation} {name}; its own log says more")]
    EngineFailed {
        /// What it was asked to do.
        operation: &'static str,
        /// The container, or what else it was about.
        name: String,
        /// The engine's answer.
        #[source]
        source: Cause,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}
