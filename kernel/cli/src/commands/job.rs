//! `factory job`.

use super::plan::observed;
use crate::{
    args::Job,
    clock,
    factory::Factory,
    failure::{Class, Failure},
    views::{self, line, section, span, stamp, standing::StandingView},
    wait,
};
use factory_core::{event::Command, ids::IssueNo, schedule};
use serde::Serialize;
use std::{collections::BTreeMap, process::ExitCode};

/// A job in JSON.
#[derive(Debug, Serialize)]
struct JobView {
    #[serde(flatten)]
    standing: StandingView,
    /// As in `factory issue list --json`.
    stage: &'static str,
    /// Since when it is in the queue, RFC 3339.
    since: String,
    /// Who holds it back.
    held_by: Option<String>,
    /// True where a person put it in front.
    bumped: bool,
    /// Code runs that came to an end of their own.
    rounds: u32,
    /// Issues that must be done before.
    depends_on: Vec<u64>,
    branch: String,
    pr: Option<u64>,
    /// One line per run.
    story: Vec<String>,
}

/// Does what is asked for.
pub fn run(factory: &mut Factory, command: Job) -> Result<ExitCode, Failure> {
    let (number, command, done): (IssueNo, fn(IssueNo) -> Command, &str) = match command {
        Job::List(json) => return list(factory, json.json),
        Job::Show { number, json } => return show(factory, number.parse()?, json.json),
        Job::Hold { number } => (
            number.parse()?,
            Command::Hold,
            "held: a run that lives goes on, as does a merge that is being tested, and nothing else begins until `factory job release`",
        ),
        Job::Release { number } => (number.parse()?, Command::Release, "released"),
        Job::Bump { number } => (number.parse()?, Command::Bump, "put in front of all others"),
        Job::Retry { number } => (number.parse()?, Command::Retry, "tried again now"),
        Job::Cancel { number } => (
            number.parse()?,
            Command::Cancel,
            "cancelled; its issue waits for your approval, its work stays on its branch",
        ),
    };
    if !factory.state.jobs.contains_key(&number) {
        return Err(no_job(number));
    }
    wait::order(factory, command(number))?;
    views::told(&format!("job {number} {done}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn views(factory: &Factory) -> Result<BTreeMap<u64, JobView>, Failure> {
    let state = &factory.state;
    let observed = observed(factory, wait::kernel(&factory.places)?);
    let standings = schedule::explain(state, &observed, clock::now());
    let views = state.jobs.values().filter_map(|job| {
        let (issue, standing) = (state.issues.get(&job.issue)?, standings.get(&job.issue)?);
        let view = JobView {
            standing: StandingView::new(issue, standing),
            stage: job.stage().kind().as_str(),
            since: stamp(job.since),
            held_by: job.held_by.as_deref().map(line),
            bumped: job.bumped.is_some(),
            rounds: job.rounds,
            depends_on: issue.depends_on.iter().map(|on| on.0).collect(),
            branch: job.branch.clone(),
            pr: job.pr.map(|pr| pr.0),
            story: job.story.clone(),
        };
        Some((job.issue.0, view))
    });
    Ok(views.collect())
}

fn list(factory: &Factory, json: bool) -> Result<ExitCode, Failure> {
    let mut jobs: Vec<JobView> = views(factory)?.into_values().collect();
    jobs.sort_by_key(|job| job.standing.rank());
    if json {
        views::print_json(&jobs)?;
        return Ok(ExitCode::SUCCESS);
    }
    if jobs.is_empty() {
        views::hint("no jobs; `factory issue approve N` makes one of an issue")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = jobs.iter().map(|job| job.standing.row()).collect();
    let heading = ["#", "PRIORITY", "STANDING", "TITLE"];
    views::print(&views::table(heading, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn show(factory: &Factory, number: IssueNo, json: bool) -> Result<ExitCode, Failure> {
    let Some(view) = views(factory)?.remove(&number.0) else {
        return Err(no_job(number));
    };
    if json {
        views::print_json(&view)?;
        return Ok(ExitCode::SUCCESS);
    }
    let since = factory.state.jobs.get(&number).map_or(0, |job| job.since);
    let standing = &view.standing;
    let mut out = format!(
        "job {number}: {}\n{}\n",
        standing.title,
        line(&standing.text)
    );
    let mut field = |name: &str, value: &str| {
        out.push_str(&format!("{name:9} {}\n", line(value)));
    };
    field("stage", view.stage);
    let front = if view.bumped { ", put in front" } else { "" };
    field("priority", &format!("{}{front}", standing.priority));
    let age = span(clock::now().0 - since);
    field("since", &format!("{} ({age})", clock::show(since)));
    field("rounds", &view.rounds.to_string());
    if !view.depends_on.is_empty() {
        let names: Vec<_> = view.depends_on.iter().map(|on| format!("#{on}")).collect();
        field("depends", &names.join(", "));
    }
    field("branch", &view.branch);
    if let Some(pr) = view.pr {
        field("pr", &format!("{pr} (`factory pr show {pr}`)"));
    }
    let story: Vec<String> = view.story.iter().map(|l| line(l)).collect();
    section(&mut out, "What happened so far:", &story.join("\n"));
    views::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn no_job(number: IssueNo) -> Failure {
    Failure::new(Class::Refused, format!("issue {number} has no job"))
        .help("see the jobs with `factory job list`, all issues with `factory plan`")
}
