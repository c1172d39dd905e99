//! The Runtime double behind a unix socket: so that it outlives a kernel that
//! a test kills, as a container engine does. One connection and one line of
//! JSON each way per call; a client that dies leaves the call to be carried out.

use crate::double::DoubleRuntime;
use factory_core::container::ContainerSpec;
use factory_runtime::{
    Cause, ContainerState, ContainerStatus, Created, EngineInfo, Exit, Runtime, RuntimeError,
    Started,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, io, path::PathBuf};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

#[derive(Serialize, Deserialize)]
enum Call {
    Engine,
    Create(Box<ContainerSpec>),
    Start(String),
    Inspect(String),
    List(String),
    Wait(String),
    Stop(String, u32),
    Kill(String),
    Remove(String),
    OutputTail(String, usize),
}

#[derive(Serialize, Deserialize)]
struct Engine {
    memory: u64,
    cpus: u32,
}

#[derive(Serialize, Deserialize)]
struct Status {
    name: String,
    labels: BTreeMap<String, String>,
    state: State,
}

#[derive(Serialize, Deserialize)]
enum State {
    Created,
    Running,
    Exited(Ended),
}

#[derive(Serialize, Deserialize)]
struct Ended {
    code: i64,
    oom_killed: bool,
    started: Timestamp,
    finished: Timestamp,
}

#[derive(Serialize, Deserialize)]
enum Problem {
    NoImage(String),
    NameTaken(String),
    NotFound(String),
    AlreadyEnded(String),
    NeverStarted(String),
    Refused(String, String),
    Other(String),
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            oom_killed: exit.oom_killed,
            started: exit.started,
            finished: exit.finished,
        }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        Self {
            code: ended.code,
            oom_killed: ended.oom_killed,
            started: ended.started,
            finished: ended.finished,
        }
    }
}

impl From<ContainerStatus> for Status {
    fn from(status: ContainerStatus) -> Self {
        Self {
            name: status.name,
            labels: status.labels,
            state: match status.state {
                ContainerState::Created => State::Created,
                ContainerState::Running => State::Running,
                ContainerState::Exited(exit) => State::Exited(exit.into()),
            },
        }
    }
}

impl From<Status> for ContainerStatus {
    fn from(status: Status) -> Self {
        Self {
            name: status.name,
            labels: status.labels,
            state: match status.state {
                State::Created => ContainerState::Created,
                State::Running => ContainerState::Running,
                State::Exited(ended) => ContainerState::Exited(ended.into()),
            },
        }
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::NoImage { image } => Problem::NoImage(image),
            RuntimeError::NameTaken { name } => Problem::NameTaken(name),
            RuntimeError::NotFound { name } => Problem::NotFound(name),
            RuntimeError::AlreadyEnded { name } => Problem::AlreadyEnded(name),
            RuntimeError::NeverStarted { name } => Problem::NeverStarted(name),
            RuntimeError::Refused { name, source, .. } => {
                Problem::Refused(name, source.to_string())
            }
            other => Problem::Other(other.to_string()),
        }
    }
}

/// Serves `engine` at `listener` until this is dropped.
pub async fn serve(engine: DoubleRuntime, listener: UnixListener) -> io::Result<()> {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let engine = engine.clone();
                calls.spawn(async move {
                    // A client that was killed hears no answer.
                    if let Err(error) = answer(&engine, stream).await {
                        tracing::debug!(%error, "a call of the double broke off");
                    }
                });
            }
            Some(_) = calls.join_next(), if !calls.is_empty() => {}
        }
    }
}

async fn answer(engine: &DoubleRuntime, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut said = match serde_json::from_str(&line)? {
        Call::Engine => json(engine.engine().await.map(|info| Engine {
            memory: info.memory,
            cpus: info.cpus,
        })),
        Call::Create(spec) => json(engine.create(&spec).await.map(|created| match created {
            Created::New => None,
            Created::Existing(status) => Some(Status::from(status)),
        })),
        Call::Start(name) => json(
            engine
                .start(&name)
                .await
                .map(|started| started == Started::Now),
        ),
        Call::Inspect(name) => json(engine.inspect(&name).await.map(|s| s.map(Status::from))),
        Call::List(home) => {
            let all = |list: Vec<ContainerStatus>| list.into_iter().map(Status::from).collect();
            json(engine.list(&home).await.map::<Vec<_>, _>(all))
        }
        Call::Wait(name) => json(engine.wait(&name).await.map(Ended::from)),
        Call::Stop(name, grace) => json(engine.stop(&name, grace).await),
        Call::Kill(name) => json(engine.kill(&name).await),
        Call::Remove(name) => json(engine.remove(&name).await),
        Call::OutputTail(name, bytes) => json(engine.output_tail(&name, bytes).await),
    }?;
    said.push(b'\n');
    stream.write_all(&said).await
}

