//! Pid 1 of an agent container: starts the engine, forwards its door, reports its end.
//!
//! Without arguments it carries out `/run/factory/run.yaml`. Exit codes of a run
//! with an engine: 0 after its end was accepted, 3 when the gateway refuses it,
//! 4 when it could not be told. Of a check run, as its verdict: 0 passed,
//! 1 failed, 124 out of time, 125 not run, 143 told to stop. 125 also when
//! `run.yaml` cannot be used at all.

mod checkpoint;
mod checks;
mod disk;
mod door;
mod engine;
mod events;
mod forward;
mod git;
mod look;
mod mcp;
mod output;
mod places;
mod probe;
mod processes;
mod report;
mod resume;
mod session;
mod status;
mod stop;
mod workspace;

use door::{Door, HOLD, HelloError};
use events::Events;
use factory_core::{
    inbox::{EngineExit, RunEnd},
    text,
    wire::{PATH_END, PROTOCOL, RunFile, RunTask},
};
use hyper::{Method, StatusCode};
use places::Places;
use processes::Processes;
use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};
use stop::{Stop, Why};
use tokio::task::JoinSet;

/// How long the end of a run with an engine is offered to the gateway.
const END_LIMIT: Duration = Duration::from_secs(900);
/// The same where the exit code already says what matters.
const CHECK_END_LIMIT: Duration = Duration::from_secs(60);

/// One line on standard error, which ends up in the container's log.
fn log(line: fmt::Arguments<'_>) {
    let mut out = io::stderr().lock();
    // There is no other place to say that this place is gone.
    let line = text::shown(&line.to_string());
    if writeln!(out, "factory-agent: {line}").is_err() {}
}

/// An error with all its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

/// What every part of a run works with.
#[derive(Debug)]
struct Agent {
    places: Places,
    processes: Processes,
    door: Door,
    events: Events,
    stop: Stop,
}

impl Agent {
    fn git(&self) -> git::Git<'_> {
        git::Git {
            processes: &self.processes,
            places: &self.places,
        }
    }
}

/// What the agent's exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// All is well.
    Done,
    /// A check failed, with whatever code.
    Failed,
    /// The gateway refuses the end of the run.
    Refused,
    /// The end of the run could not be told.
    Untold,
    /// Out of time.
    Deadline,
    /// Nothing could be run.
    NotRun,
    /// SIGTERM.
    Asked,
}

impl From<Why> for Verdict {
    fn from(why: Why) -> Self {
        match why {
            Why::Deadline => Verdict::Deadline,
            // It is the code under test that fills the disk.
            Why::Disk => Verdict::Failed,
            Why::Asked => Verdict::Asked,
        }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        ExitCode::from(match verdict {
            Verdict::Done => 0u8,
            Verdict::Failed => 1,
            Verdict::Refused => 3,
            Verdict::Untold => 4,
            Verdict::Deadline => 124,
            Verdict::NotRun => 125,
            Verdict::Asked => 143,
        })
    }
}

/// `run.yaml` cannot be used.
#[derive(Debug, thiserror::Error)]
enum RunFileError {
    #[error("{path} cannot be read")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "run.yaml speaks protocol {found}, this agent {PROTOCOL}; build the image again with `factory image build`"
    )]
    Protocol { found: u32 },
    #[error("run.yaml cannot be understood")]
    Malformed(#[source] Box<serde_saphyr::Error>),
}

fn read_run_file(places: &Places) -> Result<RunFile, RunFileError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        protocol: u32,
    }
    let path = places.run_file();
    let text = std::fs::read_to_string(&path).map_err(|source| RunFileError::Unreadable {
        path: path.display().to_string(),
        source,
    })?;
    let malformed = |e| RunFileError::Malformed(Box::new(e));
    // The version first: another version's file need not be readable.
    match serde_saphyr::from_str::<Versioned>(&text).map_err(malformed)? {
        Versioned { protocol: PROTOCOL } => serde_saphyr::from_str(&text).map_err(malformed),
        Versioned { protocol: found } => Err(RunFileError::Protocol { found }),
    }
}

