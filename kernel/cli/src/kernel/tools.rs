//! What the kernel's tasks work with.

use super::Outcome;
use crate::{
    factory::Factory,
    failure::{Class, Failure},
};
use factory_core::{
    brief::Host,
    config::Config,
    ids::{Epoch, Oid, RunId},
    state::State,
    wire::GatewayStatus,
};
use factory_gateway::client::{self, CallError};
use factory_ledger::{
    base::BaseRepo, door::DoorRepo, inbox::Inbox, places::Places, state::StateRepo, user::UserRepo,
};
use futures_util::future::BoxFuture;
use rustix::process::Pid;
use std::{sync::Arc, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A gateway that is away for longer (about ten seconds in all) is a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(6);

/// One task's work.
pub type Work = BoxFuture<'static, Result<Outcome, Failure>>;
/// Looks up the image for a configuration at a commit.
pub type ImageOf =
    Arc<dyn Fn(Config, Oid) -> BoxFuture<'static, Result<String, Failure>> + Send + Sync>;

/// User and group of agents where the kernel is root.
const UNPRIVILEGED: u32 = 10_001;

/// Repositories, runtime and facts of this host.
pub struct Tools<R> {
    /// Where everything lies.
    pub places: Places,
    /// The container engine.
    pub runtime: R,
    /// Looks up the image for a configuration.
    pub image_of: ImageOf,
    /// What runs said.
    pub inbox: Inbox,
    /// Name of this factory on this host.
    pub home: String,
    /// Numeric user of agents.
    pub uid: u32,
    /// Numeric group of agents.
    pub gid: u32,
    /// `factory.yaml` of the target comes into force when it changes.
    pub follow_target: bool,
    /// Who started this process.
    launcher: Option<Pid>,
    store: StateRepo,
    repos: Arc<Repos>,
}

/// The repositories that work passes through.
pub struct Repos {
    /// The user's.
    pub user: UserRepo,
    /// History of the target.
    pub base: BaseRepo,
    /// Where runs push.
    pub door: DoorRepo,
}

impl<R> Tools<R> {
    /// Opens the repositories, making those that are missing.
    pub fn new(
        factory: &Factory,
        runtime: R,
        image_of: ImageOf,
        follow_target: bool,
    ) -> Result<Self, Failure> {
        let places = factory.places.clone();
        let base = BaseRepo::init(places.base_git())?;
        let door = DoorRepo::init(places.door_git(), &base)?;
        let (uid, gid) = agent_user();
        Ok(Self {
            runtime,
            image_of,
            follow_target,
            inbox: Inbox::open(&places)?,
            home: factory.home.clone(),
            uid,
            gid,
            launcher: rustix::process::getppid(),
            store: StateRepo::open(&places)?,
            repos: Arc::new(Repos {
                user: factory.user.clone(),
                base,
                door,
            }),
            places,
        })
    }

    /// Does blocking work with the repositories on a thread of its own.
    pub async fn git<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repos) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let repos = Arc::clone(&self.repos);
        blocking(move || work(&repos)).await
    }

    /// What is true of this host for a run.
    pub fn host(&self, run: RunId) -> Host {
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        Host {
            home: self.home.clone(),
            uid: self.uid,
            gid: self.gid,
            run_dir: text(self.places.run_dir(run)),
            workspace: text(self.places.ws_dir(run)),
            base_git: text(self.places.base_git()),
        }
    }

    /// Read again before every create, start, kill and remove: a kernel whose epoch is over does nothing.
    pub fn check_epoch(&self, epoch: Epoch) -> Result<(), Failure> {
        let newest = match self.store.head()? {
            Some(head) => self.store.read_file(&head, "meta.yaml")?,
            None => None,
        };
        let meta: factory_core::model::Meta =
            factory_core::state::parse("meta.yaml", &newest.unwrap_or_default())?;
        if meta.epoch == epoch {
            Ok(())
        } else {
            Err(Failure::new(
                Class::Busy,
                format!("a newer kernel (epoch {}) has taken over", meta.epoch),
            ))
        }
    }

    /// Tells the gateway that the state moved, and hears which runs it serves.
    /// One that is just being started (again) is given time to come.
    pub async fn wake_gateway(&self) -> Result<GatewayStatus, Failure> {
        let mut pause = Duration::from_millis(20);
        loop {
            match client::wake(&self.places).await {
                Ok(status) => return Ok(status),
                // Without a launcher nobody starts it.
                Err(CallError::Away { .. })
                    if pause < LONGEST_PAUSE && rustix::process::getppid() == self.launcher =>
                {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => {
                    return Err(Failure::of(Class::Gateway, error)
                        .help("the launcher starts it again; where `factory start` was killed, `factory stop --now` and then `factory start` go on"));
                }
            }
        }
    }
}

/// Numeric user and group of agents: the invoking user's, or, for root, one without rights.
pub fn agent_user() -> (u32, u32) {
    let me = rustix::process::getuid();
    match me.is_root() {
        true => (UNPRIVILEGED, UNPRIVILEGED),
        false => (me.as_raw(), rustix::process::getgid().as_raw()),
    }
}

/// Runs blocking work on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::of(Class::Internal, e))?
}

/// The epoch that tasks begun from this state work under.
pub fn epoch(state: &State) -> Epoch {
    state.meta.epoch
}

/// Host name and boot id.
pub fn host_and_boot() -> Result<(String, String), Failure> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok((host, boot.trim().to_owned()))
}

/// Signals that ask the kernel to end. SIGHUP is taken and ignored: the terminal may go.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes over the signals.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next request to end.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hang_up.recv() => {}
            }
        }
    }
}
