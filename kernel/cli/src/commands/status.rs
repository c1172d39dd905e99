//! `factory status`: what goes on now, and what waits for a person.

use crate::{
    clock,
    commands::image,
    disk::{self, Disk},
    factory::Factory,
    failure::Failure,
    views::{
        self,
        draft::DraftsView,
        line,
        pr::{checks, word},
        run::{UsageView, purpose, standing},
        span, stamp,
    },
    wait,
};
use factory_core::{
    config::Slots,
    container::ContainerSpec,
    event::Now,
    ids::{Epoch, IssueNo},
    model::{IssueState, Job, PrState, Run, Stage},
    schedule::Wait,
};
use serde::Serialize;
use std::process::ExitCode;

/// The status in JSON.
#[derive(Debug, Serialize)]
struct StatusView {
    /// Where the work tree's factory.yaml differs from the one in force.
    config_note: Option<String>,
    /// The kernel that runs; null when none does.
    kernel: Option<KernelView>,
    /// The machine that goes on with this factory, and since when; null where this one does.
    taken_over: Option<String>,
    /// Who stopped all agents, and since when; null where nobody did.
    frozen: Option<String>,
    /// What is not tried for a while after failures in a row, why, and until when.
    paused: Vec<String>,
    /// Branch that work starts from and merges into.
    target: String,
    /// Rises with every kernel start.
    epoch: u64,
    slots: SlotsView,
    /// Live runs.
    runs: Vec<RunLine>,
    /// Jobs that wait or work, by issue.
    jobs: Vec<JobLine>,
    /// What the kernel cannot do at the moment, and why; it tries again by itself.
    held_up: Vec<String>,
    waiting: WaitingView,
    /// Issues that agents asked for and that are not filed yet.
    drafts: DraftsView,
    /// Keys of effects without a result.
    effects: Vec<String>,
    /// Model calls of the live runs.
    usage: UsageView,
    /// Bytes that the factory's folder takes.
    disk: Disk,
}

#[derive(Debug, Serialize)]
struct KernelView {
    /// Null in the moment before it has written its name.
    pid: Option<u32>,
    /// RFC 3339.
    since: Option<String>,
}

#[derive(Debug, Serialize)]
struct SlotsView {
    used: usize,
    /// As the kernel that runs was told, or `factory.yaml` says; null for `auto`.
    total: Option<u32>,
}

#[derive(Debug, Serialize)]
struct RunLine {
    run: String,
    purpose: String,
    slot: u32,
    /// Seconds since it was granted.
    age: i64,
    state: String,
}

#[derive(Debug, Serialize)]
struct JobLine {
    issue: u64,
    /// As in `factory issue list --json`.
    stage: &'static str,
    run: Option<String>,
    /// Which try comes next after runs that did not come to their own end, and when.
    retry: Option<String>,
    /// How the last of these runs ended.
    note: Option<String>,
    title: String,
}

/// What waits for a person, with the command that lets it go on.
#[derive(Debug, Serialize)]
struct WaitingView {
    /// Issues at their gate.
    issues: Vec<Waiting>,
    /// Pull requests at the merge gate.
    pull_requests: Vec<Waiting>,
    /// Issues whose job cannot go on.
    needs_human: Vec<Waiting>,
    /// Jobs that a person holds back.
    held: Vec<Waiting>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    number: u64,
    title: String,
    /// What is known beside the title.
    note: Option<String>,
    commands: Vec<String>,
}

