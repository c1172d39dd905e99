//! `factory job`.

use super::plan::observed;
use crate::{
    args::Job,
    clock,
    factory::Factory,
    failure::{Class, Failure},
    views::{self, archive, line, section, span, stamp, standing::StandingView},
    wait,
};
use factory_core::{
    config::Config,
    event::Command,
    ids::IssueNo,
    model::{self, Change, Checked, Purpose, Review},
    report::{self, PlanReport},
    route::Route,
    schedule,
};
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
    #[serde(flatten)]
    facts: Facts,
}

/// How a job's work is done, and what came of it so far, in JSON.
#[derive(Debug, Serialize)]
struct Facts {
    branch: String,
    pr: Option<u64>,
    /// Its tier, with the score and the reasons for it.
    route: Option<Route>,
    /// What its newest commit changes.
    change: Option<Change>,
    /// What its checks said.
    checked: Option<Checked>,
    /// What its newest review says.
    review: Option<Review>,
    /// The plan of its work.
    plan: Option<PlanReport>,
    /// One line per run.
    story: Vec<String>,
}

impl Facts {
    fn of(job: &model::Job) -> Self {
        Self {
            branch: job.branch.clone(),
            pr: job.pr.map(|pr| pr.0),
            route: job.route.clone(),
            change: job.change.clone(),
            checked: job.checked.clone(),
            review: job.review.clone(),
            plan: job.plan.as_deref().and_then(report::outgoing_plan),
            story: job.story.clone(),
        }
    }
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
            facts: Facts::of(job),
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
    let live = views(factory)?.remove(&number.0);
    let job = match factory.state.jobs.get(&number) {
        Some(job) => Some(job.clone()),
        None => archive::job(factory, number)?,
    };
    let Some(job) = job else {
        return Err(no_job(number));
    };
    if json {
        match live {
            Some(view) => views::print_json(&view)?,
            None => views::print_json(&Facts::of(&job))?,
        };
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = match &live {
        Some(view) => head(factory, &job, view),
        None => format!("job {number}: over\n"),
    };
    facts(&mut out, &factory.state.config.config, &job);
    views::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// Where a live job stands.
fn head(factory: &Factory, job: &model::Job, view: &JobView) -> String {
    let standing = &view.standing;
    let mut out = format!(
        "job {}: {}\n{}\n",
        job.issue,
        standing.title,
        line(&standing.text)
    );
    let front = if view.bumped { ", put in front" } else { "" };
    let age = span(clock::now().0 - job.since);
    let rows = [
        ("stage", view.stage.to_owned()),
        ("priority", format!("{}{front}", standing.priority)),
        ("since", format!("{} ({age})", clock::show(job.since))),
    ];
    for (name, value) in rows {
        field(&mut out, name, &value);
    }
    let issue = factory.state.issues.get(&job.issue);
    let depends: Vec<String> = issue
        .into_iter()
        .flat_map(|issue| issue.depends_on.iter().map(|on| format!("#{on}")))
        .collect();
    if !depends.is_empty() {
        field(&mut out, "depends", &depends.join(", "));
    }
    out
}

fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(&format!("{name:9} {}\n", line(value)));
}

/// How a job's work is done, and what came of it so far.
fn facts(out: &mut String, config: &Config, job: &model::Job) {
    field(out, "rounds", &job.rounds.to_string());
    if !job.branch.is_empty() {
        field(out, "branch", &job.branch);
    }
    if let Some(pr) = job.pr {
        field(out, "pr", &format!("{pr} (`factory pr show {pr}`)"));
    }
    if !job.spent.is_nothing() {
        field(out, "spent", &job.spent.to_string());
    }
    if let Some(route) = &job.route {
        field(
            out,
            "route",
            &format!("tier {} (score {})", route.tier, route.score),
        );
        for (purpose, name) in [
            (Purpose::Plan, "plan by"),
            (Purpose::Code, "code by"),
            (Purpose::Review, "review by"),
        ] {
            let by = match purpose {
                Purpose::Plan => config.planner_of(route.tier).is_some(),
                Purpose::Review => config.reviewer_of(route.tier).is_some(),
                _ => true,
            };
            let (engine, model) = config.worked(&purpose, route.tier);
            let who = match by {
                true => format!("{} {model}", engine.as_str()),
                false => "nobody".to_owned(),
            };
            field(out, name, who.trim());
        }
        section(out, "Why this tier:", &lines(&route.reasons));
    }
    if let Some(change) = &job.change {
        let what = format!("{}: {}", change.size(), change.places.join(", "));
        section(out, "What its newest commit changes:", &line(&what));
    }
    if let Some(plan) = job.plan.as_deref().and_then(report::outgoing_plan) {
        section(out, "The plan:", &plan.text());
    }
    if let Some(review) = &job.review {
        let heading = format!(
            "The newest review ({}, of {}) says {}, with confidence {}:",
            review.run,
            review.commit.short(),
            review.verdict,
            review.confidence
        );
        section(out, &heading, &review.summary);
    }
    section(out, "What happened so far:", &lines(&job.story));
}

fn lines(all: &[String]) -> String {
    let all: Vec<String> = all.iter().map(|l| line(l)).collect();
    all.join("\n")
}

fn no_job(number: IssueNo) -> Failure {
    Failure::new(Class::Refused, format!("issue {number} has no job"))
        .help("see the jobs with `factory job list`, all issues with `factory plan`")
}
