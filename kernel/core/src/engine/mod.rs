//! Engines: the real CLIs that do a code run's work. One file each.
//!
//! To add one: a file here with its [`Engine`], named in [`ENGINES`], and the
//! script that fetches its program in `agent-images/recipes`.

mod claude;
mod codex;
mod command;
mod kind;
mod mini;

pub use kind::EngineKind;

use crate::{
    grant::WireApi, inbox::EngineExit, inbox::RunEnd, model::Run, text, wire::EngineLaunch,
};
use serde_json::Value;

/// All engines that the factory knows. The first one is the default.
pub static ENGINES: [&Engine; 3] = [&claude::ENGINE, &codex::ENGINE, &mini::ENGINE];

/// Everything that is particular to one engine.
pub struct Engine {
    /// Its name in `factory.yaml`.
    pub name: &'static str,
    /// What it speaks with its models.
    pub api: WireApi,
    /// The model it is told to use where none is given.
    pub model: &'static str,
    /// Whether it can go on in a session that a checkpoint saved.
    resumes: bool,
    /// Whether it can review without a shell: what it would run of a change could speak in
    /// its name.
    looks_only: bool,
    /// How it gets into an image.
    pub image: EngineImage,
    /// How it is started; the text is `system.md`.
    launch: fn(&Run, &str) -> EngineLaunch,
    /// What its end means, by its own last words.
    verdict: fn(&RunEnd) -> Verdict,
    /// One event of its output for people; none where it is no event of this
    /// engine, no lines where it says nothing to them.
    show: fn(&Value) -> Option<Vec<String>>,
}

/// How the program of an engine gets into an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineImage {
    /// What pip fetches, each with its version.
    pub requirements: &'static [&'static str],
    /// Distribution packages that the engine needs in the image.
    pub packages: &'static [&'static str],
    /// Shell commands that print, one a line, what a base with these packages
    /// lacks for the engine to work on it.
    pub lacks: &'static str,
    /// Shell script that puts the engine below `/engine`, as it is to be below `/`.
    pub fetch: &'static str,
    /// Program and arguments that tell the version.
    pub probe: &'static [&'static str],
    /// The version that it has to tell.
    pub version: &'static str,
}

/// What the end of an engine means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it could; what it pushed decides.
    Finished,
    /// It broke off; another run may go further.
    Failed {
        /// What happened.
        why: String,
    },
    /// The model provider refused; another run would be refused too.
    Refused {
        /// What happened and what to do.
        why: String,
    },
}

/// How the engine of a run is started, with `system.md` where it takes it from its
/// configuration; a run that resumes goes on with the session of the run before
/// it, where the engine can.
pub fn launch(run: &Run, system: &str) -> EngineLaunch {
    match &run.engine {
        EngineKind::Known(engine) => (engine.launch)(run, system),
        EngineKind::Command(argv) => command::launch(argv),
    }
}

/// True where the engine goes on in its old session: its system text stays what it was.
pub fn resumes_session(run: &Run) -> bool {
    run.resume
        .as_ref()
        .is_some_and(|resume| resume.session.as_ref() == Some(&run.session))
}

/// True where an engine can go on in a session that a checkpoint saved.
pub fn can_resume(engine: &EngineKind) -> bool {
    engine.known().is_some_and(|engine| engine.resumes)
}

/// True where a review by this engine may have run the code that it is about. Whoever names
/// a command of his own answers for what it runs.
pub fn may_run_the_change(engine: &EngineKind) -> bool {
    engine.known().is_some_and(|engine| !engine.looks_only)
}

/// An event of an engine's output as lines for people; as it is where no engine knows it.
pub fn show(event: &Value) -> Vec<String> {
    ENGINES
        .iter()
        .find_map(|engine| (engine.show)(event))
        .unwrap_or_else(|| vec![text::trimmed(&event.to_string(), LINE_LIMIT)])
}

