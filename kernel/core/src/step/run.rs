//! The life of a run: granted, running, ended, collected.

use super::{job, tx::Tx};
use crate::{
    brief,
    budget::Spent,
    config::AgentType,
    container::ContainerSpec,
    engine,
    event::{GrantFacts, Refusal},
    grant::{Grant, ModelGrant, PushRules, Role},
    ids::{IssueNo, Oid, RunId},
    inbox::InboxEntry,
    model::{Ending, Frozen, Job, PrState, Purpose, Run, RunState, Stage, Tests, UsageTotal},
};

pub(super) fn granted(
    tx: &mut Tx<'_>,
    number: IssueNo,
    purpose: Purpose,
    slot: u32,
    facts: GrantFacts,
) -> Result<String, Refusal> {
    let stale = || Refusal::Stale(format!("job {number}"));
    let mut job = tx.job(number).ok_or_else(stale)?;
    if tx.meta().frozen.is_some() {
        return Err(stale());
    }
    if !tx.admits(&job, &purpose, slot) {
        return Err(Refusal::Stale(format!("the turn of job {number}")));
    }
    job.not_before = None;
    job.begun = true;
    let mut issue = tx.issue(number)?;
    issue.runs += 1;
    let id = RunId {
        job: number,
        k: issue.runs,
    };
    tx.put_issue(issue);
    let from = job.stage().kind().as_str();
    let next = match (&purpose, job.stage().clone()) {
        (Purpose::Split, Stage::SplitDue) => Stage::Splitting { run: id },
        (Purpose::Plan, Stage::PlanDue) => Stage::Planning { run: id },
        (Purpose::Code, Stage::Queued) => Stage::Coding { run: id },
        (
            Purpose::Check,
            Stage::CheckDue {
                commit,
                tests,
                rerun,
            },
        ) if facts.start
            == *match &tests {
                Tests::Own => &commit,
                Tests::Base { commit } => commit,
            } =>
        {
            Stage::Checking {
                commit,
                run: id,
                tests,
                rerun,
            }
        }
        (Purpose::Review, Stage::ReviewDue { commit }) if commit == facts.start => {
            Stage::Reviewing { commit, run: id }
        }
        (Purpose::Verify, Stage::VerifyDue) if facts.start == facts.intent => {
            Stage::Verifying { run: id }
        }
        (Purpose::MergeTest { pr }, Stage::Proposed) => {
            let mut pr = tx.pr(*pr)?;
            match &mut pr.state {
                PrState::Testing {
                    run: run @ None,
                    merge,
                    ..
                } if *merge == facts.start => *run = Some(id),
                _ => return Err(stale()),
            }
            tx.put_pr(pr);
            Stage::Proposed
        }
        _ => return Err(stale()),
    };
    let to = match &purpose {
        Purpose::MergeTest { .. } => "testing the merge",
        _ => next.kind().as_str(),
    };
    job.enter(next)?;
    let config = tx.config().clone();
    let epoch = tx.meta().epoch;
    let role = purpose.role();
    let budget = tx.left_for(&job);
    let (engine, model) = config.worked(&purpose, job::tier(&job));
    let models = match role.has_engine() {
        true => config.providers_for(&engine).and_then(|(api, providers)| {
            let mut providers = providers.into_iter();
            let first = providers.next()?;
            Some(ModelGrant {
                api,
                base_url: first.base_url,
                key_env: first.key_env,
                fallbacks: providers.collect(),
                budget,
                model: model.clone(),
                prices: config.prices.clone(),
            })
        }),
        false => None,
    };
    let resume = job.resume.clone().filter(|_| role == Role::Code);
    let old = resume
        .as_ref()
        .filter(|r| !facts.fresh_session && r.engine == engine && engine::can_resume(&r.engine))
        .and_then(|r| r.session.clone());
    // Of a run that came to its own end there is nothing but its session to go on with.
    let resume = resume.filter(|r| !r.finished || old.is_some());
    let session = old.unwrap_or_else(|| brief::session(&facts.home, id));
    let requests = tx.requests_of(&job);
    let mut limits = config.limits_of(&purpose, job::tier(&job));
    if let Some(memory) = job.memory {
        limits.memory = limits.memory.max(memory);
    }
    let grant = Grant {
        run: id,
        epoch,
        role,
        start: facts.start,
        resume: resume.as_ref().map(|r| r.checkpoint.clone()),
        branch: (role == Role::Code).then(|| job.branch.clone()),
        models,
        rules: (role == Role::Code).then(|| PushRules {
            target: facts.intent.clone(),
            allow_secrets_in: config.secrets.allow_in.clone(),
            protected: config.protected.clone(),
        }),
        wall_seconds: limits.wall.0,
    };
    let resumed = resume.as_ref().map(|r| r.run);
    let feedback = told(&mut job, role);
    tx.put_run(Run {
        id,
        purpose,
        agent: AgentType::Worker,
        grant,
        slot,
        container: ContainerSpec::name_for(&facts.home, id),
        image: facts.image,
        runtime: config.runtime.clone(),
        limits,
        requests,
        model,
        engine,
        checks: if role == Role::Check {
            config.checks
        } else {
            Vec::new()
        },
        intent: facts.intent,
        merge_target: facts.merge_target,
        branch_tip: facts.branch_tip,
        feedback,
        session,
        resume,
        checkpoint: None,
        state: RunState::Starting,
        created: tx.now.0,
        stop_ordered: false,
        over_budget: false,
        outdated: false,
        inbox_seen: None,
        pushed: None,
        report: None,
        end: None,
        usage: UsageTotal::default(),
        spent: Spent::default(),
    });
    tx.put_job(job);
    let how = match &resumed {
        Some(run) => format!("{id}, resumes {run}"),
        None => id.to_string(),
    };
    Ok(format!("job {number}: {from} -> {to} ({how})"))
}

