//! A container engine in memory, behaving as Docker does (one contract suite
//! holds for both), whose containers run a closure of the test's.

use factory_core::container::ContainerSpec;
use factory_runtime::{
    ContainerState, ContainerStatus, Created, EngineInfo, Exit, LABEL_EPOCH, LABEL_HOME, LABEL_RUN,
    LABEL_SPEC, Runtime, RuntimeError, Started,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code of a container that was killed.
const KILLED: i64 = 137;
/// Exit code of a container whose behaviour panicked, as of a Rust program.
const PANICKED: i64 = 101;

/// The engine. Clones share the same containers: give one to each kernel of a
/// test that restarts it.
#[derive(Clone)]
pub struct DoubleRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    events: watch::Sender<Vec<Event>>,
    tasks: TaskTracker,
    behaviour: Box<Behaviour>,
}

type Behaviour = dyn Fn(Inside) -> BoxFuture<'static, Ending> + Send + Sync;

struct Inner {
    containers: BTreeMap<String, Container>,
    images: BTreeSet<String>,
    faults: Vec<Fault>,
    now: Timestamp,
}

struct Container {
    spec: ContainerSpec,
    labels: BTreeMap<String, String>,
    state: watch::Sender<ContainerState>,
    terminate: CancellationToken,
    kill: CancellationToken,
    output: Arc<Mutex<String>>,
}

struct Fault {
    operation: Operation,
    when: When,
    error: RuntimeError,
}

/// What a running container's behaviour sees.
pub struct Inside {
    /// What it was created from. Mounted directories are at their sources.
    pub spec: ContainerSpec,
    /// Cancelled when the engine asks the container to end (SIGTERM). A
    /// behaviour that does not return then is dropped after the grace; one that
    /// is killed is dropped at once.
    pub terminate: CancellationToken,
    output: Arc<Mutex<String>>,
}

impl Inside {
    /// Prints to the container's output.
    pub fn print(&self, text: &str) {
        lock(&self.output).push_str(text);
    }
}

/// How a behaviour ends its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Exit code of pid 1.
    pub code: i64,
    /// Report that memory ran out.
    pub oom_killed: bool,
}

impl From<i64> for Ending {
    fn from(code: i64) -> Self {
        Self {
            code,
            oom_killed: false,
        }
    }
}

/// The calls of [`Runtime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Runtime::engine`]
    Engine,
    /// [`Runtime::create`]
    Create,
    /// [`Runtime::start`]
    Start,
    /// [`Runtime::inspect`]
    Inspect,
    /// [`Runtime::list`]
    List,
    /// [`Runtime::wait`]
    Wait,
    /// [`Runtime::stop`]
    Stop,
    /// [`Runtime::kill`]
    Kill,
    /// [`Runtime::remove`]
    Remove,
    /// [`Runtime::output_tail`]
    OutputTail,
}

/// When an injected error strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing was done.
    Before,
    /// It was done, and the answer got lost.
    After,
}

/// One line of the engine's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A call arrived.
    Called {
        /// Which.
        operation: Operation,
        /// The container, the home when listing, empty for the engine itself.
        about: String,
    },
    /// A container came to be.
    Created(String),
    /// A container began to run.
    Started(String),
    /// A container ended.
    Ended {
        /// Its name.
        name: String,
        /// Its exit code.
        code: i64,
    },
    /// A container is gone.
    Removed(String),
}

