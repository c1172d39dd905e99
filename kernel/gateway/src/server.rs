//! The gateway process: its doors, opened and closed as the state says.

use crate::{
    client, control,
    door::{self, RunDoor, blocking},
    error::{GatewayError, chain},
    failpoint::{self, Process},
    http::BodyError,
    keys::Keys,
    listen::{self, Ends, Socket},
    stores::{Clock, Stores, Timing},
};
use factory_core::{
    config::LONGEST_WALL,
    grant::Grant,
    ids::RunId,
    wire::{self, GatewayStatus, Hello},
};
use factory_ledger::{lock::KernelLock, places::Places, state::StateRepo};
use hyper::Method;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::{Mutex, Notify},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time beyond its wall time that a run may take to say its END.
const END_SLACK: Duration = Duration::from_secs(15 * 60);
/// Time that a kernel has to hear the bell.
const BELL_WAIT: Duration = Duration::from_secs(5);

/// Reads the open grants from the state. May block.
pub type Grants = Arc<dyn Fn() -> Result<Vec<Grant>, BodyError> + Send + Sync>;

/// What a gateway needs to run.
pub struct GatewayOptions {
    /// All paths, with the place of sockets settled; what is missing is made.
    pub places: Places,
    /// The model keys; see [`crate::keys::read_stdin`].
    pub keys: Keys,
    /// What time it is.
    pub clock: Clock,
    /// Where the grants are.
    pub grants: Grants,
    /// How long to wait for what.
    pub timing: Timing,
}

/// Serves the doors of all granted runs until the gateway is told to retire or
/// to stop, gets SIGTERM, or is needed no longer. A gateway that is there
/// already is told to retire first.
pub async fn run(options: GatewayOptions) -> Result<(), GatewayError> {
    let GatewayOptions {
        places,
        keys,
        clock,
        grants,
        timing,
    } = options;
    Process::read_environment();
    let timing = failpoint::waits(timing);
    // Kernel and gateway start side by side: whoever comes first makes what is missing.
    let places = blocking(move || {
        places
            .ensure_dirs()
            .map_err(|source| GatewayError::Places { source })?;
        StateRepo::init(&places).map_err(|source| GatewayError::State { source })?;
        Ok(places)
    })
    .await?;
    let lock = control::take_lock(&places, &clock).await?;
    let stores = blocking(move || Stores::open(places, keys, clock, timing)).await?;
    let gateway = Arc::new(Gateway {
        stores: Arc::new(stores),
        grants,
        doors: Mutex::default(),
        lock: std::sync::Mutex::new(Some(lock)),
        control: Ends::new(timing.request_wait),
        controlled: TaskTracker::new(),
        abort: CancellationToken::new(),
        connections: TaskTracker::new(),
        retired: AtomicBool::new(false),
        frozen: AtomicBool::new(false),
        changed: Notify::new(),
        end: CancellationToken::new(),
    });
    gateway.serve().await
}

/// One open door and its listener.
struct Open {
    door: Arc<RunDoor>,
    drain: CancellationToken,
    /// Empty once nothing listens for this run any more.
    listening: TaskTracker,
    /// When its grant counts as expired.
    expires: Instant,
}

#[derive(Default)]
struct Doors {
    open: BTreeMap<RunId, Open>,
    /// Runs that an older gateway, which speaks another protocol, serves to their end.
    elsewhere: BTreeSet<RunId>,
    failed: BTreeMap<RunId, String>,
}

/// A running gateway.
pub(crate) struct Gateway {
    stores: Arc<Stores>,
    grants: Grants,
    doors: Mutex<Doors>,
    /// Held while this gateway takes new runs.
    lock: std::sync::Mutex<Option<KernelLock>>,
    pub(crate) control: Ends,
    /// Empty once nothing listens on the gateway's own socket any more.
    controlled: TaskTracker,
    abort: CancellationToken,
    /// The connections of all runs.
    connections: TaskTracker,
    retired: AtomicBool,
    /// The kernel speaks another protocol: no new runs.
    frozen: AtomicBool,
    changed: Notify,
    pub(crate) end: CancellationToken,
}