/// What a run of this role is told of those before it.
fn told(job: &mut Job, role: Role) -> Option<String> {
    match role {
        Role::Code => {
            job.report_problem = None;
            job.feedback.clone()
        }
        Role::Plan | Role::Split => {
            let both = [&job.feedback, &job.report_problem].into_iter().flatten();
            let both: Vec<&str> = both.map(String::as_str).collect();
            (!both.is_empty()).then(|| both.join("\n\n"))
        }
        Role::Review => job.report_problem.clone(),
        Role::Check => None,
    }
}

pub(super) fn running(tx: &mut Tx<'_>, id: RunId) -> Result<String, Refusal> {
    let mut run = tx.run(id)?;
    if run.state != RunState::Starting {
        return Err(Refusal::Stale(format!("run {id}")));
    }
    run.state = RunState::Running { since: tx.now.0 };
    let slot = run.slot;
    tx.put_run(run);
    Ok(format!("run {id}: running in slot {slot}"))
}

/// Keeps the order for the next kernel of the same start, should this one die. At once:
/// marks every open run as one that the factory itself ends.
pub(super) fn end_ordered(tx: &mut Tx<'_>, how: Ending) -> Result<String, Refusal> {
    tx.meta().ending = Some(how);
    if how == Ending::Drain {
        return Ok("kernel: told to end when what runs has ended".to_owned());
    }
    Ok(format!("kernel: told to end at once{}", order_stop(tx)?))
}

/// The emergency stop: what is open now ends to nobody's charge, and nothing begins.
pub(super) fn freeze(tx: &mut Tx<'_>, by: &str) -> Result<String, Refusal> {
    if let Some(frozen) = &tx.meta().frozen {
        return Err(Refusal::Frozen(frozen.by.clone()));
    }
    let (by, since) = (by.to_owned(), tx.now.0);
    let note = format!("factory: all agents stopped by {by}");
    tx.meta().frozen = Some(Frozen { by, since });
    Ok(note + &order_stop(tx)?)
}

pub(super) fn thaw(tx: &mut Tx<'_>, by: &str) -> Result<String, Refusal> {
    let meta = tx.meta();
    let was_frozen = meta.frozen.take().is_some();
    let was_paused = meta
        .breakers
        .values()
        .any(|breaker| breaker.tries_at.is_some());
    meta.breakers.clear();
    match was_frozen || was_paused {
        true => Ok(format!("factory: resumed by {by}")),
        false => Err(Refusal::NotFrozen),
    }
}

/// Marks every open run as one that the factory itself ends. Names them as the end of a sentence.
fn order_stop(tx: &mut Tx<'_>) -> Result<String, Refusal> {
    let open = tx.open_runs();
    for id in &open {
        let mut run = tx.run(*id)?;
        run.stop_ordered = true;
        tx.put_run(run);
    }
    let names: Vec<String> = open.iter().map(ToString::to_string).collect();
    Ok(match names.is_empty() {
        true => String::new(),
        false => format!(", stops {}", names.join(", ")),
    })
}

pub(super) fn inbox(
    tx: &mut Tx<'_>,
    id: RunId,
    entries: Vec<(Oid, InboxEntry)>,
) -> Result<String, Refusal> {
    let mut run = tx.run(id)?;
    // What was taken already may come once more.
    let taken = entries
        .iter()
        .position(|(oid, _)| Some(oid) == run.inbox_seen.as_ref());
    let new = taken.map_or(0, |at| at + 1);
    if new == entries.len() {
        return Err(Refusal::Stale(format!("the inbox of run {id}")));
    }
    let mut notes: Vec<String> = Vec::new();
    let mut calls = 0;
    let mut spent = Spent::default();
    for (oid, entry) in entries.into_iter().skip(new) {
        run.inbox_seen = Some(oid);
        match entry {
            InboxEntry::Push { new, .. } => {
                notes.push(format!("pushed {}", new.short()));
                run.pushed = Some(new);
            }
            InboxEntry::Checkpoint { commit } => {
                notes.push("saved its work in progress".to_owned());
                run.checkpoint = Some(commit);
            }
            InboxEntry::Usage(usage) => {
                calls += 1;
                run.usage.add(&usage);
                let models = run.grant.models.as_ref();
                spent = spent.plus(models.map_or(Spent::default(), |m| m.spent(&usage)));
            }
            InboxEntry::OverBudget => {
                notes.push("used up its budget".to_owned());
                run.over_budget = true;
            }
            InboxEntry::Report { json } => {
                notes.push("reported".to_owned());
                run.report = Some(json);
            }
            InboxEntry::End(end) => {
                notes.push("said its last word".to_owned());
                run.end = Some(end);
            }
        }
    }
    if calls > 0 {
        notes.push(format!(
            "{calls} model call{}",
            if calls == 1 { "" } else { "s" }
        ));
    }
    if !spent.is_nothing() {
        run.spent = run.spent.plus(spent);
        let now = tx.now.0;
        tx.meta().today.get_or_insert_default().add(now, spent);
        if let Some(mut job) = tx.job(id.job) {
            job.spent = job.spent.plus(spent);
            tx.put_job(job);
        }
    }
    tx.put_run(run);
    Ok(format!("run {id}: {}", notes.join(", ")))
}

pub(super) fn collected(tx: &mut Tx<'_>, id: RunId) -> Result<String, Refusal> {
    let run = tx.run(id)?;
    if run.is_open() {
        return Err(Refusal::Stale(format!("run {id}")));
    }
    let slot = run.slot;
    tx.archive_run(run);
    Ok(format!("run {id}: collected, slot {slot} is free"))
}
