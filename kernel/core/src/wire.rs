//! What kernel, gateway and agent say to each other.
//!
//! Everything a container is told about its run is `run.yaml` in the read-only
//! directory `/run/factory`; everything it says goes over HTTP to
//! `/run/factory/gw.sock`. Processes only wake each other: nothing durable is
//! in any of these messages before it is in Git.

use crate::{
    grant::Role,
    ids::{Oid, RunId},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the HTTP calls between kernel, gateway and agent.
pub const PROTOCOL: u32 = 1;

/// The directory inside a container that holds socket, brief and `run.yaml`.
pub const RUN_DIR: &str = "/run/factory";
/// The work tree inside a container.
pub const WORKSPACE: &str = "/workspace";
/// Where a run leaves its results inside a container.
pub const OUT_DIR: &str = "/factory/out";
/// The engine's home inside a container.
pub const STATE_DIR: &str = "/state";
/// Where `base.git` is mounted inside a container, read-only.
pub const BASE_GIT: &str = "/factory/base.git";
/// The port on 127.0.0.1 inside a container that leads to the gateway socket.
pub const DOOR_PORT: u16 = 8377;
/// The ref under which the door shows a run the one commit it may fetch.
pub const START_REF: &str = "refs/factory/start";

/// The ref under which the door shows a run the checkpoint that it resumes.
pub const RESUME_REF: &str = "refs/factory/resume";
/// The ref that a run may push its checkpoints to; it may be rewritten.
pub const CHECKPOINT_REF: &str = "refs/factory/checkpoint";
/// Directory of a checkpoint's tree that holds the work tree.
pub const CHECKPOINT_WORK: &str = "work";
/// Directory of a checkpoint's tree that holds the engine's session.
pub const CHECKPOINT_SESSION: &str = "session";

/// Path of the Git endpoint on the door: `http://127.0.0.1:8377/git`.
pub const PATH_GIT: &str = "/git";
/// POST engine output lines (the transcript), any content type; 204.
pub const PATH_EVENTS: &str = "/factory/v1/events";
/// POST a role report (JSON); 204, or 422 with [`Refusal`] saying what is wrong.
pub const PATH_REPORT: &str = "/factory/v1/report";
/// POST [`crate::inbox::RunEnd`]; 204 once it is durable. Repeating it is harmless.
pub const PATH_END: &str = "/factory/v1/end";
/// GET: [`Hello`]; the door probe and the agent's first call.
pub const PATH_HELLO: &str = "/factory/v1/hello";

/// POST after something moved. The gateway's control socket answers 200 with
/// [`GatewayStatus`], the kernel's 204.
pub const PATH_WAKE: &str = "/factory/v1/wake";

/// `run.yaml`: what one run is to do. Written by the kernel, read by `factory-agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// This run.
    pub run: RunId,
    /// Commit to start from; fetched over the door where `base.git` lacks it.
    pub start: Oid,
    /// Target commit to merge into `start` first, where `start` is behind it.
    /// A conflicting merge is left in progress for the engine to finish.
    pub merge_target: Option<Oid>,
    /// Seconds of awake time until the agent ends what still runs.
    pub wall_seconds: u64,
    /// Most bytes that the workspace may take of its disk.
    pub disk_bytes: u64,
    /// What to run.
    pub task: RunTask,
}

impl RunFile {
    /// What its engine is for; none where no engine runs.
    pub fn role(&self) -> Option<Role> {
        match &self.task {
            RunTask::Engine { role, .. } => Some(*role),
            RunTask::Checks { .. } => None,
        }
    }
}

/// What the agent does in the prepared workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum RunTask {
    /// Run an engine on the brief, commit what it left, push.
    Engine {
        /// What its engine is for; decides what its report has to look like.
        role: Role,
        /// Branch to work on and to push (without `refs/heads/`); none for one that only reads.
        branch: Option<String>,
        /// How the engine is started.
        engine: EngineLaunch,
        /// Seconds without a sign of life from the engine until it is ended.
        stall_seconds: u64,
        /// Seconds between two checkpoints; the first ones are closer together.
        checkpoint_seconds: u64,
        /// A checkpoint to begin from: its parent is checked out, its `work` is
        /// laid over it uncommitted, its `session` is given to the engine.
        resume: Option<Oid>,
        /// Of that checkpoint, only the session: its work was handed in, and may have been
        /// gone on with since.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        session_only: bool,
        /// Subject line for what the engine left uncommitted.
        leftover_subject: String,
    },
    /// Run each command with `sh -c` in the work tree, in order, until one
    /// fails. The agent's exit code is the verdict: 0 passed, 1 failed, 124 took too
    /// long, 125 could not be prepared, 143 ended before a verdict.
    Checks {
        /// The commands.
        commands: Vec<String>,
    },
}

/// How an engine is started headless. Made by the engine's one file in `core`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLaunch {
    /// Program and arguments of the first start; the brief is its standard input.
    pub argv: Vec<String>,
    /// Program and arguments that continue the session with a follow-up on
    /// standard input; none where the engine cannot resume.
    pub resume_argv: Option<Vec<String>>,
    /// Environment beside PATH, HOME and Git identity.
    pub env: BTreeMap<String, String>,
    /// Directories to create before the start.
    pub dirs: Vec<String>,
    /// Files to write before the start, by path: the engine's own configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// The file that holds the engine's session, for checkpoints; none where
    /// the engine has no session that could be resumed. `…/*` is for an engine
    /// that names the file itself: the newest one there or in a folder below.
    pub session_file: Option<String>,
}

/// A refusal that an agent or a person reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong and what to do, one paragraph.
    pub error: String,
}

/// Answer to [`PATH_HELLO`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The run this socket belongs to.
    pub run: RunId,
}

/// What the gateway serves, told to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Process id of the gateway.
    pub pid: u32,
    /// Runs whose socket is bound and whose grant is open.
    pub ready: Vec<RunId>,
    /// Runs whose door could not be opened, with the reason.
    pub failed: BTreeMap<String, String>,
}