impl DoubleRuntime {
    /// An engine that holds no image, whose containers all run `behaviour`:
    /// it looks at [`Inside::spec`] to know which one it is.
    pub fn new<B, F, E>(behaviour: B) -> Self
    where
        B: Fn(Inside) -> F + Send + Sync + 'static,
        F: Future<Output = E> + Send + 'static,
        E: Into<Ending> + 'static,
    {
        let behaviour = move |inside| behaviour(inside).map(Into::into).boxed();
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner {
                    containers: BTreeMap::new(),
                    images: BTreeSet::new(),
                    faults: Vec::new(),
                    now: Timestamp::UNIX_EPOCH,
                }),
                events: watch::Sender::default(),
                tasks: TaskTracker::new(),
                behaviour: Box::new(behaviour),
            }),
        }
    }

    /// Puts an image on the engine.
    pub fn add_image(&self, id: &str) {
        self.inner().images.insert(id.to_owned());
    }

    /// Sets the engine's clock, which stands still otherwise (at 1970).
    pub fn set_now(&self, now: Timestamp) {
        self.inner().now = now;
    }

    /// Makes the next call of `operation` fail. Several are used up in order.
    pub fn fail_next(&self, operation: Operation, when: When, error: RuntimeError) {
        self.inner().faults.push(Fault {
            operation,
            when,
            error,
        });
    }

    /// All that happened so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.borrow().clone()
    }

    /// Returns as soon as `holds` is true of all that happened so far.
    pub async fn until(&self, holds: impl Fn(&[Event]) -> bool) {
        let mut events = self.shared.events.subscribe();
        // It fails only when the sender is gone, and `self` holds it.
        if events.wait_for(|events| holds(events)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The most containers that ever ran at the same time.
    pub fn most_running(&self) -> usize {
        most(&self.shared.events.borrow(), |event| match event {
            Event::Started(_) => 1,
            Event::Ended { .. } => -1,
            Event::Called { .. } | Event::Created(_) | Event::Removed(_) => 0,
        })
    }

    /// The most containers that ever existed at the same time.
    pub fn most_existing(&self) -> usize {
        most(&self.shared.events.borrow(), |event| match event {
            Event::Created(_) => 1,
            Event::Removed(_) => -1,
            Event::Called { .. } | Event::Started(_) | Event::Ended { .. } => 0,
        })
    }

    /// Kills what still runs, and returns when all behaviours have ended.
    pub async fn shut_down(&self) {
        for container in self.inner().containers.values() {
            container.kill.cancel();
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared.inner)
    }

    fn record(&self, event: Event) {
        self.shared.events.send_modify(|events| events.push(event));
    }

    /// Records a call, and strikes with what [`Self::fail_next`] set up.
    async fn call<T>(
        &self,
        operation: Operation,
        about: &str,
        work: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.record(Event::Called {
            operation,
            about: about.to_owned(),
        });
        self.strike(operation, When::Before)?;
        let done = work.await?;
        self.strike(operation, When::After)?;
        Ok(done)
    }

    fn strike(&self, operation: Operation, when: When) -> Result<(), RuntimeError> {
        let faults = &mut self.inner().faults;
        let next = faults.iter().position(|fault| fault.operation == operation);
        match next {
            Some(at) if faults[at].when == when => Err(faults.remove(at).error),
            _ => Ok(()),
        }
    }

    fn create_now(&self, spec: &ContainerSpec) -> Result<Created, RuntimeError> {
        let name = &spec.name;
        let refused = |reason: String| RuntimeError::Refused {
            operation: "create",
            name: name.clone(),
            source: reason.into(),
        };
        let mut inner = self.inner();
        if spec.argv.is_empty() {
            return Err(refused("the spec names no program".to_owned()));
        }
        if !inner.images.contains(&spec.image) {
            return Err(RuntimeError::NoImage {
                image: spec.image.clone(),
            });
        }
        if let Some(taken) = inner.containers.get(name) {
            let status = taken.status();
            return if status.is_from(spec) {
                Ok(Created::Existing(status))
            } else {
                Err(RuntimeError::NameTaken { name: name.clone() })
            };
        }
        let absent = |mount: &&factory_core::container::Mount| !Path::new(&mount.source).exists();
        if let Some(mount) = spec.mounts.iter().find(absent) {
            return Err(refused(format!(
                "the mount's source {} does not exist",
                mount.source
            )));
        }
        let labels = [
            (LABEL_HOME, spec.owner.home.clone()),
            (LABEL_RUN, spec.owner.run.to_string()),
            (LABEL_EPOCH, spec.owner.epoch.to_string()),
            (LABEL_SPEC, spec.digest()),
        ];
        let container = Container {
            spec: spec.clone(),
            labels: labels
                .map(|(label, value)| (label.to_owned(), value))
                .into(),
            state: watch::Sender::new(ContainerState::Created),
            terminate: CancellationToken::new(),
            kill: CancellationToken::new(),
            output: Arc::default(),
        };
        inner.containers.insert(name.clone(), container);
        self.record(Event::Created(name.clone()));
        Ok(Created::New)
    }

    fn start_now(&self, name: &str) -> Result<Started, RuntimeError> {
        let inner = self.inner();
        let started = inner.now;
        let container = inner
            .containers
            .get(name)
            .ok_or_else(|| not_found(name.to_owned()))?;
        match *container.state.borrow() {
            ContainerState::Created => {}
            ContainerState::Running => return Ok(Started::AlreadyRunning),
            ContainerState::Exited(_) => {
                return Err(RuntimeError::AlreadyEnded {
                    name: name.to_owned(),
                });
            }
        }
        container.state.send_replace(ContainerState::Running);
        self.record(Event::Started(name.to_owned()));
        let inside = Inside {
            spec: container.spec.clone(),
            terminate: container.terminate.clone(),
            output: Arc::clone(&container.output),
        };
        let (engine, name, kill) = (self.clone(), name.to_owned(), container.kill.clone());
        self.shared.tasks.spawn(async move {
            // The call is inside, so that it is caught when it panics before its first await.
            let behaviour = async { (engine.shared.behaviour)(inside).await };
            let ending = tokio::select! {
                biased;
                () = kill.cancelled() => KILLED.into(),
                ending = AssertUnwindSafe(behaviour).catch_unwind() => {
                    ending.unwrap_or(PANICKED.into())
                }
            };
            engine.end(&name, started, ending);
        });
        Ok(Started::Now)
    }

    fn end(&self, name: &str, started: Timestamp, ending: Ending) {
        let inner = self.inner();
        if let Some(container) = inner.containers.get(name) {
            self.record(Event::Ended {
                name: name.to_owned(),
                code: ending.code,
            });
            container.state.send_replace(ContainerState::Exited(Exit {
                code: ending.code,
                oom_killed: ending.oom_killed,
                started,
                finished: inner.now.max(started),
            }));
        }
    }

    /// Sees the container through to its end: asked to end and killed after the
    /// grace, or killed at once without one. Fine when it does not run.
    async fn bring_down(&self, name: &str, grace: Option<Duration>) {
        let (mut state, terminate, kill) = match self.inner().containers.get(name) {
            Some(container) => (
                container.state.subscribe(),
                container.terminate.clone(),
                container.kill.clone(),
            ),
            None => return,
        };
        let not_running = |state: &ContainerState| !matches!(state, ContainerState::Running);
        if not_running(&state.borrow()) {
            return;
        }
        if let Some(grace) = grace {
            terminate.cancel();
            if tokio::time::timeout(grace, state.wait_for(not_running))
                .await
                .is_ok()
            {
                return;
            }
        }
        kill.cancel();
        // An error means that somebody removed it: it has ended as well.
        if state.wait_for(not_running).await.is_err() {
            tracing::debug!(container = %name, "removed while it was brought down");
        }
    }

    async fn wait_now(&self, name: &str) -> Result<Exit, RuntimeError> {
        let absent = || not_found(name.to_owned());
        let mut state = self
            .inner()
            .containers
            .get(name)
            .ok_or_else(absent)?
            .state
            .subscribe();
        let ended = state
            .wait_for(|state| !matches!(state, ContainerState::Running))
            .await
            .map_err(|_| absent())?;
        match &*ended {
            ContainerState::Exited(exit) => Ok(exit.clone()),
            ContainerState::Created | ContainerState::Running => Err(RuntimeError::NeverStarted {
                name: name.to_owned(),
            }),
        }
    }
}

impl Runtime for DoubleRuntime {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        let info = EngineInfo {
            id: "double".to_owned(),
            version: "20.10.0".to_owned(),
            api: "1.41".to_owned(),
            operating_system: "in memory".to_owned(),
            architecture: "x86_64".to_owned(),
            memory: 16 << 30,
            cpus: 4,
            selinux: false,
            userns_remap: false,
            rootless: false,
            unenforced_limits: Vec::new(),
            runtimes: Some(vec!["runc".to_owned()]),
        };
        self.call(Operation::Engine, "", async { Ok(info) }).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Created, RuntimeError> {
        let work = async { self.create_now(spec) };
        self.call(Operation::Create, &spec.name, work).await
    }

    async fn start(&self, name: &str) -> Result<Started, RuntimeError> {
        let work = async { self.start_now(name) };
        self.call(Operation::Start, name, work).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerStatus>, RuntimeError> {
        let work = async { Ok(self.inner().containers.get(name).map(Container::status)) };
        self.call(Operation::Inspect, name, work).await
    }

    async fn list(&self, home: &str) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let work = async {
            let inner = self.inner();
            let all = inner.containers.values().map(Container::status);
            Ok(all.filter(|status| status.home() == Some(home)).collect())
        };
        self.call(Operation::List, home, work).await
    }

    async fn wait(&self, name: &str) -> Result<Exit, RuntimeError> {
        let work = self.wait_now(name);
        self.call(Operation::Wait, name, work).await
    }

    async fn stop(&self, name: &str, grace_seconds: u32) -> Result<(), RuntimeError> {
        let grace = Duration::from_secs(grace_seconds.into());
        let work = async {
            self.bring_down(name, Some(grace)).await;
            Ok(())
        };
        self.call(Operation::Stop, name, work).await
    }

    async fn kill(&self, name: &str) -> Result<(), RuntimeError> {
        let work = async {
            self.bring_down(name, None).await;
            Ok(())
        };
        self.call(Operation::Kill, name, work).await
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        let work = async {
            self.bring_down(name, None).await;
            if self.inner().containers.remove(name).is_some() {
                self.record(Event::Removed(name.to_owned()));
            }
            Ok(())
        };
        self.call(Operation::Remove, name, work).await
    }

    async fn output_tail(&self, name: &str, bytes: usize) -> Result<String, RuntimeError> {
        let work = async {
            let inner = self.inner();
            let container = inner
                .containers
                .get(name)
                .ok_or_else(|| not_found(name.to_owned()))?;
            let output = lock(&container.output);
            let tail = &output.as_bytes()[output.len().saturating_sub(bytes)..];
            Ok(String::from_utf8_lossy(tail).into_owned())
        };
        self.call(Operation::OutputTail, name, work).await
    }
}

impl Container {
    fn status(&self) -> ContainerStatus {
        ContainerStatus {
            name: self.spec.name.clone(),
            state: self.state.borrow().clone(),
            labels: self.labels.clone(),
        }
    }
}

fn not_found(name: String) -> RuntimeError {
    RuntimeError::NotFound { name }
}

/// A behaviour that panics must not take the engine with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The highest sum that the events reach.
fn most(events: &[Event], weight: impl Fn(&Event) -> isize) -> usize {
    let sums = events.iter().scan(0_isize, |sum, event| {
        *sum += weight(event);
        Some(*sum)
    });
    sums.max()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0)
}
