//! The kernel: one loop that owns the state. Events only wake it; what to do is
//! planned from the state and from what is observed.

mod compare;
mod config;
mod merge;
mod names;
mod observe;
mod pack;
mod rest;
mod retire;
mod server;
mod show;
mod spawn;
mod tools;

pub use retire::retire;
pub use server::{PATH_CHANGES, PATH_DRAIN, PATH_HELD_UP, PATH_STOP};
pub use spawn::STOP_GRACE;
pub use tools::{ImageOf, Tools, agent_user, blocking, host_and_boot};

use crate::{
    clock,
    factory::Factory,
    failure::{self, Class, Failure, INTERRUPTED, NEEDS_HUMAN},
    launcher::{ASKED_TO_END, THIS_START},
    retention, wait,
};
use factory_core::{
    container::ContainerSpec,
    event::{Event, Refusal},
    ids::RunId,
    inbox::InboxEntry,
    model::{Ending, KernelId, Run},
    plan::{Action, Observed, plan},
};
use factory_ledger::{failpoint::Process, lock::KernelLock};
use factory_runtime::Runtime;
use names::{CONFIG, CONFIG_KEPT, GRANT, PERFORM, given_up, key};
use rest::{ENGINE, Rests, STATE};
use rustix::process::Pid;
use server::Call;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// How often everything is looked at again although nothing happened.
const SAFETY_RECONCILE: Duration = Duration::from_secs(300);

/// What the kernel is told on its command line.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Slots, in place of those of `factory.yaml`.
    pub slots: Option<u32>,
    /// End when no work is left that no human gate holds.
    pub until_idle: bool,
    /// Only settle pull requests whose merge gate is open, then end.
    pub merges_only: bool,
    /// Take up `factory.yaml` whenever the target branch changes it.
    pub follow_target: bool,
}

/// What a task of the kernel came to.
type Done = (String, Result<Outcome, Failure>);

/// What is journalled when a task ended, and what must be looked at again.
#[derive(Debug, Default)]
struct Outcome {
    events: Vec<Event>,
    /// Containers changed.
    containers: bool,
    /// Where `factory.yaml` was looked at: what is wrong with it, if anything.
    config: Option<Result<(), Failure>>,
}

impl From<Event> for Outcome {
    fn from(event: Event) -> Self {
        Self {
            events: vec![event],
            ..Self::default()
        }
    }
}

struct Kernel<R> {
    factory: Factory,
    tools: Arc<Tools<R>>,
    options: Options,
    observed: Observed,
    containers_stale: bool,
    /// The target may have another `factory.yaml`.
    config_stale: bool,
    tasks: JoinSet<Done>,
    busy: BTreeSet<String>,
    rests: Rests,
    /// Effects that an earlier kernel may have begun.
    begun_before: BTreeSet<String>,
    screen: show::Screen,
    packer: pack::Packer,
    changed: tokio::sync::watch::Sender<String>,
    /// Who started this process.
    launcher: Option<Pid>,
    _lock: KernelLock,
}

/// Makes this process the kernel of the repository around `cwd`: takes the lock,
/// then brings target and configuration up to date.
pub fn open(
    cwd: &Path,
    target: Option<String>,
    config: Option<&Path>,
) -> Result<(Factory, KernelLock), Failure> {
    Process::read_environment();
    let mut factory = Factory::open(cwd)?;
    let lock = wait::lock(&factory.places)?;
    factory.reload()?;
    if let Some(branch) = target.filter(|branch| *branch != factory.state.meta.target) {
        factory.journal(Event::TargetChanged { branch })?;
    }
    match factory.refresh_config(config) {
        // `prepare` found it right: it was changed since, and the one in force stays. The kernel says so.
        Err(wrong) if wrong.class() == Class::Config => {}
        refreshed => refreshed?,
    }
    Ok((factory, lock))
}

