//! A run with an engine: start it, hear it, hand in what it did.

use crate::{
    Agent, chain,
    checkpoint::Checkpoints,
    door::BackOff,
    output::{Lines, MAX_STDERR, Tail},
    processes::{Exit, Output, stdin_with},
    report::{self, Report},
    resume::Checkpoint,
    session,
    stop::{Awake, GRACE, Why},
    workspace::{Workspace, names},
};
use factory_core::{
    grant::Role,
    ids::Oid,
    inbox::{EngineExit, RunEnd},
    wire::{EngineLaunch, RunFile},
};
use std::{cell::Cell, error::Error, io, process::Command, time::Duration};
use tokio::sync::watch;

/// How often what is wrong is handed back to the engine.
const FOLLOW_UPS: u32 = 3;
/// The same of a run that only reports.
const REPORT_FOLLOW_UPS: u32 = 2;

/// What the engine is to do besides its launch.
#[derive(Debug)]
pub struct Task<'a> {
    /// All of `run.yaml`.
    pub file: &'a RunFile,
    /// What its engine is for.
    pub role: Role,
    /// The branch to work on and to push; none for a run that only reads.
    pub branch: Option<&'a str>,
    /// How the engine is started.
    pub launch: &'a EngineLaunch,
    /// How long it may be silent.
    pub stall: Duration,
    /// Time between two checkpoints; the first ones are closer together.
    pub checkpoint_every: Duration,
    /// The checkpoint to begin from.
    pub resume: Option<&'a Oid>,
    /// Of that, only the engine's session.
    pub session_only: bool,
    /// Subject for what it leaves uncommitted.
    pub leftover_subject: &'a str,
}

/// One start of the engine, from its first to its last instruction.
#[derive(Debug)]
struct Turn {
    exit: Exit,
    /// Why the agent ended it, where it did.
    ended: Option<Ended>,
    last_output: String,
    stderr_tail: String,
}

impl Turn {
    /// It came to its own end, and says that this is a good one.
    fn well(&self) -> bool {
        self.ended.is_none() && self.exit == Exit::Code(0)
    }
}

/// Why the agent ended the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The whole run is to end.
    Stop(Why),
    /// It gave no sign of life.
    Stalled,
}

impl Ended {
    fn grace(&self) -> Duration {
        match self {
            Ended::Stop(why) => why.grace(),
            Ended::Stalled => GRACE,
        }
    }
}

/// Whether the engine gives signs of life: output on either pipe.
#[derive(Debug, Default)]
struct Signs {
    heard: Cell<bool>,
    delivering: Cell<u32>,
}

impl Signs {
    /// Takes note of output, and lets its delivery be awaited: while the gateway
    /// keeps us from reading on, silence is not the engine's.
    async fn heard(&self, delivery: impl Future<Output = ()>) {
        self.delivering.set(self.delivering.get() + 1);
        delivery.await;
        self.delivering.set(self.delivering.get() - 1);
        self.heard.set(true);
    }

    /// Returns after `limit` of awake time without a sign.
    async fn missing(&self, limit: Duration) {
        let mut awake = Awake::new(limit);
        loop {
            let over = awake.tick().await;
            if self.heard.take() || self.delivering.get() > 0 {
                awake.reset();
            } else if over {
                return;
            }
        }
    }
}

/// What is wrong with what the engine left.
#[derive(Debug, Default)]
struct Problems {
    push: Option<String>,
    report: Option<String>,
}

impl Problems {
    /// The follow-up for the engine; none when all is well.
    fn follow_up(&self, only_reads: bool) -> Option<String> {
        let found: Vec<&str> = [&self.push, &self.report]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!found.is_empty()).then(|| {
            format!(
                "Your work is not handed in yet:\n\n{}\n\nMend this, {}and finish again. Everything that is \
                 already accepted stays accepted.\n",
                found.join("\n\n"),
                if only_reads { "" } else { "commit, " }
            )
        })
    }
}