fn json<T: Serialize>(result: Result<T, RuntimeError>) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&result.map_err(Problem::from))?)
}

/// A double that another process serves.
#[derive(Debug, Clone)]
pub struct ServedRuntime {
    socket: PathBuf,
}

impl ServedRuntime {
    /// The double served at `socket`.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        call: Call,
    ) -> Result<T, RuntimeError> {
        let answer: Result<T, Problem> =
            self.exchange(call)
                .await
                .map_err(|source| RuntimeError::Unreachable {
                    socket: self.socket.clone(),
                    operation,
                    source,
                })?;
        answer.map_err(|problem| match problem {
            Problem::NoImage(image) => RuntimeError::NoImage { image },
            Problem::NameTaken(name) => RuntimeError::NameTaken { name },
            Problem::NotFound(name) => RuntimeError::NotFound { name },
            Problem::AlreadyEnded(name) => RuntimeError::AlreadyEnded { name },
            Problem::NeverStarted(name) => RuntimeError::NeverStarted { name },
            Problem::Refused(name, why) => RuntimeError::Refused {
                operation,
                name,
                source: why.into(),
            },
            Problem::Other(why) => RuntimeError::EngineFailed {
                operation,
                name: "the double".to_owned(),
                source: why.into(),
            },
        })
    }

    async fn exchange<T: DeserializeOwned>(&self, call: Call) -> Result<T, Cause> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        let mut said = serde_json::to_vec(&call)?;
        said.push(b'\n');
        stream.write_all(&said).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Runtime for ServedRuntime {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        let Engine { memory, cpus } = self.ask("say what it is", Call::Engine).await?;
        Ok(EngineInfo {
            id: "served double".to_owned(),
            version: "20.10.0".to_owned(),
            api: "1.41".to_owned(),
            operating_system: "in memory".to_owned(),
            architecture: "x86_64".to_owned(),
            memory,
            cpus,
            selinux: false,
            userns_remap: false,
            rootless: false,
            unenforced_limits: Vec::new(),
            runtimes: Some(vec!["runc".to_owned()]),
        })
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Created, RuntimeError> {
        let call = Call::Create(Box::new(spec.clone()));
        let there: Option<Status> = self.ask("create", call).await?;
        Ok(there.map_or(Created::New, |status| Created::Existing(status.into())))
    }

    async fn start(&self, name: &str) -> Result<Started, RuntimeError> {
        let now = self.ask("start", Call::Start(name.to_owned())).await?;
        Ok(if now {
            Started::Now
        } else {
            Started::AlreadyRunning
        })
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerStatus>, RuntimeError> {
        let status: Option<Status> = self.ask("inspect", Call::Inspect(name.to_owned())).await?;
        Ok(status.map(ContainerStatus::from))
    }

    async fn list(&self, home: &str) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let list: Vec<Status> = self.ask("list", Call::List(home.to_owned())).await?;
        Ok(list.into_iter().map(ContainerStatus::from).collect())
    }

    async fn wait(&self, name: &str) -> Result<Exit, RuntimeError> {
        let ended: Ended = self.ask("wait for", Call::Wait(name.to_owned())).await?;
        Ok(ended.into())
    }

    async fn stop(&self, name: &str, grace_seconds: u32) -> Result<(), RuntimeError> {
        let call = Call::Stop(name.to_owned(), grace_seconds);
        self.ask("stop", call).await
    }

    async fn kill(&self, name: &str) -> Result<(), RuntimeError> {
        self.ask("kill", Call::Kill(name.to_owned())).await
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        self.ask("remove", Call::Remove(name.to_owned())).await
    }

    async fn output_tail(&self, name: &str, bytes: usize) -> Result<String, RuntimeError> {
        let call = Call::OutputTail(name.to_owned(), bytes);
        self.ask("read", call).await
    }
}
