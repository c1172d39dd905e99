//! Packing in the background: now and then, at low priority, one repository at
//! a time, and first what is old enough is dropped. No step waits for it, and it
//! ends with the kernel.

use super::tools::blocking;
use crate::{clock, factory::Factory, failure::Failure, retention};
use factory_ledger::{
    pack::{Depth, Packing, Which, unlock_refs},
    places::Places,
};
use rustix::process::{Pid, Signal, kill_process_group, setpriority_process};
use std::collections::VecDeque;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    task::{AbortHandle, JoinSet},
};

/// Steps between two packings.
const EVERY: u64 = 300;
/// Lowest priority but one: what agents and the kernel do comes first.
const NICENESS: i32 = 15;

/// What is being packed and what comes next.
pub(super) struct Packer {
    places: Places,
    /// Step at which packing was last due.
    last: u64,
    due: VecDeque<Which>,
    tasks: JoinSet<Result<(), Failure>>,
    /// Set while `base.git` is packed.
    base: Option<AbortHandle>,
}

impl Packer {
    /// Packs from the next step on whose number is a multiple of 300.
    pub(super) fn new(places: Places, step: u64) -> Self {
        for dir in [places.door_git(), places.base_git()] {
            if let Err(error) = unlock_refs(&dir) {
                tracing::warn!(%error, "a stale lock stays");
            }
        }
        Self {
            places,
            last: step,
            due: VecDeque::new(),
            tasks: JoinSet::new(),
            base: None,
        }
    }

    /// Begins what is due after `step`. `runs` tells whether any run lives. Tells
    /// whether what is old may be dropped now, before anything is packed.
    pub(super) fn look(&mut self, step: u64, runs: bool) -> bool {
        let mut old = false;
        if step / EVERY > self.last / EVERY && self.due.is_empty() {
            self.due = [Which::State, Which::Door, Which::Base].into();
            old = self.tasks.is_empty();
        }
        self.last = self.last.max(step);
        if runs {
            // Its packs are mounted into the containers.
            if let Some(base) = self.base.take() {
                base.abort();
            }
            self.due.retain(|which| *which != Which::Base);
        }
        if old || !self.tasks.is_empty() {
            return old;
        }
        if let Some(which) = self.due.pop_front() {
            let task = self.tasks.spawn(pack(self.places.clone(), which));
            self.base = (which == Which::Base).then_some(task);
        }
        false
    }

    /// Drops what is old enough, from a state that was just read.
    pub(super) fn drop_old(&mut self, factory: Factory) {
        self.tasks.spawn(async move {
            let drop_old = move || retention::drop_old(&factory, clock::now().0);
            let dropped = blocking(drop_old).await?;
            tracing::debug!(?dropped, "what is old was dropped");
            Ok(())
        });
    }

    /// Waits until something was packed; for ever while nothing is.
    pub(super) async fn next(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(failure))) => {
                // The repository is as good as before, and the next time comes.
                tracing::warn!(failure = failure.chain(), "a repository was not packed");
            }
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(error)) => tracing::warn!(%error, "packing failed"),
            None => std::future::pending().await,
        }
        self.base = None;
    }

    /// Ends what is under way.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn pack(places: Places, which: Which) -> Result<(), Failure> {
    let begun = blocking(move || {
        let packing = Packing::begin(&places, which, clock::now().0)?;
        let Some(packing) = packing else {
            return Ok(None);
        };
        let command = packing.command(Depth::Quick)?;
        Ok(Some((packing, command)))
    })
    .await?;
    let Some((packing, command)) = begun else {
        return Ok(());
    };
    let mut group = Group::start(command)?;
    let mut said = Vec::new();
    if let Some(mut stderr) = group.child.stderr.take() {
        stderr.read_to_end(&mut said).await?;
    }
    let status = group.child.wait().await?;
    packing.ended(status, &said)?;
    blocking(move || Ok(packing.pack_refs()?)).await
}