impl Gateway {
    async fn serve(self: Arc<Self>) -> Result<(), GatewayError> {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .map_err(|source| GatewayError::Signal { source })?;
        let socket = Socket::bind(&self.stores.places.gateway_sock(), 0o600)?;
        let gateway = Arc::clone(&self);
        self.controlled.spawn(listen::serve(
            socket,
            self.control.clone(),
            move |request| control::handle(Arc::clone(&gateway), request),
        ));
        self.controlled.close();
        let mut bell = JoinSet::new();
        bell.spawn(Arc::clone(&self).ring());
        if let Err(error) = self.refresh(wire::PROTOCOL).await {
            // The next wake tries again; until then no run has a door.
            tracing::error!(error = chain(&error), "the grants could not be read");
        }
        let stopped = tokio::select! {
            () = self.end.cancelled() => true,
            _ = terminate.recv() => true,
            () = self.unneeded() => true,
            () = self.retirement() => false,
        };
        self.control.drain.cancel();
        self.controlled.wait().await;
        self.close_all(stopped).await;
        self.control.connections.close();
        self.control.connections.wait().await;
        bell.shutdown().await;
        Ok(())
    }

    /// Opens the doors of new grants and closes those of grants that are gone.
    pub(crate) async fn refresh(&self, protocol: u32) -> Result<GatewayStatus, GatewayError> {
        let mut doors = self.doors.lock().await;
        self.frozen
            .store(protocol != wire::PROTOCOL, Ordering::Release);
        if self.retired.load(Ordering::Acquire) {
            return Ok(status(&doors));
        }
        let read = Arc::clone(&self.grants);
        let grants =
            blocking(move || read().map_err(|source| GatewayError::Grants { source })).await?;
        let mut grants: BTreeMap<RunId, Grant> =
            grants.into_iter().map(|grant| (grant.run, grant)).collect();
        let gone: Vec<RunId> = doors
            .open
            .keys()
            .filter(|run| !grants.contains_key(run))
            .copied()
            .collect();
        for run in gone {
            if let Some(open) = doors.open.remove(&run) {
                close(run, open).await;
            }
        }
        doors.elsewhere.retain(|run| grants.contains_key(run));
        for (run, open) in &doors.open {
            if let Some(grant) = grants.remove(run) {
                open.door.regrant(grant);
            }
        }
        doors.failed.clear();
        if !self.frozen.load(Ordering::Acquire) {
            for (run, grant) in grants {
                self.open(&mut doors, run, grant).await;
            }
        }
        self.changed.notify_waiters();
        Ok(status(&doors))
    }

    async fn open(&self, doors: &mut Doors, run: RunId, grant: Grant) {
        if self.is_served_elsewhere(run).await {
            doors.elsewhere.insert(run);
            return;
        }
        doors.elsewhere.remove(&run);
        let wall = Duration::from_secs(grant.wall_seconds.min(LONGEST_WALL.0));
        let expires = Instant::now() + wall + END_SLACK;
        let stores = Arc::clone(&self.stores);
        let opened = blocking(move || {
            let door = RunDoor::open(stores, grant)?;
            let folder = door.stores().places.run_dir(run);
            std::fs::create_dir_all(&folder).map_err(|source| GatewayError::File {
                path: folder,
                what: "made",
                source,
            })?;
            Ok(door)
        })
        .await
        // Whoever runs inside the container may connect; the directory around it is private.
        .and_then(|door| {
            let path = self.stores.places.run_socket(run);
            let socket = failpoint::step("bind", || Socket::bind(&path, 0o666))?;
            Ok((socket, door))
        });
        match opened {
            Ok((socket, door)) => {
                let ends = Ends {
                    abort: self.abort.clone(),
                    connections: self.connections.clone(),
                    ..Ends::new(self.stores.timing.request_wait)
                };
                let drain = ends.drain.clone();
                let inside = Arc::clone(&door);
                let listening = TaskTracker::new();
                listening.spawn(listen::serve(socket, ends, move |request| {
                    door::handle(Arc::clone(&inside), request)
                }));
                listening.close();
                tracing::info!(%run, "a door is open");
                doors.open.insert(
                    run,
                    Open {
                        door,
                        drain,
                        listening,
                        expires,
                    },
                );
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(%run, error, "a door could not be opened");
                doors.failed.insert(run, error);
            }
        }
    }

    /// Whether an older gateway that speaks another protocol still serves `run`.
    async fn is_served_elsewhere(&self, run: RunId) -> bool {
        let socket = self.stores.places.run_socket(run);
        match client::call(&socket, Method::GET, wire::PATH_HELLO).await {
            Ok(text) => serde_json::from_slice::<Hello>(&text)
                .is_ok_and(|hello| hello.protocol != wire::PROTOCOL),
            Err(_) => false,
        }
    }

    /// What is served at the moment.
    pub(crate) async fn status(&self) -> GatewayStatus {
        status(&*self.doors.lock().await)
    }

