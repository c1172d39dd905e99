//! Docker, local, over its unix socket.

mod connect;
mod translate;

pub use connect::{Connection, connect, connect_to};
pub(crate) use translate::{is_podman, ulimits};

use crate::runtime::{
    Cause, ContainerState, ContainerStatus, Created, EngineInfo, Exit, LABEL_HOME, Runtime,
    RuntimeError, Started,
};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use factory_core::container::ContainerSpec;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use translate::Facts;

/// A wait whose stream is silent this long is cut and asked for again: Docker
/// has forgotten waiters before.
const WAIT_AT_MOST: Duration = Duration::from_secs(300);

/// How long [`Runtime::wait`] rides out an engine that is away: longer than a
/// connection takes to come back, shorter than people wait to be told.
const PATIENCE: Duration = Duration::from_secs(3);

/// Before asking again, doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Inspections at a time while listing.
const INSPECTIONS: usize = 8;

/// A Docker engine of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerRuntime {
    client: Docker,
    /// The same engine, with no limit on how long an answer takes.
    patient_client: Docker,
    socket: PathBuf,
    facts: Facts,
    patience: Duration,
}

impl DockerRuntime {
    /// Takes the engine behind a connection, and asks it what it is.
    ///
    /// # Errors
    /// [`RuntimeError::Unreachable`] or [`RuntimeError::EngineFailed`] when it
    /// does not say.
    pub async fn new(connection: Connection) -> Result<Self, RuntimeError> {
        let Connection { client, socket } = connection;
        let (_, facts) = describe(&client)
            .await
            .map_err(|e| engine_error(&socket, "describe", "itself", e))?;
        Ok(Self {
            // `None` is not on offer; a century is as good.
            patient_client: client
                .clone()
                .with_timeout(Duration::from_secs(100 * 365 * 86_400)),
            client,
            socket,
            facts,
            patience: PATIENCE,
        })
    }