/// A run's end without an engine that ran.
pub fn not_run(exit: EngineExit) -> RunEnd {
    RunEnd {
        exit,
        last_output: String::new(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    }
}

/// The end of a run that did not get as far as its engine: stopped, or for the
/// reason that `exit` gives.
pub fn before_engine(stopped: Option<Why>, exit: EngineExit) -> RunEnd {
    not_run(match stopped {
        Some(Why::Deadline) => EngineExit::Deadline,
        Some(Why::Disk) => EngineExit::OutOfDisk,
        // Nothing is wrong with the engine.
        Some(Why::Asked) => EngineExit::Stopped,
        None => exit,
    })
}

/// The end of a run whose work tree could not be prepared.
pub fn no_workspace(agent: &Agent, e: &dyn Error) -> RunEnd {
    crate::log(format_args!("{}", chain(e)));
    before_engine(agent.stop.now(), EngineExit::NoWorkspace(chain(e)))
}

/// The work tree, and the session of an engine that goes on in its own.
async fn prepare(
    agent: &Agent,
    task: &Task<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<(), Box<dyn Error>> {
    let (stop, target) = (&agent.stop, task.file.merge_target.as_ref());
    let checkpoint = match task.resume {
        Some(id) => Some(Checkpoint::fetch(workspace, id, stop).await?),
        None => None,
    };
    let checkpoint = checkpoint.as_ref();
    // What was handed in is on the branch.
    let work = checkpoint.filter(|_| !task.session_only);
    match task.branch {
        Some(branch) => workspace.branch(branch, work, target, stop).await?,
        None => {
            workspace
                .checkout(&["--detach", task.file.start.as_str()], stop)
                .await?
        }
    }
    if let Some(checkpoint) = checkpoint {
        let session = checkpoint.restore_session(agent.git(), &agent.places, task.launch);
        session.await?;
    }
    Ok(())
}

/// Runs the engine until its work is handed in, or cannot be.
pub async fn run(agent: &Agent, task: &Task<'_>) -> RunEnd {
    let mut workspace = Workspace::new(agent.git(), &task.file.start);
    if let Err(e) = prepare(agent, task, &mut workspace).await {
        return no_workspace(agent, e.as_ref());
    }
    match task.resume {
        None => crate::log(format_args!(
            "work tree ready: {} at {}",
            task.branch.unwrap_or("to read"),
            task.file.start.short()
        )),
        Some(checkpoint) => crate::log(format_args!(
            "work tree ready: {} from checkpoint {}",
            task.branch.unwrap_or("to read"),
            checkpoint.short()
        )),
    }
    let session_file = task.launch.session_file.as_deref();
    let mut checkpoints = Checkpoints::new(
        &workspace,
        task.file.run,
        task.branch,
        session_file.map(|file| session::Place::new(agent.places.at(file))),
        task.checkpoint_every,
    );
    let first = match brief(agent, task, &workspace) {
        Ok(brief) => turn(agent, task, &mut checkpoints, &task.launch.argv, &brief).await,
        Err(text) => Err(text),
    };
    let mut turn_done = match first {
        Ok(turn) => turn,
        Err(text) => {
            crate::log(format_args!("the engine did not start: {text}"));
            return before_engine(agent.stop.now(), EngineExit::NotStarted(text));
        }
    };

    let mut report = Report::default();
    let most = match task.role.only_reads() {
        true => REPORT_FOLLOW_UPS,
        false => FOLLOW_UPS,
    };
    let mut follow_ups = 0;
    let problems = loop {
        wait_for_room(agent).await;
        // First what is quick and cannot be refused for what is in it.
        if !turn_done.well() {
            checkpoints.make().await;
        }
        // A commit of what filled the disk would take as much once more.
        let leftovers = (agent.stop.now() != Some(Why::Disk)).then_some(task.leftover_subject);
        let problems = Problems {
            push: match task.branch {
                Some(branch) => workspace.hand_in(branch, leftovers).await.err(),
                None => None,
            },
            report: match report.hand_in(&agent.places, &agent.door).await {
                // It is all that such a run is for.
                Ok(()) if task.role.only_reads() && !report.is_accepted() => {
                    Some(report::missing(&agent.places))
                }
                handed_in => handed_in.err(),
            },
        };
        for problem in [&problems.push, &problems.report].into_iter().flatten() {
            crate::log(format_args!("not handed in: {problem}"));
        }
        let Some(text) = problems.follow_up(task.role.only_reads()) else {
            break problems;
        };
        // An engine that failed, or was ended, would only fail again.
        let goes_on = turn_done.well() && agent.stop.now().is_none() && follow_ups < most;
        let Some(argv) = task.launch.resume_argv.as_ref().filter(|_| goes_on) else {
            break problems;
        };
        follow_ups += 1;
        crate::log(format_args!("follow-up {follow_ups} of {most}"));
        match turn(agent, task, &mut checkpoints, argv, text.as_bytes()).await {
            Ok(mut next) => {
                if next.last_output.is_empty() {
                    next.last_output = turn_done.last_output;
                }
                turn_done = next;
            }
            Err(text) => {
                crate::log(format_args!("the engine could not be resumed: {text}"));
                break problems;
            }
        }
    };

    // What is not pushed is not lost either; and where another round comes, the engine
    // goes on in its session.
    if turn_done.well() && (problems.push.is_some() || session_file.is_some()) {
        checkpoints.make().await;
    }
    RunEnd {
        exit: match (turn_done.ended, turn_done.exit) {
            (Some(Ended::Stop(Why::Deadline)), _) => EngineExit::Deadline,
            (Some(Ended::Stop(Why::Disk)), _) => EngineExit::OutOfDisk,
            (Some(Ended::Stalled), _) => EngineExit::Stalled,
            // One that came to a good end in the same moment ended by itself.
            (_, Exit::Code(0)) => EngineExit::Code(0),
            (Some(Ended::Stop(Why::Asked)), _) => EngineExit::Stopped,
            (_, Exit::Code(code)) => EngineExit::Code(code),
            (_, Exit::Signal(signal)) => EngineExit::Signal(signal),
        },
        last_output: turn_done.last_output,
        stderr_tail: turn_done.stderr_tail,
        report_problem: problems.report,
        push_problem: problems.push,
    }
}

/// Waits while the disk below the work tree is full: nothing could be committed
/// or pushed. The gateway's repositories lie on the same one.
async fn wait_for_room(agent: &Agent) {
    /// Less than this, in bytes, is full.
    const ROOM: u64 = 1 << 20;
    let workspace = agent.places.workspace();
    let is_full = || {
        let disk = rustix::fs::statvfs(&workspace);
        disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM)
    };
    let mut back_off = BackOff::new();
    let mut said = false;
    while is_full() && agent.stop.now().is_none() {
        if !std::mem::replace(&mut said, true) {
            crate::log(format_args!(
                "the disk is full; the work is handed in once there is room"
            ));
        }
        tokio::select! {
            () = back_off.wait() => {}
            _ = agent.stop.wait() => {}
        }
    }
}

/// The brief, with a paragraph on a merge that conflicted; makes the engine's
/// directories and files.
fn brief(agent: &Agent, task: &Task<'_>, workspace: &Workspace<'_>) -> Result<Vec<u8>, String> {
    let at = |path: &std::path::Path, e: io::Error| format!("{}: {e}", path.display());
    for dir in &task.launch.dirs {
        let dir = agent.places.at(dir);
        std::fs::create_dir_all(&dir).map_err(|e| at(&dir, e))?;
    }
    for (file, text) in &task.launch.files {
        let file = agent.places.at(file);
        std::fs::write(&file, text).map_err(|e| at(&file, e))?;
    }
    let path = agent.places.brief();
    let mut brief = std::fs::read(&path).map_err(|e| at(&path, e))?;
    if !workspace.conflicts.is_empty() {
        crate::log(format_args!(
            "merging the target conflicts in {}",
            names(&workspace.conflicts)
        ));
        let paragraph = format!(
            "\n\n## A merge to finish first\n\nThe target branch moved on. Merging it into `{}` is in progress and \
             conflicts in {}. Solve the conflicts so that both sides keep their meaning, `git add` the files and \
             commit the merge; then do your task on top.\n",
            task.branch.unwrap_or_default(),
            names(&workspace.conflicts)
        );
        brief.extend_from_slice(paragraph.as_bytes());
    }
    for note in &workspace.notes {
        brief.extend_from_slice(format!("\n\n{note}\n").as_bytes());
    }
    Ok(brief)
}

/// Starts the engine once and hears it to its end.
async fn turn(
    agent: &Agent,
    task: &Task<'_>,
    checkpoints: &mut Checkpoints<'_>,
    argv: &[String],
    stdin: &[u8],
) -> Result<Turn, String> {
    if let Some(why) = agent.stop.now() {
        return Err(format!("{} before the engine started", why.as_str()));
    }
    let Some((program, arguments)) = argv.split_first() else {
        return Err("run.yaml names no program for the engine".to_owned());
    };
    let mut command = Command::new(agent.places.program(program));
    command
        .args(arguments)
        .current_dir(agent.places.workspace())
        .env_clear()
        .envs(agent.places.base_env())
        .envs(&task.launch.env)
        .env("FACTORY_BRIEF", agent.places.brief())
        .env("FACTORY_OUT", agent.places.out())
        .env("FACTORY_RUN", task.file.run.to_string())
        .env("FACTORY_ROLE", task.role.as_str());
    let (gone, writers_gone) = watch::channel(false);
    let started = || {
        let (stdout, stdout_end) = Output::new(writers_gone.clone())?;
        let (stderr, stderr_end) = Output::new(writers_gone)?;
        command
            .stdin(stdin_with(stdin)?)
            .stdout(stdout_end)
            .stderr(stderr_end);
        Ok((agent.processes.spawn(command)?, stdout, stderr))
    };
    let (mut running, mut stdout, mut stderr) =
        started().map_err(|e: io::Error| format!("`{program}`: {e}"))?;
    crate::log(format_args!("engine started: {program}"));

    let signs = Signs::default();
    let until = async {
        tokio::select! {
            biased;
            why = agent.stop.wait() => Ended::Stop(why),
            () = signs.missing(task.stall) => {
                crate::log(format_args!("no sign of life from the engine for {} s", task.stall.as_secs()));
                Ended::Stalled
            }
            never = checkpoints.keep() => match never {},
        }
    };
    let life = async {
        let ended = agent
            .processes
            .attend(&mut running, until, Ended::grace)
            .await;
        gone.send_replace(true);
        ended
    };
    let lines = async {
        let mut lines = Lines::default();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match stdout.read(&mut piece).await {
                0 => break,
                n => {
                    let whole = lines.take(&piece[..n]);
                    signs.heard(agent.events.lines(whole)).await;
                }
            }
        }
        agent.events.lines(lines.end()).await;
        lines.last()
    };
    let errors = async {
        let (mut lines, mut tail) = (Lines::default(), Tail::new(MAX_STDERR));
        let mut piece = vec![0; 16 * 1024];
        loop {
            match stderr.read(&mut piece).await {
                0 => break,
                n => {
                    tail.take(&piece[..n]);
                    let whole = lines.take(&piece[..n]);
                    signs.heard(agent.events.lines(whole)).await;
                }
            }
        }
        agent.events.lines(lines.end()).await;
        tail.text()
    };
    let ((exit, ended), last_output, stderr_tail) = tokio::join!(life, lines, errors);
    crate::log(format_args!("engine ended: {exit}"));
    Ok(Turn {
        exit,
        ended,
        last_output,
        stderr_tail,
    })
}
