//! Runs as they are shown.

use super::{count, line, section, span, stamp};
use crate::clock;
use factory_core::{
    budget::Spent,
    event::Now,
    exit::ExitClass,
    inbox::EngineExit,
    model::{Purpose, Run, RunState},
    report::{self, CodeReport, Draft},
    text,
};
use serde::Serialize;

/// Longest output of a run that `show` prints, in bytes.
const OUTPUT_LIMIT: usize = 4 << 10;

/// A run in JSON.
#[derive(Debug, Serialize)]
pub struct RunView {
    /// Its name, `r<issue>-<k>`.
    pub run: String,
    /// The issue whose job it belongs to.
    pub issue: u64,
    /// `code`, `check` or `merge-test`.
    pub purpose: &'static str,
    /// The pull request whose merge it tests.
    pub pr: Option<u64>,
    /// `starting`, `running` or `ended`.
    pub state: &'static str,
    /// How it ended: `ok`, `engine error`, `refused`, `out of memory`,
    /// `timed out`, `stalled`, `out of disk`, `over budget`, `killed` or `lost`.
    pub class: Option<&'static str>,
    /// What came of it, once it ended.
    pub outcome: Option<String>,
    /// The run whose work in progress it went on with.
    pub resumes: Option<String>,
    /// Its newest checkpoint.
    pub checkpoint: Option<String>,
    /// Slot number from 0.
    pub slot: u32,
    /// When it was granted, RFC 3339.
    pub created: String,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// Container name.
    pub container: String,
    /// Image id.
    pub image: String,
    /// `claude` or `command`; none for checks.
    pub engine: Option<&'static str>,
    /// Model passed to the engine; none for checks and commands.
    pub model: Option<String>,
    /// Commit it started from.
    pub start: String,
    /// Branch it may push; none for checks.
    pub branch: Option<String>,
    /// Newest commit it pushed.
    pub pushed: Option<String>,
    /// Its model calls.
    pub usage: UsageView,
    /// What it said of its work.
    pub summary: Option<String>,
    /// Issues that it asked for.
    pub issues: Vec<Draft>,
    /// What it wrote on its own issue.
    pub comments: Vec<String>,
    /// How its engine, or its last check command, ended.
    pub exit: Option<String>,
    /// The last it wrote to standard output.
    pub last_output: Option<String>,
    /// The last it wrote to standard error.
    pub stderr: Option<String>,
    /// Why its last push was refused.
    pub push_problem: Option<String>,
    /// What is wrong with its report.
    pub report_problem: Option<String>,
}

/// Sum over model calls in JSON.
#[derive(Debug, Default, Serialize)]
pub struct UsageView {
    /// Calls.
    pub calls: u64,
    /// Input tokens, caches included.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Millionths of a US dollar, by the price table; 0 where the price is not known.
    pub micro_usd: u64,
}

impl UsageView {
    /// The sum over several runs.
    pub fn sum<'a>(runs: impl Iterator<Item = &'a Run>) -> Self {
        runs.fold(Self::default(), |sum, run| Self {
            calls: sum.calls.saturating_add(run.usage.calls),
            input_tokens: sum.input_tokens.saturating_add(run.usage.input_tokens),
            output_tokens: sum.output_tokens.saturating_add(run.usage.output_tokens),
            micro_usd: sum.micro_usd.saturating_add(run.spent.micro_usd),
        })
    }

    /// For people.
    pub fn show(&self) -> String {
        let spent = Spent {
            micro_usd: self.micro_usd,
            tokens: 0,
        };
        let cost = match self.micro_usd {
            0 => String::new(),
            _ => format!(", about {spent}"),
        };
        format!(
            "{}, {} in, {} out{cost}",
            count(self.calls, "model call"),
            count(self.input_tokens, "token"),
            count(self.output_tokens, "token"),
        )
    }
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        let (state, ended) = match &run.state {
            RunState::Starting => ("starting", None),
            RunState::Running { .. } => ("running", None),
            RunState::Ended { at, class, outcome } => {
                ("ended", Some((*at, *class, outcome.clone())))
            }
        };
        let (ended, class, outcome) = match ended {
            Some((at, class, outcome)) => (Some(stamp(at)), Some(class.as_str()), Some(outcome)),
            None => (None, None, None),
        };
        let (purpose, pr) = match &run.purpose {
            Purpose::Split => ("split", None),
            Purpose::Plan => ("plan", None),
            Purpose::Code => ("code", None),
            Purpose::Review => ("review", None),
            Purpose::Verify => ("verify", None),
            Purpose::Check => ("check", None),
            Purpose::MergeTest { pr } => ("merge-test", Some(pr.0)),
        };
        let engine = match &run.purpose {
            Purpose::Check | Purpose::MergeTest { .. } => None,
            Purpose::Split | Purpose::Plan | Purpose::Code | Purpose::Review | Purpose::Verify => {
                Some(run.engine.as_str())
            }
        };
        let end = run.end.as_ref();
        let report = run.report.as_deref();
        let filed = report.and_then(report::parse);
        let summary = filed.as_ref().map(CodeReport::text);
        let (issues, comments) = filed.map_or_else(Default::default, |r| (r.issues, r.comments));
        Self {
            run: run.id.to_string(),
            issue: run.id.job.0,
            purpose,
            pr,
            state,
            class,
            outcome,
            resumes: run.resume.as_ref().map(|resume| resume.run.to_string()),
            checkpoint: run.checkpoint.as_ref().map(ToString::to_string),
            slot: run.slot,
            created: stamp(run.created),
            ended,
            container: run.container.clone(),
            image: run.image.clone(),
            engine,
            model: (engine.is_some() && run.engine.known().is_some()).then(|| run.model.clone()),
            start: run.grant.start.to_string(),
            branch: run.grant.branch.clone(),
            pushed: run.pushed.as_ref().map(ToString::to_string),
            usage: UsageView::sum(std::iter::once(run)),
            summary,
            issues,
            comments,
            exit: end.map(|end| exit(&end.exit)),
            last_output: end.map(|end| end.last_output.clone()),
            stderr: end.map(|end| end.stderr_tail.clone()),
            push_problem: end.and_then(|end| end.push_problem.clone()),
            report_problem: end.and_then(|end| end.report_problem.clone()),
        }
    }
}

