//! A container of ours that is no run of a job, made exactly like one: its
//! places, its door, its end. The door probe and `init --try` work in one.

use crate::{clock, failure::Failure, kernel::agent_user};
use bytes::Bytes;
use factory_core::{
    brief::{self, Host},
    budget::Spent,
    config::{AgentType, Amounts, EngineKind, Limits},
    container::ContainerSpec,
    grant::{Grant, Role},
    ids::{Epoch, Oid, RunId},
    inbox::RunEnd,
    model::{Purpose, Run, RunState, UsageTotal},
    wire::{Hello, PATH_END, PATH_EVENTS, PATH_HELLO, PROTOCOL},
};
use factory_ledger::{base::BaseRepo, places::Places, sockets::SocketDir, workspace};
use factory_runtime::{Exit, Runtime, RuntimeError};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// The last of what pid 1 printed, in bytes.
const TAIL: usize = 16 << 10;

/// Where a container is tried, and with what.
pub struct Subject<'a> {
    /// Where runs would have their directories; these exist.
    pub places: &'a Places,
    /// Eight hexadecimal digits naming this factory on this host.
    pub home: &'a str,
    /// Id of the image.
    pub image: &'a str,
    /// The OCI runtime of runs.
    pub runtime: Option<&'a str>,
    /// Hard limits of runs.
    pub limits: Limits,
}

/// Who is in the room.
pub struct Guest {
    /// Name of its directories; no run's. The kernel removes containers of its
    /// own home that it does not know, so the home begins with it.
    pub name: &'static str,
    /// A run's id that no job ever gives.
    pub id: RunId,
    /// The commit it starts from.
    pub start: Oid,
    /// The commands it runs.
    pub checks: Vec<String>,
    /// Awake seconds that it may take.
    pub wall_seconds: u64,
}

/// Its places and its container.
pub struct Room {
    dir: PathBuf,
    /// Seen at `/workspace`.
    pub workspace: PathBuf,
    base: PathBuf,
    /// What is true of this host.
    pub host: Host,
    /// What the scheduler would have made of it.
    pub run: Run,
    /// Its container.
    pub spec: ContainerSpec,
}

/// What a container said to its door.
pub enum Said {
    /// A part of its output.
    Output(Bytes),
    /// Its last word.
    End(Box<RunEnd>),
}

impl Room {
    /// A room that is not made yet.
    pub fn of(subject: &Subject<'_>, guest: Guest) -> Self {
        let places = subject.places;
        let dir = places.runs().join(guest.name);
        let workspace = places.workspaces().join(guest.name);
        let base = places.base_git();
        let (uid, gid) = agent_user();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let host = Host {
            home: format!("{}-{}", guest.name, subject.home),
            uid,
            gid,
            run_dir: text(&dir),
            workspace: text(&workspace),
            base_git: text(&base),
        };
        let run = run_of(subject, guest);
        let spec = brief::container_spec(&run, &host);
        Self {
            dir,
            workspace,
            base,
            host,
            run,
            spec,
        }
    }

    /// Removes what one that was killed left.
    pub async fn clear(&self, runtime: &impl Runtime) -> Result<(), Failure> {
        for left in runtime.list(&self.spec.owner.home).await? {
            runtime.remove(&left.name).await?;
        }
        self.remove()
    }

    /// A workspace without a repository, with its owner as for a run.
    pub fn make_empty_workspace(&self) -> Result<(), Failure> {
        let Host { uid, gid, .. } = self.host;
        BaseRepo::init(&self.base)?;
        fs::create_dir(&self.workspace)?;
        if rustix::process::getuid().is_root() {
            chown(&self.workspace, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Makes the directory that the container sees as a run's, and the socket in it.
    pub fn make(&self) -> Result<UnixListener, Failure> {
        fs::create_dir(&self.dir)?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o755))?;
        self.file("passwd", &brief::passwd(self.host.uid, self.host.gid))?;
        let sockets = SocketDir::open(&self.dir)?;
        let socket = sockets.address("gw.sock");
        let listener = UnixListener::bind(&socket)?;
        // Nobody else enters the directory above; the container's user must.
        fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
        Ok(listener)
    }

    /// Puts a file there that everybody may read, whatever the umask.
    pub fn file(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o644))?)
    }

    /// Removes the directories.
    pub fn remove(&self) -> Result<(), Failure> {
        workspace::remove(&self.workspace)?;
        Ok(workspace::remove(&self.dir)?)
    }

    /// Runs the container to its end, and gives the last of what pid 1 printed.
    pub async fn live(&self, runtime: &impl Runtime) -> Result<(Exit, String), RuntimeError> {
        let name = &self.spec.name;
        runtime.create(&self.spec).await?;
        runtime.start(name).await?;
        let exit = runtime.wait(name).await?;
        let output = runtime.output_tail(name, TAIL).await?;
        Ok((exit, output))
    }
}

/// A run as the scheduler would make it.
fn run_of(subject: &Subject<'_>, guest: Guest) -> Run {
    Run {
        id: guest.id,
        purpose: Purpose::Check,
        agent: AgentType::default(),
        grant: Grant {
            run: guest.id,
            epoch: Epoch(0),
            role: Role::Check,
            start: guest.start,
            resume: None,
            branch: None,
            models: None,
            rules: None,
            wall_seconds: guest.wall_seconds,
        },
        slot: 0,
        container: ContainerSpec::name_for(subject.home, guest.id),
        image: subject.image.to_owned(),
        runtime: subject.runtime.map(str::to_owned),
        limits: subject.limits,
        engine: EngineKind::Command(Vec::new()),
        model: String::new(),
        checks: guest.checks,
        intent: Oid::zero(),
        merge_target: None,
        branch_tip: None,
        feedback: None,
        session: String::new(),
        resume: None,
        checkpoint: None,
        state: RunState::Starting,
        created: clock::now().0,
        requests: Amounts::default(),
        stop_ordered: false,
        over_budget: false,
        outdated: false,
        inbox_seen: None,
        pushed: None,
        report: None,
        end: None,
        usage: UsageTotal::default(),
        spent: Spent::default(),
    }
}

/// Answers as the gateway does, until dropped. One connection at a time is
/// enough: the agent closes after each answer.
pub async fn answer(listener: &UnixListener, run: RunId, heard: impl Fn(Said)) -> std::io::Error {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        let service = service_fn(|request| one(request, run, &heard));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of the door broke");
        }
    }
}

async fn one(
    request: Request<Incoming>,
    run: RunId,
    heard: &impl Fn(Said),
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let hello = Hello {
        protocol: PROTOCOL,
        run,
    };
    let (status, body) = match path.as_str() {
        PATH_HELLO => match serde_json::to_vec(&hello) {
            Ok(hello) => (StatusCode::OK, hello),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
        },
        PATH_EVENTS => {
            heard(Said::Output(body));
            (StatusCode::NO_CONTENT, Vec::new())
        }
        PATH_END => match serde_json::from_slice(&body) {
            Ok(end) => {
                heard(Said::End(end));
                (StatusCode::NO_CONTENT, Vec::new())
            }
            Err(_) => (StatusCode::BAD_REQUEST, Vec::new()),
        },
        _ => (StatusCode::NOT_FOUND, Vec::new()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    Ok(response)
}