/// Runs the kernel, who holds `lock`, until it is told to end or has nothing left to do; gives the exit code.
pub async fn run<R: Runtime>(
    mut factory: Factory,
    lock: KernelLock,
    runtime: R,
    image_of: ImageOf,
    options: Options,
) -> Result<u8, Failure> {
    let launcher = rustix::process::getppid();
    let since = clock::now().0;
    if factory.state.runs.is_empty()
        && let Err(failure) = retention::free(&factory.places, since)
    {
        tracing::warn!(failure = failure.chain(), "no room was freed");
    }
    let pid = std::process::id();
    let begun_before = factory.state.effects.keys().cloned().collect();
    let tools = Arc::new(Tools::new(
        &factory,
        runtime,
        image_of,
        options.follow_target,
    )?);
    let info = tools.runtime.engine().await?;
    let (host, boot) = tools::host_and_boot()?;
    let containers = observe::containers(&tools).await?;
    let adopted = observe::adopted(&factory.state, &containers);
    let kernel = KernelId {
        host,
        pid,
        boot,
        since,
        start: std::env::var(THIS_START).ok(),
        slots: options.slots,
        engine: Some(observe::size_of(&info)),
    };
    let step = factory.journal(Event::KernelStarted { kernel, adopted })?;
    factory.store.anchor(&factory.head)?;
    let (wakes, mut woken) = tokio::sync::mpsc::channel::<Call>(1);
    let (changed, seen) = tokio::sync::watch::channel(factory.head.to_string());
    let (shown, held_up) = tokio::sync::watch::channel("[]".to_owned());
    let mut server = server::Server::bind(&factory.places, wakes, seen, held_up)?;
    let rests = Rests::new(factory.places.clone(), shown);
    let packer = pack::Packer::new(factory.places.clone(), factory.state.meta.step);
    // What the kernel before was told, where the same launcher started both.
    let ending = factory.state.meta.ending;
    let asked = std::env::var(ASKED_TO_END).ok();
    let asked: u32 = asked.and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut kernel = Kernel {
        observed: Observed {
            draining: ending.is_some() || asked >= 1,
            stopping: ending == Some(Ending::AtOnce) || asked >= 2,
            engine: observe::size_of(&info),
            slots: options.slots,
            merges_only: options.merges_only,
            ..Observed::default()
        },
        factory,
        tools,
        options,
        containers_stale: true,
        config_stale: true,
        tasks: JoinSet::new(),
        busy: BTreeSet::new(),
        rests,
        begun_before,
        screen: show::Screen::new(),
        packer,
        changed,
        launcher,
        _lock: lock,
    };
    kernel.screen.note(clock::now(), &step.note);
    kernel.leave_elsewhere()?;
    let mut signals = tools::Signals::new()?;
    let mut reconcile = tokio::time::interval(SAFETY_RECONCILE);
    loop {
        match kernel.settle().await {
            Ok(()) => kernel.goes_again(STATE),
            // Nothing that was decided is lost: it is derived from the state again.
            Err(full) if full.class() == Class::Disk => kernel.rest(STATE, &full),
            Err(failure) => return Err(kernel.ended_by(failure).await),
        }
        if let Some(code) = kernel.end() {
            // The next `factory start` clears it as well, where that cannot be written.
            if kernel.factory.state.meta.ending.is_some()
                && let Err(failure) = kernel.journal(Event::EndReached)
            {
                tracing::warn!(failure = failure.chain(), "the end was not recorded");
            }
            kernel.factory.store.anchor(&kernel.factory.head)?;
            kernel.packer.stop().await;
            kernel.screen.finish();
            return Ok(code);
        }
        if !kernel.observed.draining {
            let state = &kernel.factory.state;
            if kernel.packer.look(state.meta.step, !state.runs.is_empty()) {
                kernel.packer.drop_old(kernel.factory.again()?);
            }
        }
        let rest = kernel.rests.next();
        let waits = kernel.factory.state.wakes_at(clock::now());
        let waited = async {
            match waits {
                Some(at) => tokio::time::sleep(clock::until(at)).await,
                None => std::future::pending().await,
            }
        };
        let rested = async {
            match rest {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = kernel.tasks.join_next(), if !kernel.tasks.is_empty() => {
                if let Some(done) = done {
                    let done = done.map_err(|e| Failure::of(Class::Internal, e))?;
                    if let Err(failure) = kernel.took(done).await {
                        return Err(kernel.ended_by(failure).await);
                    }
                }
            }
            call = woken.recv() => match call {
                Some(Call::Look) => {}
                Some(Call::Drain) => kernel.drain(),
                Some(Call::Stop) => kernel.stop(),
                None => return Err(Failure::new(Class::Internal, "the kernel's socket closed")),
            },
            ended = server.run() => return Err(ended),
            () = rested => {}
            () = kernel.packer.next() => {}
            () = waited => {}
            _ = reconcile.tick() => {
                kernel.containers_stale = true;
                kernel.config_stale = true;
            }
            () = signals.next() => {
                if kernel.observed.draining {
                    kernel.stop();
                } else {
                    kernel.drain();
                }
            }
        }
    }
}

impl<R: Runtime> Kernel<R> {
    /// Ends runs whose containers are those of the repository that this one is a copy of.
    fn leave_elsewhere(&mut self) -> Result<(), Failure> {
        let strange = |run: &&Run| {
            let ours = ContainerSpec::name_for(&self.tools.home, run.id);
            run.is_open() && run.container != ours
        };
        let runs = self.factory.state.runs.values().filter(strange);
        let runs: Vec<RunId> = runs.map(|run| run.id).collect();
        if runs.is_empty() {
            return Ok(());
        }
        for run in &runs {
            self.drain_inbox(*run)?;
        }
        self.journal(Event::RunsElsewhere { runs })?;
        Ok(())
    }

    /// Begins no new work and ends when what runs has ended.
    fn drain(&mut self) {
        if !self.observed.draining {
            self.observed.draining = true;
            self.screen.note(
                clock::now(),
                "kernel: draining: no new work is begun (once more: stop the agents too)",
            );
        }
    }

    /// Ends the agents as well.
    fn stop(&mut self) {
        if !self.observed.stopping {
            self.observed.draining = true;
            self.observed.stopping = true;
            self.screen.note(
                clock::now(),
                "kernel: stopping the agents; their work so far is kept",
            );
        }
    }

    /// Journals everything that can be journalled now and begins everything that can be begun.
    async fn settle(&mut self) -> Result<(), Failure> {
        loop {
            if self.containers_stale {
                if self.rests.holds(ENGINE) {
                    return Ok(());
                }
                match observe::containers(&self.tools).await {
                    Ok(seen) => {
                        self.observed.containers = seen;
                        self.containers_stale = false;
                        self.goes_again(ENGINE);
                    }
                    Err(failure) => {
                        self.rest(ENGINE, &failure);
                        return Ok(());
                    }
                }
            }
            // A person who orders something may have changed the configuration before.
            self.config_stale |= self.factory.reload()?;
            if let Some(taken) = self.factory.store.taken_over()? {
                return Err(failure::taken_over(&taken));
            }
            self.read_inboxes()?;
            let mut again = false;
            for action in plan(&self.factory.state, &self.observed, clock::now()) {
                match action {
                    Action::Journal(event) => again |= self.journal(event)?,
                    action => self.begin(action),
                }
            }
            self.changed.send_replace(self.factory.head.to_string());
            self.screen.status(&self.factory.state, &self.observed);
            if again {
                continue;
            }
            if std::mem::take(&mut self.config_stale) && self.tools.follow_target {
                let look = config::look(Arc::clone(&self.tools), &self.factory.state);
                self.spawn(CONFIG.to_owned(), look);
            }
            return Ok(());
        }
    }

    /// Journals an event unless it is stale. Tells whether anything changed.
    fn journal(&mut self, event: Event) -> Result<bool, Failure> {
        let step = match self.factory.try_journal(event)? {
            Ok(step) => step,
            Err(Refusal::Stale(what)) => {
                tracing::debug!(what, "a stale event was dropped");
                return Ok(false);
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "an event was refused");
                return Ok(false);
            }
        };
        self.screen.note(clock::now(), &step.note);
        Ok(true)
    }

    /// Journals what runs said. Model calls alone change nothing that is decided
    /// here, so they wait for the next push, report or end.
    fn read_inboxes(&mut self) -> Result<(), Failure> {
        let open: Vec<(RunId, _)> = self
            .factory
            .state
            .runs
            .values()
            .filter(|run| run.is_open())
            .map(|run| (run.id, run.inbox_seen.clone()))
            .collect();
        for (run, seen) in open {
            let entries = self.tools.inbox.read_after(run, seen.as_ref())?;
            let decides = |entry: &InboxEntry| match entry {
                InboxEntry::Usage(_) => false,
                InboxEntry::Push { .. }
                | InboxEntry::OverBudget
                | InboxEntry::Checkpoint { .. }
                | InboxEntry::Report { .. }
                | InboxEntry::End(_) => true,
            };
            if entries.iter().any(|(_, entry)| decides(entry)) {
                self.journal(Event::Inbox { run, entries })?;
            }
        }
        Ok(())
    }

    /// Journals whatever a run said that was not journalled yet.
    fn drain_inbox(&mut self, run: RunId) -> Result<(), Failure> {
        let Some(seen) = self
            .factory
            .state
            .runs
            .get(&run)
            .map(|r| r.inbox_seen.clone())
        else {
            return Ok(());
        };
        let entries = self.tools.inbox.read_after(run, seen.as_ref())?;
        if !entries.is_empty() {
            self.journal(Event::Inbox { run, entries })?;
        }
        Ok(())
    }

    /// Begins an action in a task of its own, unless it is under way or resting.
    fn begin(&mut self, action: Action) {
        let key = key(&action);
        if self.rests.holds(&key) || self.busy.contains(&key) {
            return;
        }
        let tools = Arc::clone(&self.tools);
        let state = &self.factory.state;
        let work: tools::Work = match action {
            Action::Journal(_) => return,
            Action::Grant { job, purpose, slot } => spawn::grant(tools, state, job, purpose, slot),
            Action::Spawn(run) => spawn::spawn(tools, state, run),
            Action::Await(run) => spawn::wait(tools, state, run),
            Action::Conclude(run, exit) => spawn::conclude(tools, run, exit),
            Action::Stop(run) => spawn::stop(tools, state, run),
            Action::Kill(run) => spawn::kill(tools, state, run),
            Action::Collect(run) => spawn::collect(tools, state, run),
            Action::RemoveStray(run) => spawn::remove_stray(tools, state, run),
            Action::Perform(effect) => {
                merge::perform(tools, state, &effect, self.begun_before.contains(&effect))
            }
            Action::Merge(pr) => merge::merge(tools, state, pr),
            Action::Compare(job) => compare::compare(tools, state, job),
        };
        self.spawn(key, work);
    }

    fn spawn(&mut self, key: String, work: tools::Work) {
        if self.busy.insert(key.clone()) {
            self.tasks.spawn(async move { (key, work.await) });
        }
    }

    async fn took(&mut self, (key, result): Done) -> Result<(), Failure> {
        self.busy.remove(&key);
        let failure = match result {
            Ok(outcome) => {
                self.containers_stale |= outcome.containers;
                match outcome.config {
                    Some(Ok(())) => self.goes_again(CONFIG_KEPT),
                    Some(Err(problem)) => self.keep_config(&problem),
                    None => {}
                }
                match self.journal_all(outcome.events) {
                    Ok(()) => {
                        self.rests.done(&key);
                        return Ok(());
                    }
                    // Done but not recorded: as if it had failed.
                    Err(full) if full.class() == Class::Disk => full,
                    Err(failure) => return Err(failure),
                }
            }
            Err(failure) => failure,
        };
        // Whatever it had begun, the next try finds.
        if let Some(effect) = key.strip_prefix(PERFORM) {
            self.begun_before.insert(effect.to_owned());
        }
        self.containers_stale = true;
        self.rest(&key, &failure);
        if self.rests.is_hopeless(&key)
            && let Some(event) = given_up(&key, &failure)
        {
            self.rests.done(&key);
            self.journal_all(vec![event])?;
        }
        Ok(())
    }

    fn journal_all(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        for event in events {
            let is_config = matches!(event, Event::ConfigLoaded { .. });
            if let Event::ContainerEnded { run, .. } = &event {
                // Its last entries were written before its container ended.
                self.drain_inbox(*run)?;
            }
            if self.journal(event)? && is_config {
                self.rests.wake(GRANT);
            }
        }
        Ok(())
    }

    fn rest(&mut self, key: &str, failure: &Failure) {
        if let Some(line) = self.rests.put(key, failure) {
            self.screen.note(clock::now(), &line);
        }
    }

    /// Says why another configuration is not taken up.
    fn keep_config(&mut self, problem: &Failure) {
        if self.rests.note(CONFIG_KEPT, problem) {
            let what = problem.chain();
            let line = format!("{CONFIG_KEPT}: the one before stays in force: {what}");
            self.screen.note(clock::now(), &line);
        }
    }

    /// Says so, if `key` had failed before.
    fn goes_again(&mut self, key: &str) {
        if self.rests.done(key) {
            self.screen
                .note(clock::now(), &format!("{key}: all is well again"));
        }
    }

    /// Ends everything of this factory here where another machine goes on with it.
    async fn ended_by(&mut self, failure: Failure) -> Failure {
        if failure.class() == Class::TakenOver {
            self.tasks.shutdown().await;
            self.packer.stop().await;
            let (tools, screen) = (&self.tools, &mut self.screen);
            if let Err(error) = retire(&tools.runtime, &tools.places, &tools.home).await {
                screen.note(
                    clock::now(),
                    &format!("agents may be left: {}", error.chain()),
                );
            }
            screen.finish();
        }
        failure
    }

    /// The exit code, when it is time to end.
    fn end(&self) -> Option<u8> {
        let no_gateway = self.rests.lacks_gateway();
        let stuck = no_gateway || self.rests.failed(ENGINE) || self.rests.failed(STATE);
        // Without a launcher nobody starts the gateway again, and the lock would keep the
        // next `factory start` away.
        let alone = no_gateway && rustix::process::getppid() != self.launcher;
        if alone || (self.observed.stopping && stuck) {
            self.screen.note(
                clock::now(),
                "kernel: ends although agents may live on; the next `factory start` takes them up",
            );
            return Some(INTERRUPTED);
        }
        if !self.busy.is_empty() {
            return None;
        }
        let state = &self.factory.state;
        // An effect that cannot be performed now does not hold up a stop: it is recorded.
        if self.observed.stopping && state.runs.is_empty() {
            return Some(INTERRUPTED);
        }
        // Neither does it hold up a drain: the next kernel goes on with it.
        let rests = |key: &String| self.rests.failed(&format!("{PERFORM}{key}"));
        if self.observed.draining && state.runs.is_empty() && state.effects.keys().all(rests) {
            return Some(0);
        }
        let frozen = state.meta.frozen.is_some();
        if self.options.merges_only {
            let quiet = state.runs.is_empty() && state.effects.is_empty();
            return (quiet && (frozen || !state.is_merging())).then_some(0);
        }
        if self.options.until_idle && state.is_idle() {
            let stuck = state.needing_human().next().is_some();
            let refused = state.prs.values().any(|pr| pr.note.is_some());
            return Some(if stuck || refused || frozen {
                NEEDS_HUMAN
            } else {
                0
            });
        }
        None
    }
}