    /// Sets how long [`Runtime::wait`] rides out an engine that is away, 3
    /// seconds otherwise.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn error(&self, operation: &'static str, name: &str, error: Error) -> RuntimeError {
        engine_error(&self.socket, operation, name, error)
    }

    async fn inspect_existing(&self, name: &str) -> Result<ContainerStatus, RuntimeError> {
        self.inspect(name)
            .await?
            .ok_or_else(|| RuntimeError::NotFound {
                name: name.to_owned(),
            })
    }

    /// Waits until Docker says that the container ended, or the wait is cut.
    /// Either way the truth is what an inspection says next.
    async fn wait_once(&self, name: &str) -> Result<(), Error> {
        // Not `next-exit`: it hangs when the container ended before the wait.
        let options = WaitContainerOptionsBuilder::new()
            .condition("not-running")
            .build();
        let mut answers = Box::pin(self.patient_client.wait_container(name, Some(options)));
        match tokio::time::timeout(WAIT_AT_MOST, answers.next()).await {
            Ok(Some(Err(Error::DockerContainerWaitError { .. }) | Ok(_))) | Err(_) => Ok(()),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

impl Runtime for DockerRuntime {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        let (engine, _) = describe(&self.client)
            .await
            .map_err(|e| self.error("describe", "itself", e))?;
        Ok(engine)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Created, RuntimeError> {
        const OPERATION: &str = "create";
        let name = &spec.name;
        let body =
            translate::create_body(spec, self.facts).map_err(|source| RuntimeError::Refused {
                operation: OPERATION,
                name: name.clone(),
                source,
            })?;
        let mut pause = FIRST_PAUSE;
        loop {
            let options = CreateContainerOptionsBuilder::new().name(name).build();
            let created = self
                .client
                .create_container(Some(options), body.clone())
                .await;
            let error = match created {
                Ok(answer) => {
                    if !answer.warnings.is_empty() {
                        tracing::warn!(container = %name, warnings = ?answer.warnings, "created with warnings");
                    }
                    return Ok(Created::New);
                }
                Err(error) => error,
            };
            match status_code(&error) {
                Some(404) => {
                    return Err(RuntimeError::NoImage {
                        image: spec.image.clone(),
                    });
                }
                Some(409) => {}
                // Podman has no code of its own for a name that is taken.
                Some(500) if self.facts.podman && self.inspect(name).await?.is_some() => {}
                _ => return Err(self.error(OPERATION, name, error)),
            }
            match self.inspect(name).await? {
                Some(status) if status.is_from(spec) => return Ok(Created::Existing(status)),
                None if pause < LONGEST_PAUSE => {}
                _ => return Err(RuntimeError::NameTaken { name: name.clone() }),
            }
            // Taken by nobody we can see: just removed, or still being made, as
            // by a kernel that died while it asked for the same.
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn start(&self, name: &str) -> Result<Started, RuntimeError> {
        match self.inspect_existing(name).await?.state {
            ContainerState::Created => {}
            ContainerState::Running => return Ok(Started::AlreadyRunning),
            ContainerState::Exited(_) => {
                return Err(RuntimeError::AlreadyEnded {
                    name: name.to_owned(),
                });
            }
        }
        self.client
            .start_container(name, None)
            .await
            .map(|()| Started::Now)
            .map_err(|e| self.error("start", name, e))
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerStatus>, RuntimeError> {
        const OPERATION: &str = "inspect";
        match self.look_at(name).await {
            Ok(answer) => match translate::status(answer) {
                // Docker also finds containers by the beginning of their id.
                Ok(status) if status.name == name => Ok(Some(status)),
                Ok(_) => Ok(None),
                Err(source) => Err(RuntimeError::EngineFailed {
                    operation: OPERATION,
                    name: name.to_owned(),
                    source,
                }),
            },
            Err(error) if status_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.error(OPERATION, name, error)),
        }
    }

    async fn list(&self, home: &str) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let filter = HashMap::from([("label", vec![format!("{LABEL_HOME}={home}")])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filter)
            .build();
        let found = self
            .client
            .list_containers(Some(options))
            .await
            .map_err(|e| self.error("list", "containers", e))?;
        // What vanishes meanwhile is left out.
        let looks = found.into_iter().filter_map(|container| {
            let name = translate::name_of(&container)?.to_owned();
            Some((translate::listed(container), name))
        });
        let mut list: Vec<ContainerStatus> = stream::iter(looks)
            .map(|(known, name)| async move {
                match known {
                    Some(status) => Ok(Some(status)),
                    None => self.inspect(&name).await,
                }
            })
            .buffer_unordered(INSPECTIONS)
            .try_filter_map(|status| async move { Ok(status) })
            .try_collect()
            .await?;
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    async fn wait(&self, name: &str) -> Result<Exit, RuntimeError> {
        let mut pause = FIRST_PAUSE;
        let mut away = Duration::ZERO;
        let mut told_before = false;
        loop {
            match self.inspect_existing(name).await.map(|status| status.state) {
                Ok(ContainerState::Exited(exit)) => return Ok(exit),
                Ok(ContainerState::Created) => {
                    return Err(RuntimeError::NeverStarted {
                        name: name.to_owned(),
                    });
                }
                Ok(ContainerState::Running) => {
                    away = Duration::ZERO;
                    match self.wait_once(name).await {
                        Ok(()) => {
                            pause = FIRST_PAUSE;
                            // An engine that keeps saying "ended" of what runs is not asked in a rush.
                            if !std::mem::replace(&mut told_before, true) {
                                continue;
                            }
                        }
                        Err(error) => tracing::debug!(container = %name, %error, "wait was cut"),
                    }
                }
                Err(error @ RuntimeError::Unreachable { .. }) if away >= self.patience => {
                    return Err(error);
                }
                Err(RuntimeError::Unreachable { .. }) => away += pause,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn stop(&self, name: &str, grace_seconds: u32) -> Result<(), RuntimeError> {
        let grace = i32::try_from(grace_seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(grace).build();
        let stopped = self
            .patient_client
            .stop_container(name, Some(options))
            .await;
        self.unless_code(&[404], "stop", name, stopped)
    }

    async fn kill(&self, name: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let killed = self.client.kill_container(name, Some(options)).await;
        // 409: it is not running.
        self.unless_code(&[404, 409], "kill", name, killed)
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        const OPERATION: &str = "remove";
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            // Volumes that the image asked for.
            .v(true)
            .build();
        let removed = self.client.remove_container(name, Some(options)).await;
        if removed.as_ref().err().and_then(status_code) != Some(409) {
            return self.unless_code(&[404], OPERATION, name, removed);
        }
        // Somebody is removing it already: gone is when they are done.
        let options = WaitContainerOptionsBuilder::new()
            .condition("removed")
            .build();
        let mut gone = Box::pin(self.client.wait_container(name, Some(options)));
        match tokio::time::timeout(self.client.timeout(), gone.next()).await {
            Ok(Some(Err(Error::DockerContainerWaitError { .. }) | Ok(_)) | None) => Ok(()),
            Ok(Some(Err(error))) => self.unless_code(&[404], OPERATION, name, Err(error)),
            Err(_) => Err(self.error(OPERATION, name, Error::RequestTimeoutError)),
        }
    }

    async fn output_tail(&self, name: &str, bytes: usize) -> Result<String, RuntimeError> {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(false)
            .build();
        let mut parts = Box::pin(self.client.logs(name, Some(options)));
        let mut tail = Vec::new();
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => {
                    tail.extend_from_slice(&part.into_bytes());
                    let surplus = tail.len().saturating_sub(bytes);
                    tail.drain(..surplus);
                }
                // 501: its log driver keeps nothing.
                Err(error) if status_code(&error) == Some(501) => break,
                Err(error) => return Err(self.error("read the output of", name, error)),
            }
        }
        Ok(String::from_utf8_lossy(&tail).into_owned())
    }
}

impl DockerRuntime {
    /// An inspection. Podman names a state that Docker does not have while a
    /// container ends; it passes within moments.
    async fn look_at(&self, name: &str) -> Result<ContainerInspectResponse, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.client.inspect_container(name, None).await {
                Err(Error::JsonDataError { .. }) if self.facts.podman && pause < LONGEST_PAUSE => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                answer => return answer,
            }
        }
    }

    /// Takes answers with one of `codes` for success: what was asked for holds.
    fn unless_code(
        &self,
        codes: &[u16],
        operation: &'static str,
        name: &str,
        answer: Result<(), Error>,
    ) -> Result<(), RuntimeError> {
        match answer {
            Err(error) if !status_code(&error).is_some_and(|code| codes.contains(&code)) => {
                Err(self.error(operation, name, error))
            }
            _ => Ok(()),
        }
    }
}

async fn describe(client: &Docker) -> Result<(EngineInfo, Facts), Error> {
    let (info, version) = tokio::try_join!(client.info(), client.version())?;
    Ok(translate::engine(info, version))
}

fn status_code(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What a failed call means, by the kind of failure and never by its text.
fn engine_error(
    socket: &std::path::Path,
    operation: &'static str,
    name: &str,
    error: Error,
) -> RuntimeError {
    let name = name.to_owned();
    let code = status_code(&error);
    let cut_off = matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::SocketNotFoundError(_)
            | Error::RequestTimeoutError
    );
    let source: Cause = error.into();
    match code {
        None if cut_off => RuntimeError::Unreachable {
            socket: socket.to_owned(),
            operation,
            source,
        },
        Some(404) => RuntimeError::NotFound { name },
        Some(400) => RuntimeError::Refused {
            operation,
            name,
            source,
        },
        _ => RuntimeError::EngineFailed {
            operation,
            name,
            source,
        },
    }
}
