//! `init --try`: the checks once, in a container like that of any check, so that
//! a red start is seen before an agent works.

use crate::{
    failure::{Class, Failure},
    kernel::blocking,
    room::{self, Guest, Room, Said, Subject},
    views,
};
use factory_core::{
    brief::{self, AGENT_EMAIL, AGENT_NAME},
    ids::{IssueNo, Oid, RunId},
    inbox::{EngineExit, RunEnd},
    wire::{DOOR_PORT, PATH_GIT},
};
use factory_ledger::{
    base::BaseRepo,
    merge::Author,
    user::UserRepo,
    workspace::{self, Workspace},
};
use factory_runtime::{Exit, Runtime};
use std::{cell::RefCell, fmt, fs::File, time::Duration};

/// Issues count from 1, so no run of a job is called like this.
const RUN: RunId = RunId {
    job: IssueNo(0),
    k: 2,
};
/// Name of its directories; no run's.
const NAME: &str = "try";
/// Beyond the checks' own limit: start, preparation and end, with a busy engine.
const AROUND: Duration = Duration::from_secs(180);

/// How the checks ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All passed.
    Green,
    /// One did not; with the words for it.
    Red(String),
    /// The user gave up.
    Interrupted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Green => f.write_str("green: all checks passed"),
            Verdict::Red(why) => write!(f, "red: {why}"),
            Verdict::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// Runs `checks` at the tip of `target`, and shows what they print. Nothing is left of it.
pub async fn run(
    runtime: &impl Runtime,
    user: &UserRepo,
    target: &str,
    checks: &[String],
    subject: &Subject<'_>,
    interrupt: impl Future<Output = ()>,
) -> Result<Verdict, Failure> {
    // One at a time in this factory: the names are always the same.
    let lock = File::create(subject.places.cache().join("try.lock"))?;
    lock.lock()?;
    let base = BaseRepo::init(subject.places.base_git())?;
    let start = base.fetch_target(user, target)?;
    let wall = Duration::from_secs(subject.limits.wall.0);
    let room = Room::of(subject, guest(start, checks, wall));
    room.clear(runtime).await?;
    let end = RefCell::new(None);
    let work = async {
        make_workspace(&base, &room).await?;
        let listener = room.make()?;
        let run_yaml = serde_saphyr::to_string(&brief::run_file(&room.run, "", ""));
        room.file(
            "run.yaml",
            &run_yaml.map_err(|e| Failure::of(Class::Internal, e))?,
        )?;
        let heard = |said| match said {
            Said::Output(bytes) => show(&bytes),
            Said::End(said) => {
                end.replace(Some(*said));
            }
        };
        tokio::select! {
            answering = room::answer(&listener, RUN, heard) => Err(Failure::of(Class::Internal, answering)),
            lived = tokio::time::timeout(wall + AROUND, room.live(runtime)) => match lived {
                Ok(lived) => Ok(lived?),
                Err(_) => Err(Failure::new(
                    Class::Engine,
                    format!("the container did not end within {} s", (wall + AROUND).as_secs()),
                )
                .help("see `docker ps` and the engine's log")),
            },
        }
    };
    let result = tokio::select! {
        lived = work => lived.map(Some),
        () = interrupt => Ok(None),
    };
    let removed = runtime.remove(&room.spec.name).await;
    let gone = room.remove();
    // Why it failed says more than what could not be removed after it.
    let lived = result?;
    removed?;
    gone?;
    match lived {
        Some((exit, printed)) => judge(&exit, end.into_inner().as_ref(), &printed),
        None => Ok(Verdict::Interrupted),
    }
}

fn guest(start: Oid, checks: &[String], wall: Duration) -> Guest {
    Guest {
        name: NAME,
        id: RUN,
        start,
        checks: checks.to_vec(),
        wall_seconds: wall.as_secs(),
    }
}

async fn make_workspace(base: &BaseRepo, room: &Room) -> Result<(), Failure> {
    let (base, dir) = (base.clone(), room.workspace.clone());
    let (uid, gid) = (room.host.uid, room.host.gid);
    blocking(move || {
        let wanted = Workspace {
            dir: &dir,
            uid,
            gid,
            remote_url: &format!("http://127.0.0.1:{DOOR_PORT}{PATH_GIT}"),
            branch: None,
            author: &Author {
                name: AGENT_NAME.to_owned(),
                email: AGENT_EMAIL.to_owned(),
            },
        };
        Ok(workspace::create(&base, &wanted)?)
    })
    .await
}

fn show(output: &[u8]) {
    if let Err(error) = views::print(&String::from_utf8_lossy(output)) {
        tracing::debug!(%error, "output cannot be shown");
    }
}

/// The verdict is the exit code of pid 1, as for every check.
fn judge(exit: &Exit, end: Option<&RunEnd>, printed: &str) -> Result<Verdict, Failure> {
    let command = end.and_then(|end| {
        let first = end.last_output.lines().next()?;
        first.strip_prefix("$ ")
    });
    let command = command.map_or("a check".to_owned(), |command| format!("`{command}`"));
    let how = match end.map(|end| &end.exit) {
        Some(EngineExit::Code(code)) => format!("ended with exit code {code}"),
        Some(EngineExit::Signal(signal)) => format!("was ended by signal {signal}"),
        _ => "did not pass".to_owned(),
    };
    Ok(match exit.code {
        0 => Verdict::Green,
        1 | 137 if exit.oom_killed => {
            Verdict::Red(format!("{command} ran out of memory (limits.memory)"))
        }
        1 => Verdict::Red(format!("{command} {how}")),
        124 => Verdict::Red(format!("{command} took longer than limits.wall")),
        code => {
            return Err(Failure::new(
                Class::Engine,
                format!(
                    "the checks could not be run (exit code {code}): {}",
                    printed.trim()
                ),
            )
            .help("`factory doctor` looks for the cause"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_verdict() {
        let exit = |code, oom_killed| Exit {
            code,
            oom_killed,
            started: jiff::Timestamp::UNIX_EPOCH,
            finished: jiff::Timestamp::UNIX_EPOCH,
        };
        let end = RunEnd {
            exit: EngineExit::Code(2),
            last_output: "$ make test\nx\n[exit code 2]".to_owned(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        };
        let said = |exit: Exit, end| judge(&exit, end, "").unwrap().to_string();
        assert_eq!(said(exit(0, false), Some(&end)), "green: all checks passed");
        let red = said(exit(1, false), Some(&end));
        assert_eq!(red, "red: `make test` ended with exit code 2");
        assert!(said(exit(1, true), Some(&end)).contains("limits.memory"));
        assert!(said(exit(137, true), None).contains("a check ran out of memory"));
        assert!(said(exit(124, false), Some(&end)).contains("limits.wall"));
        let failed = judge(&exit(125, false), None, "no work tree\n").unwrap_err();
        assert_eq!(failed.class(), Class::Engine);
        assert!(failed.chain().contains("exit code 125): no work tree"));
    }
}