fn exit(exit: &EngineExit) -> String {
    match exit {
        EngineExit::Code(code) => format!("exit code {code}"),
        EngineExit::Signal(signal) => format!("ended by signal {signal}"),
        EngineExit::Deadline => "ended at its deadline".to_owned(),
        EngineExit::Stalled => "ended for want of a sign of life".to_owned(),
        EngineExit::OutOfDisk => "ended beyond its limit of disk".to_owned(),
        EngineExit::Stopped => "told to stop".to_owned(),
        EngineExit::NotStarted(why) => format!("never started: {why}"),
        EngineExit::NoWorkspace(why) => format!("had no workspace: {why}"),
    }
}

/// What a run is for, in words.
pub fn purpose(run: &Run) -> String {
    match &run.purpose {
        Purpose::Split => "split".to_owned(),
        Purpose::Plan => "plan".to_owned(),
        Purpose::Code => "code".to_owned(),
        Purpose::Review => "review".to_owned(),
        Purpose::Verify => "verify".to_owned(),
        Purpose::Check => "check".to_owned(),
        Purpose::MergeTest { pr } => format!("merge test of pr {pr}"),
    }
}

/// Where a run stands, in words.
pub fn standing(run: &Run, now: Now) -> String {
    match &run.state {
        RunState::Starting => format!("starting, {}", span(now.0 - run.created)),
        RunState::Running { since } => format!("running, {}", span(now.0 - since)),
        RunState::Ended { class, outcome, .. } => match class {
            ExitClass::Ok => format!("ended: {}", line(outcome)),
            class => format!("ended, {class}: {}", line(outcome)),
        },
    }
}

/// A run for people.
pub fn show(run: &Run, now: Now) -> String {
    let view = RunView::from(run);
    let mut out = format!(
        "run {}: {} for issue {}\n{}\n",
        run.id,
        purpose(run),
        run.id.job,
        standing(run, now)
    );
    let mut field = |name: &str, value: String| {
        out.push_str(&format!("{name:10} {}\n", line(&value)));
    };
    field("granted", clock::show(run.created));
    if let RunState::Ended { at, .. } = &run.state {
        field("ended", clock::show(*at));
    }
    field("slot", run.slot.to_string());
    field("container", view.container);
    field("image", view.image);
    match (view.engine, view.model) {
        (Some(engine), Some(model)) => field("engine", format!("{engine} ({model})")),
        (Some(engine), None) => field("engine", engine.to_owned()),
        (None, _) => field("checks", run.checks.join("; ")),
    }
    field("start", view.start);
    if let Some(branch) = view.branch {
        field("branch", branch);
    }
    if let Some(pushed) = view.pushed {
        field("pushed", pushed);
    }
    if run.usage.calls > 0 {
        field("usage", view.usage.show());
    }
    if let Some(exit) = view.exit {
        field("process", exit);
    }
    let sections = [
        ("It was told of the run before it:", run.feedback.clone()),
        ("What it said of its work:", view.summary),
        ("Its report could not be read:", view.report_problem),
        ("Its last push was refused:", view.push_problem),
        ("The last it wrote:", view.last_output),
        ("The last it wrote to standard error:", view.stderr),
    ];
    for (heading, words) in sections {
        let words = words.unwrap_or_default();
        section(&mut out, heading, &text::trimmed(&words, OUTPUT_LIMIT));
    }
    for draft in &view.issues {
        let heading = format!("It asked for the issue “{}”:", line(&draft.title));
        section(&mut out, &heading, &draft.body);
    }
    for comment in &view.comments {
        section(&mut out, "It wrote on its issue:", comment);
    }
    out.push_str(&format!(
        "\n`factory run logs {}` shows what it said and did\n",
        run.id
    ));
    out
}
