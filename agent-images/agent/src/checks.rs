//! A run without a model: the repository's checks, in order, until one fails.

use crate::{
    Agent, Verdict,
    engine::{no_workspace, not_run},
    output::{Lines, Trimmed},
    processes::{Exit, Output},
    stop::Why,
    workspace::Workspace,
};
use factory_core::{
    inbox::{EngineExit, RunEnd},
    wire::RunFile,
};
use std::{
    io,
    process::{Command, Stdio},
};
use tokio::sync::watch;

/// How much of a command's text is repeated beside its output.
const MAX_COMMAND: usize = 400;

/// Runs the checks. The verdict is the agent's exit code; the end carries output only.
pub async fn run(agent: &Agent, file: &RunFile, commands: &[String]) -> (RunEnd, Verdict) {
    let workspace = Workspace::new(agent.git(), &file.start);
    if let Err(e) = workspace.detached(&agent.stop).await {
        let why = agent.stop.now();
        let mut end = no_workspace(agent, &e);
        end.last_output = why.map(before).unwrap_or_default();
        return (end, why.map_or(Verdict::NotRun, Verdict::from));
    }
    crate::log(format_args!("work tree ready at {}", file.start.short()));
    let mut end = not_run(EngineExit::Code(0));
    for command in commands {
        if let Some(why) = agent.stop.now() {
            end.exit = stopped_exit(why, Exit::Code(0));
            end.last_output = before(why);
            return (end, why.into());
        }
        let (exit, why, output) = match check(agent, command).await {
            Ok(done) => done,
            Err(e) => {
                crate::log(format_args!("sh: {e}"));
                end.exit = EngineExit::NotStarted(format!("`sh` cannot be started: {e}"));
                return (end, Verdict::NotRun);
            }
        };
        let shown = crate::output::text(command.as_bytes(), MAX_COMMAND);
        let how = why.map_or_else(|| exit.to_string(), |why| why.as_str().to_owned());
        crate::log(format_args!("check `{shown}`: {how}"));
        end.last_output = format!("$ {shown}\n{output}\n[{how}]");
        if let Some(why) = why {
            end.exit = stopped_exit(why, exit);
            return (end, why.into());
        }
        end.exit = plain_exit(exit);
        if exit != Exit::Code(0) {
            return (end, Verdict::Failed);
        }
    }
    (end, Verdict::Done)
}

/// What is said where no check ran, or none was running.
fn before(why: Why) -> String {
    format!("[{}]", why.as_str())
}

fn plain_exit(exit: Exit) -> EngineExit {
    match exit {
        Exit::Code(code) => EngineExit::Code(code),
        Exit::Signal(signal) => EngineExit::Signal(signal),
    }
}

fn stopped_exit(why: Why, exit: Exit) -> EngineExit {
    match why {
        Why::Deadline => EngineExit::Deadline,
        Why::Disk => EngineExit::OutOfDisk,
        Why::Asked => plain_exit(exit),
    }
}

/// One command, with both its outputs in the order in which they were written.
async fn check(agent: &Agent, text: &str) -> io::Result<(Exit, Option<Why>, String)> {
    let mut command = Command::new("sh");
    command
        .args(["-c", text])
        .current_dir(agent.places.workspace())
        .env_clear()
        .envs(agent.places.base_env());
    let (gone, writers_gone) = watch::channel(false);
    let (mut output, end) = Output::new(writers_gone)?;
    command
        .stdin(Stdio::null())
        .stdout(end.try_clone()?)
        .stderr(end);
    let mut running = agent.processes.spawn(command)?;

    let life = async {
        let ended = agent
            .processes
            .attend(&mut running, agent.stop.wait(), |why| why.grace())
            .await;
        gone.send_replace(true);
        ended
    };
    let heard = async {
        let (mut lines, mut kept) = (Lines::default(), Trimmed::new());
        let mut piece = vec![0; 64 * 1024];
        loop {
            match output.read(&mut piece).await {
                0 => break,
                n => {
                    kept.take(&piece[..n]);
                    agent.events.lines(lines.take(&piece[..n])).await;
                }
            }
        }
        agent.events.lines(lines.end()).await;
        kept.text()
    };
    let ((exit, why), output) = tokio::join!(life, heard);
    Ok((exit, why, output))
}