/// A git with the processes that it starts. They end when this is dropped.
struct Group {
    child: Child,
}

impl Group {
    fn start(command: std::process::Command) -> Result<Self, Failure> {
        // The command holds the turn as long as it lives: the child alone shall.
        let child = Command::from(command).process_group(0).spawn()?;
        let group = Self { child };
        if let Some(pid) = group.pid()
            && let Err(error) = setpriority_process(Some(pid), NICENESS)
        {
            tracing::debug!(%error, "packing at normal priority");
        }
        Ok(group)
    }

    /// None once it was waited for.
    fn pid(&self) -> Option<Pid> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid()
            && let Err(error) = kill_process_group(pid, Signal::TERM)
        {
            tracing::debug!(%error, "a git that packs was not ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_this_thread(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work);
    }

    /// A factory's places with a `state.git` and a `base.git` to pack.
    fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        places.ensure_dirs().unwrap();
        factory_ledger::base::BaseRepo::init(places.base_git()).unwrap();
        let state = factory_ledger::state::StateRepo::init(&places).unwrap();
        state.commit(None, &[], "begun", 1).unwrap();
        (dir, places)
    }

    fn packs(places: &Places) -> usize {
        let dir = places.state_git().join("objects/pack");
        let files = dir.read_dir().unwrap().map(|f| f.unwrap().path());
        files
            .filter(|f| f.extension() == Some("pack".as_ref()))
            .count()
    }

    #[test]
    fn it_is_due_once_every_three_hundred_steps() {
        on_this_thread(async {
            let (_dir, places) = places();
            let mut packer = Packer::new(places.clone(), 250);
            packer.look(299, false);
            assert!(packer.tasks.is_empty());
            assert!(packer.look(301, false), "first what is old is dropped");
            assert_eq!(packer.due.len(), 3);
            assert!(!packer.look(301, false));
            assert_eq!(packer.due, [Which::Door, Which::Base]);
            packer.look(302, false);
            assert_eq!(packer.tasks.len(), 1, "one at a time");
            packer.next().await;
            assert_eq!(packs(&places), 1);
            packer.look(303, false);
            packer.next().await;
            packer.look(304, false);
            assert!(packer.base.is_some());
            packer.look(305, true);
            assert!(packer.base.is_none(), "a run has begun");
            packer.next().await;
            packer.look(599, false);
            assert!(packer.tasks.is_empty());
            assert!(packer.look(1600, true));
            packer.look(1600, true);
            assert_eq!(packer.due, [Which::Door]);
            packer.stop().await;
            assert!(packer.tasks.is_empty());
        });
    }

    #[test]
    fn what_is_old_goes_before_packing() {
        use factory_core::inbox::InboxEntry;
        use factory_ledger::{git::Git, inbox::Inbox};
        let dir = tempfile::tempdir().unwrap();
        let git = Git::isolated(dir.path());
        git.run(["init", "--quiet", "--initial-branch=main"])
            .unwrap();
        let who = ["-c", "user.name=x", "-c", "user.email=x@y"];
        let commit = git.call(who).args(["commit", "--quiet", "--allow-empty"]);
        commit.args(["-m", "Begin"]).text().unwrap();
        let factory = Factory::open(dir.path()).unwrap();
        let inbox = Inbox::open(&factory.places).unwrap();
        let entry = InboxEntry::Report {
            json: "{}".to_owned(),
        };
        let (old, young) = ("r1-1".parse().unwrap(), "r1-2".parse().unwrap());
        inbox.append(old, &entry, 1_000_000_000).unwrap();
        inbox.append(young, &entry, clock::now().0).unwrap();
        on_this_thread(async {
            let mut packer = Packer::new(factory.places.clone(), 299);
            assert!(packer.look(300, true));
            packer.drop_old(factory.again().unwrap());
            assert!(!packer.look(300, true), "one at a time");
            packer.next().await;
        });
        assert_eq!(inbox.runs().unwrap(), [young]);
    }
}