/// Prints the status.
pub fn run(factory: &Factory, json: bool) -> Result<ExitCode, Failure> {
    let now = clock::now();
    let view = view(factory, now)?;
    if json {
        views::print_json(&view)?;
    } else {
        views::print(&show(&view))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the work tree's `factory.yaml` differs from the one in force. What keeps
/// it from being compared is said in its place: a status is shown all the same.
fn config_note(factory: &Factory) -> Option<String> {
    let target = &factory.state.meta.target;
    let note = factory
        .target_tip()
        .and_then(|tip| image::config_note(&factory.places, &factory.user, &tip, target));
    note.unwrap_or_else(|failure| Some(format!("note: {}", failure.chain())))
}

fn view(factory: &Factory, now: Now) -> Result<StatusView, Failure> {
    let state = &factory.state;
    let title = |issue| {
        let issue = state.issues.get(issue);
        issue.map_or_else(String::new, |issue| line(&issue.title))
    };
    let jobs = state
        .jobs
        .values()
        .filter(|job| !job.stage().waits_for_a_person());
    let starting = wait::launcher(&factory.places)?.map(|_| wait::Running { holder: None });
    let running = wait::kernel(&factory.places)?.or(starting);
    let taken = factory.store.taken_over()?;
    let kernel_slots = state
        .meta
        .kernel
        .as_ref()
        .filter(|_| running.is_some())
        .and_then(|kernel| kernel.slots);
    Ok(StatusView {
        config_note: config_note(factory),
        kernel: running.map(|running| KernelView {
            pid: running.holder.map(|holder| holder.pid),
            since: running.holder.map(|holder| stamp(holder.since)),
        }),
        taken_over: taken
            .as_ref()
            .map(|taken| format!("{} since {}", line(&taken.by.host), stamp(taken.by.since))),
        frozen: state
            .meta
            .frozen
            .as_ref()
            .map(|frozen| format!("{} since {}", line(&frozen.by), stamp(frozen.since))),
        paused: paused(factory, now),
        target: state.meta.target.clone(),
        epoch: state.meta.epoch.0,
        slots: SlotsView {
            used: state.runs.len(),
            total: match (kernel_slots, state.config.config.slots) {
                (Some(n), _) | (None, Slots::Fixed(n)) => Some(n),
                (None, Slots::Auto) => None,
            },
        },
        runs: state
            .runs
            .values()
            .map(|run| RunLine {
                run: run.id.to_string(),
                purpose: purpose(run),
                slot: run.slot,
                age: now.0 - run.created,
                state: match strange(factory, run, taken.is_some()) {
                    Some(where_it_is) => where_it_is.to_owned(),
                    None => history(run, state.meta.epoch, now),
                },
            })
            .collect(),
        jobs: jobs
            .map(|job| JobLine {
                issue: job.issue.0,
                stage: job.stage().kind().as_str(),
                run: job.stage().run().map(|run| run.to_string()),
                retry: retry(job, now),
                note: last_word(job).filter(|_| job.breaks > 0),
                title: title(&job.issue),
            })
            .collect(),
        held_up: wait::held_up(&factory.places)?
            .iter()
            .map(|l| line(l))
            .collect(),
        waiting: waiting(factory),
        drafts: DraftsView::of(state, None, now),
        effects: state.effects.keys().cloned().collect(),
        usage: UsageView::sum(state.runs.values()),
        disk: Disk::of(&factory.places),
    })
}

fn paused(factory: &Factory, now: Now) -> Vec<String> {
    let breakers = factory.state.meta.breakers.iter();
    let open = breakers.filter_map(|(part, breaker)| Some((part, breaker, breaker.tries_at?)));
    open.map(|(part, breaker, at)| {
        let when = match breaker.is_open(now.0) {
            true => format!("one run tries again in {}", span(at - now.0)),
            false => "one run tries again".to_owned(),
        };
        format!(
            "{} failed {} times in a row (last {}); {when}",
            part.as_str(),
            breaker.failures,
            line(&breaker.why)
        )
    })
    .collect()
}

/// Where a run is that the state holds open although nothing of it goes on here.
fn strange(factory: &Factory, run: &Run, taken_over: bool) -> Option<&'static str> {
    let is_copied = run.container != ContainerSpec::name_for(&factory.home, run.id);
    match (run.is_open(), taken_over, is_copied) {
        (false, ..) | (_, false, false) => None,
        (true, true, _) => Some("left behind: its work goes on on the other machine"),
        (true, false, true) => {
            Some("not here: in the repository that this is a copy of; done again at the next start")
        }
    }
}

/// Where a run stands, and how it came through restarts.
fn history(run: &Run, epoch: Epoch, now: Now) -> String {
    let mut text = standing(run, now);
    if run.is_open() && run.grant.epoch < epoch {
        text.push_str(", adopted");
    }
    if let Some(resume) = &run.resume {
        text.push_str(&format!(", resumes {}", resume.run));
    }
    text
}

fn retry(job: &Job, now: Now) -> Option<String> {
    (job.breaks > 0).then(|| match job.rests_until(now) {
        Some(at) => format!("try {} in {}", job.breaks + 1, span(at - now.0)),
        None => format!("try {}", job.breaks + 1),
    })
}

/// What came of the job's newest run.
fn last_word(job: &Job) -> Option<String> {
    job.story.last().map(|last| line(last))
}

fn waiting(factory: &Factory) -> WaitingView {
    let state = &factory.state;
    let issues = state.issues.values().filter(|issue| {
        // What an automatic gate opens waits for nobody.
        issue.state == IssueState::Proposed && !state.approves_by_itself(issue)
    });
    let ready = state.prs.values().filter(|pr| {
        // One whose job needs a person is named there.
        let stuck = state.jobs.get(&pr.issue).map(|job| job.stage()) == Some(&Stage::NeedsHuman);
        pr.state == PrState::Ready && !stuck
    });
    let title = |number: IssueNo| {
        let issue = state.issues.get(&number);
        issue.map_or_else(String::new, |issue| line(&issue.title))
    };
    let held = state.jobs.values();
    let held = held.filter_map(|job| Some((job.issue, job.held_by.as_deref()?)));
    WaitingView {
        issues: issues
            .map(|issue| Waiting {
                number: issue.number.0,
                title: line(&issue.title),
                note: issue.run.map(|run| format!("by {run}")),
                commands: vec![format!("factory issue approve {}", issue.number)],
            })
            .collect(),
        pull_requests: ready
            .map(|pr| Waiting {
                number: pr.number.0,
                title: line(&pr.title),
                note: Some(match &pr.note {
                    Some(note) => format!("not merged: {}", line(note)),
                    None => format!("{}, checks: {}", word(&pr.state), checks(pr)),
                }),
                commands: vec![
                    format!("factory pr diff {}", pr.number),
                    format!("factory pr merge {}", pr.number),
                    format!("factory pr reject {} --reason \"…\"", pr.number),
                ],
            })
            .collect(),
        needs_human: state
            .needing_human()
            .map(|number| {
                let job = state.jobs.get(&number);
                let lost = job.and_then(|job| state.lost_dependency(job));
                let (note, next) = match lost {
                    Some(on) => (
                        Some(Wait::GivenUp { on }.to_string()),
                        format!("factory issue depend {number} --off {on}"),
                    ),
                    None => (
                        job.and_then(last_word),
                        format!("factory issue approve {number}"),
                    ),
                };
                Waiting {
                    number: number.0,
                    title: title(number),
                    note,
                    commands: vec![
                        format!("factory issue show {number}"),
                        next,
                        format!("factory issue close {number}"),
                    ],
                }
            })
            .collect(),
        held: held
            .map(|(number, by)| Waiting {
                number: number.0,
                title: title(number),
                note: Some(format!("held by {}", line(by))),
                commands: vec![format!("factory job release {number}")],
            })
            .collect(),
    }
}

fn titled(title: &str, note: Option<&String>) -> String {
    match note {
        Some(note) => format!("{title}  ({note})"),
        None => title.to_owned(),
    }
}

fn show(view: &StatusView) -> String {
    let mut out = String::new();
    if let Some(note) = &view.config_note {
        out.push_str(&format!("{note}\n"));
    }
    let kernel = match &view.kernel {
        Some(KernelView {
            pid: Some(pid),
            since: Some(since),
        }) => format!("running (pid {pid}, since {since})"),
        Some(_) => "just starting".to_owned(),
        None if view.taken_over.is_some() => "not running".to_owned(),
        None => "not running (`factory start` starts it)".to_owned(),
    };
    if let Some(by) = &view.taken_over {
        out.push_str(&format!(
            "another machine goes on with this factory: {by} (`factory sync` says more)\n"
        ));
    }
    if let Some(by) = &view.frozen {
        out.push_str(&format!(
            "all agents {} stopped by {by}; `factory resume` lets them work again\n",
            match view.runs.is_empty() {
                true => "were",
                false => "are being",
            }
        ));
    }
    for line in &view.paused {
        out.push_str(&format!("paused: {line} (`factory resume`: at once)\n"));
    }
    let total = view
        .slots
        .total
        .map_or("auto".to_owned(), |n| n.to_string());
    out.push_str(&format!(
        "kernel: {kernel}\ntarget: {}  epoch: {}  slots: {}/{total}\n",
        view.target, view.epoch, view.slots.used,
    ));
    let at_least = if view.disk.complete { "" } else { "at least " };
    out.push_str(&format!(
        "disk: {at_least}{}\n",
        disk::shown(view.disk.total)
    ));
    if !view.held_up.is_empty() {
        out.push_str("\nHeld up (tried again by itself):\n");
        for line in &view.held_up {
            out.push_str(&format!("  {line}\n"));
        }
    }
    if !view.runs.is_empty() {
        let rows: Vec<_> = view
            .runs
            .iter()
            .map(|run| {
                [
                    run.run.clone(),
                    run.purpose.clone(),
                    run.slot.to_string(),
                    span(run.age),
                    run.state.clone(),
                ]
            })
            .collect();
        let heading = ["RUN", "FOR", "SLOT", "AGE", "STATE"];
        out.push_str(&format!("\n{}", views::table(heading, &rows)));
        out.push_str(&format!("{}\n", view.usage.show()));
    }
    if !view.jobs.is_empty() {
        let rows: Vec<_> = view
            .jobs
            .iter()
            .map(|job| {
                let run = job
                    .run
                    .as_ref()
                    .map_or(String::new(), |run| format!(" ({run})"));
                let retry = job
                    .retry
                    .as_ref()
                    .map_or(String::new(), |retry| format!(", {retry}"));
                [
                    job.issue.to_string(),
                    format!("{}{run}{retry}", job.stage),
                    titled(&job.title, job.note.as_ref()),
                ]
            })
            .collect();
        out.push_str(&format!(
            "\n{}",
            views::table(["ISSUE", "STAGE", "TITLE"], &rows)
        ));
    }
    if !view.effects.is_empty() {
        out.push_str(&format!("\nunder way: {}\n", view.effects.join(", ")));
    }
    let groups = [
        ("Issues that wait for your approval:", &view.waiting.issues),
        (
            "Pull requests that wait for you:",
            &view.waiting.pull_requests,
        ),
        (
            "Issues that need you to look at them:",
            &view.waiting.needs_human,
        ),
        ("Jobs that you hold back:", &view.waiting.held),
    ];
    if !view.drafts.waiting.is_empty() {
        out.push_str(&format!("\n{}", view.drafts.show()));
    }
    let nothing = groups.iter().all(|(_, group)| group.is_empty());
    for (heading, group) in groups {
        if group.is_empty() {
            continue;
        }
        out.push_str(&format!("\n{heading}\n"));
        for item in group {
            let title = titled(&item.title, item.note.as_ref());
            out.push_str(&format!("  {}  {title}\n", item.number));
            for command in &item.commands {
                out.push_str(&format!("      {command}\n"));
            }
        }
    }
    if nothing {
        out.push_str("\nNothing waits for you.\n");
    }
    out
}