    /// Gives way to a newer gateway: nothing listens and the lock is free when
    /// this returns. Runs whose agents a gateway of another protocol would not
    /// understand keep their doors until their end.
    pub(crate) async fn retire(&self, protocol: u32) -> GatewayStatus {
        let doors = self.doors.lock().await;
        self.retired.store(true, Ordering::Release);
        if protocol == wire::PROTOCOL {
            for open in doors.open.values() {
                open.drain.cancel();
            }
            for open in doors.open.values() {
                open.listening.wait().await;
            }
        }
        self.control.drain.cancel();
        // Else this gateway would remove the name of the newer one's socket.
        self.controlled.wait().await;
        drop(
            self.lock
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take(),
        );
        self.changed.notify_waiters();
        status(&doors)
    }

    /// Returns when this gateway has given way and no door is kept.
    async fn retirement(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.retired.load(Ordering::Acquire) {
                let now = Instant::now();
                let kept = self.live_until().await.filter(|until| *until > now);
                match kept {
                    None => return,
                    Some(until) => tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(until) => {}
                    },
                }
            } else {
                changed.await;
            }
        }
    }

    /// Returns when no run needs this gateway and no kernel lives that could bring one.
    async fn unneeded(&self) {
        let mut idle_since = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            idle_since = self
                .live_until()
                .await
                .map_or(idle_since, |until| until.max(idle_since));
            tokio::select! {
                () = changed.as_mut() => idle_since = Instant::now(),
                () = tokio::time::sleep_until(idle_since + self.stores.timing.linger) => {
                    let Ok(kernel) = client::connect(&self.stores.places.kernel_sock()).await
                    else {
                        tracing::info!("no run and no kernel needs the gateway: it ends");
                        return;
                    };
                    // While that kernel lives there is nothing to look at again.
                    tokio::select! {
                        () = changed => {}
                        () = hung_up(kernel) => {}
                    }
                    idle_since = Instant::now();
                }
            }
        }
    }

    /// When the last run that still listens here expires; none without such a run.
    async fn live_until(&self) -> Option<Instant> {
        let doors = self.doors.lock().await;
        let open = doors.open.values();
        open.filter(|open| !open.door.has_ended() && !open.listening.is_empty())
            .map(|open| open.expires)
            .max()
    }

    /// Wakes the kernel after inbox entries, as often as it can hear it.
    async fn ring(self: Arc<Self>) {
        let socket = self.stores.places.kernel_sock();
        loop {
            self.stores.bell.notified().await;
            // A run that ended may have been the last one.
            self.changed.notify_waiters();
            let call = client::call(&socket, Method::POST, wire::PATH_WAKE);
            match tokio::time::timeout(BELL_WAIT, call).await {
                Ok(Ok(_)) => {}
                // The next kernel reads every inbox when it starts.
                Ok(Err(error)) => {
                    tracing::debug!(error = chain(&error), "no kernel heard the bell")
                }
                Err(_) => tracing::debug!("the kernel did not hear the bell in time"),
            }
        }
    }

    /// Ends every door. When `stopped`, model calls are cut (and counted);
    /// otherwise everything under way is waited for.
    async fn close_all(&self, stopped: bool) {
        let doors = std::mem::take(&mut self.doors.lock().await.open);
        for open in doors.values() {
            open.drain.cancel();
            if stopped {
                open.door.cut_calls.cancel();
            }
        }
        for open in doors.values() {
            open.door.calls.close();
            if stopped {
                open.door.calls.wait().await;
            }
        }
        if stopped {
            self.abort.cancel();
        }
        for open in doors.values() {
            open.listening.wait().await;
            open.door.calls.wait().await;
        }
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Returns when the other end of a connection over which nothing is said is gone.
async fn hung_up(mut connection: UnixStream) {
    let mut unasked = [0; 64];
    while let Ok(1..) = connection.read(&mut unasked).await {}
}

/// The grant is gone: nothing more is taken, and what is under way goes on.
async fn close(run: RunId, open: Open) {
    open.door.close();
    Process::Gateway.before("close");
    open.drain.cancel();
    open.listening.wait().await;
    Process::Gateway.after("close");
    tracing::info!(%run, "a door is closed");
}

fn status(doors: &Doors) -> GatewayStatus {
    let here = doors
        .open
        .iter()
        .filter(|(_, open)| !open.listening.is_empty())
        .map(|(run, _)| *run);
    let mut ready: Vec<RunId> = here.chain(doors.elsewhere.iter().copied()).collect();
    ready.sort_unstable();
    let failed = doors
        .failed
        .iter()
        .map(|(run, why)| (run.to_string(), why.clone()))
        .collect();
    GatewayStatus {
        protocol: wire::PROTOCOL,
        pid: std::process::id(),
        ready,
        failed,
    }
}