fn main() -> ExitCode {
    // Code under the same uid must not read or steer the process that speaks
    // the verdict.
    if let Err(e) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        log(format_args!("cannot be shielded from other processes: {e}"));
    }
    let places = Places::from_env();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments
        .iter()
        .map(|a| a.to_str().unwrap_or("?"))
        .collect();
    let mode = match arguments[..] {
        [] => Mode::Run,
        ["probe"] => Mode::Probe,
        ["mcp"] => Mode::Mcp,
        ["report"] => return leave_report(&places, None),
        ["report", file] => return leave_report(&places, Some(Path::new(file))),
        _ => {
            log(format_args!(
                "usage: factory-agent [probe | report [FILE] | mcp]"
            ));
            return ExitCode::from(2);
        }
    };
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| match mode {
            Mode::Mcp => runtime.block_on(serve_mcp(places)),
            Mode::Run | Mode::Probe => runtime.block_on(supervise(places, mode)),
        });
    match ended {
        Ok(verdict) => verdict.into(),
        Err(e) => {
            log(format_args!("cannot run: {e}"));
            Verdict::NotRun.into()
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Run,
    Probe,
    Mcp,
}

async fn serve_mcp(places: Places) -> io::Result<Verdict> {
    let file = read_run_file(&places).map_err(io::Error::other)?;
    mcp::serve(places, file).await?;
    Ok(Verdict::Done)
}

fn leave_report(places: &Places, file: Option<&Path>) -> ExitCode {
    // Outside of a run there is no role.
    let role = read_run_file(places).ok().and_then(|file| file.role());
    match report::leave(places, role, file) {
        Ok(path) => {
            log(format_args!(
                "report written to {}; it is handed in when you finish",
                path.display()
            ));
            ExitCode::SUCCESS
        }
        Err(e) => {
            log(format_args!("{}", chain(&e)));
            ExitCode::FAILURE
        }
    }
}

/// Runs the work beside the duties of pid 1; ends when the work ends.
async fn supervise(places: Places, mode: Mode) -> io::Result<Verdict> {
    let processes = Processes::default();
    let (stopper, stop) = stop::pair();
    let signals = stopper.signals()?;
    let reaper = processes.reaper()?;
    let door = Door::new(places.socket());
    let mut tasks = JoinSet::new();
    let events = Events::start(door.clone(), &mut tasks);
    let agent = Agent {
        places,
        processes,
        door,
        events,
        stop,
    };

    let work = async {
        match mode {
            Mode::Probe => probed(&agent).await,
            Mode::Run | Mode::Mcp => match read_run_file(&agent.places) {
                Ok(file) => {
                    log(format_args!("run {}, {} s", file.run, file.wall_seconds));
                    let wall = Duration::from_secs(file.wall_seconds);
                    let places = agent.places.clone();
                    tokio::select! {
                        biased;
                        verdict = run(agent, tasks, &file) => verdict,
                        never = stopper.deadline(wall) => match never {},
                        never = disk::watch(&places, file.disk_bytes, &stopper) => match never {},
                    }
                }
                Err(e) => {
                    log(format_args!("{}", chain(&e)));
                    let end = engine::not_run(EngineExit::NoWorkspace(chain(&e)));
                    tell_end(&agent.door, &end, CHECK_END_LIMIT).await;
                    Verdict::NotRun
                }
            },
        }
    };
    Ok(tokio::select! {
        biased;
        verdict = work => verdict,
        never = signals => match never {},
        never = reaper => match never {},
    })
}

async fn probed(agent: &Agent) -> Verdict {
    let seen = probe::run(agent).await;
    let written = serde_json::to_string(&seen)
        .map_err(io::Error::from)
        .and_then(|line| writeln!(io::stdout(), "{line}"));
    match written {
        Ok(()) if seen.problems.is_empty() => Verdict::Done,
        Ok(()) => Verdict::Failed,
        Err(e) => {
            log(format_args!("cannot say what the probe saw: {e}"));
            Verdict::NotRun
        }
    }
}

/// Carries out `file` behind an open door, and tells its end.
async fn run(agent: Agent, tasks: JoinSet<()>, file: &RunFile) -> Verdict {
    let door = agent.door.clone();
    let listener = match forward::bind().await {
        Ok(listener) => listener,
        Err(e) => {
            let text = format!("the door's port in the container cannot be had: {e}");
            log(format_args!("{text}"));
            tell_end(
                &door,
                &engine::not_run(EngineExit::NotStarted(text)),
                CHECK_END_LIMIT,
            )
            .await;
            return Verdict::NotRun;
        }
    };
    tokio::select! {
        biased;
        verdict = carried_out(agent, tasks, file) => verdict,
        never = forward::serve(listener, door.socket().to_owned()) => match never {},
    }
}

async fn carried_out(agent: Agent, mut tasks: JoinSet<()>, file: &RunFile) -> Verdict {
    let (end, verdict, limit) = match &file.task {
        RunTask::Engine {
            role,
            branch,
            engine,
            stall_seconds,
            checkpoint_seconds,
            resume,
            session_only,
            leftover_subject,
        } => {
            let task = engine::Task {
                file,
                role: *role,
                branch: branch.as_deref(),
                launch: engine,
                stall: Duration::from_secs(*stall_seconds),
                checkpoint_every: Duration::from_secs(*checkpoint_seconds),
                resume: resume.as_ref(),
                session_only: *session_only,
                leftover_subject,
            };
            let greeted = tokio::select! {
                hello = agent.door.hello(HOLD) => hello.err().map(|e| match e {
                    HelloError::Away(_) => EngineExit::NoWorkspace(chain(&e)),
                    HelloError::Strange { .. } | HelloError::Protocol { .. } => EngineExit::NotStarted(chain(&e)),
                }),
                why = agent.stop.wait() => Some(EngineExit::NotStarted(why.as_str().to_owned())),
            };
            let end = match greeted {
                None => engine::run(&agent, &task).await,
                Some(exit) => engine::before_engine(agent.stop.now(), exit),
            };
            (end, None, END_LIMIT)
        }
        RunTask::Checks { commands } => {
            let (end, verdict) = checks::run(&agent, file, commands).await;
            (end, Some(verdict), CHECK_END_LIMIT)
        }
    };
    // The transcript first: after the end the gateway takes nothing more.
    let door = agent.door.clone();
    drop(agent);
    if tokio::time::timeout(limit, async { while tasks.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        log(format_args!("events: a part is lost, the gateway is away"));
    }
    let told = tell_end(&door, &end, limit).await;
    verdict.unwrap_or(told)
}

/// Tells the end until it is durable.
async fn tell_end(door: &Door, end: &RunEnd, limit: Duration) -> Verdict {
    let body = match serde_json::to_vec(end) {
        Ok(body) => body,
        Err(e) => {
            log(format_args!("end: {e}"));
            return Verdict::Untold;
        }
    };
    match door.ask(Method::POST, PATH_END, body.into(), limit).await {
        Ok(answer) if answer.status.is_success() => {
            log(format_args!("end accepted"));
            Verdict::Done
        }
        Ok(answer) => {
            let said = output::text(&answer.body, 400);
            log(format_args!("end refused ({}): {said}", answer.status));
            if answer.status == StatusCode::FORBIDDEN {
                Verdict::Refused
            } else {
                Verdict::Untold
            }
        }
        Err(e) => {
            log(format_args!("the end could not be told: {}", chain(&e)));
            Verdict::Untold
        }
    }
}