/// What the end of a code run means, from the engine's last words first and
/// from its exit only where it has none.
pub fn verdict(run: &Run, end: &RunEnd) -> Verdict {
    if let Some(why) = refused_by_provider(run) {
        return Verdict::Refused { why };
    }
    match &end.exit {
        EngineExit::NotStarted(why) => {
            return Verdict::Refused {
                why: format!(
                    "The engine did not start: {why}. Mend the engine or the image (`factory image build`), then approve the issue again."
                ),
            };
        }
        EngineExit::NoWorkspace(why) => {
            return Verdict::Failed {
                why: format!("the workspace could not be prepared: {why}"),
            };
        }
        EngineExit::Stalled => {
            return Verdict::Failed {
                why: format!(
                    "the engine said nothing for longer than the limit of {}",
                    run.limits.stall
                ),
            };
        }
        EngineExit::OutOfDisk => {
            return Verdict::Failed {
                why: format!(
                    "its work tree took more of the disk than the limit of {} (limits.disk), with its ignored files and .git; write less, and remove what is not needed any more",
                    run.limits.disk
                ),
            };
        }
        EngineExit::Stopped => {
            return Verdict::Failed {
                why: "it was told to stop".to_owned(),
            };
        }
        EngineExit::Deadline => {
            return Verdict::Failed {
                why: format!("the run took longer than its limit of {}", run.limits.wall),
            };
        }
        EngineExit::Code(_) | EngineExit::Signal(_) => {}
    }
    match &run.engine {
        EngineKind::Known(engine) => (engine.verdict)(end),
        EngineKind::Command(_) => command::verdict(end),
    }
}

/// What to do where the last call of a model was refused for good.
fn refused_by_provider(run: &Run) -> Option<String> {
    let status = run.usage.last_status;
    let providers = run.grant.models.as_ref().map(|models| models.providers());
    let keys: Vec<String> = providers
        .into_iter()
        .flatten()
        .map(|provider| provider.key_env)
        .collect();
    let key = keys.join(" or ");
    let (reason, remedy) = match status {
        401 | 403 => (
            format!("there is no key in {key}, or the provider does not accept it"),
            format!(
                "Set {key} and start factory again, or change it in keys.env; then approve the issue again."
            ),
        ),
        402 => (
            format!("the account behind the key in {key} has no credit left"),
            "Pay in, or raise its limit, then approve the issue again.".to_owned(),
        ),
        _ => return None,
    };
    Some(format!(
        "The run's model calls were refused ({status}): {reason}. `factory run logs {}` shows its words. {remedy}",
        run.id
    ))
}

fn describe_exit(end: &RunEnd) -> String {
    let how = match &end.exit {
        EngineExit::Code(code) => format!("exit code {code}"),
        EngineExit::Signal(signal) => format!("signal {signal}"),
        EngineExit::Deadline => "its deadline".to_owned(),
        EngineExit::Stalled => "no sign of life".to_owned(),
        EngineExit::OutOfDisk => "more disk than its limit".to_owned(),
        EngineExit::Stopped => "told to stop".to_owned(),
        EngineExit::NotStarted(why) | EngineExit::NoWorkspace(why) => why.clone(),
    };
    let tail = end.stderr_tail.trim();
    if tail.is_empty() {
        how
    } else {
        format!("{how}: {tail}")
    }
}

/// Longest answer of a tool that is shown, in bytes.
const RESULT_LIMIT: usize = 600;
/// Longest call of a tool that is shown, in bytes.
const CALL_LIMIT: usize = 400;
/// Longest line of an engine we do not know that is shown, in bytes.
const LINE_LIMIT: usize = 4000;

/// A field's text; empty where it has none.
fn str_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A tool's call: its name and what it is about.
fn shown_call(tool: &str, about: &str) -> String {
    format!(
        "> {tool} {}",
        text::one_line(&text::trimmed(about, CALL_LIMIT))
    )
}

/// A tool's answer, its later lines below the text of the first.
fn shown_result(failed: bool, words: &str) -> String {
    let sign = if failed { "  failed: " } else { "  = " };
    let words = text::trimmed(words.trim(), RESULT_LIMIT);
    let words = words.replace('\n', &format!("\n{:width$}", "", width = sign.len()));
    format!("{sign}{words}")
}
