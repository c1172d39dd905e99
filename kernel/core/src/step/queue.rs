//! What people do to the order of the work: labels, dependencies, holding, bumping.

use super::{configured, job, tx::Tx};
use crate::{
    event::Refusal,
    ids::IssueNo,
    model::{Issue, Job, NEEDS_HUMAN, REJECTED, Stage},
    route::{self, Complexity},
    schedule::{PREFIX, Priority},
};
use std::collections::BTreeMap;

/// Longest label, in bytes.
const LABEL_LIMIT: usize = 50;

pub(super) fn label(
    tx: &mut Tx<'_>,
    by: &str,
    number: IssueNo,
    add: &[String],
    remove: &[String],
) -> Result<String, Refusal> {
    let mut issue = tx.issue(number)?;
    for label in remove {
        let refused = |why: &str| Refusal::Label {
            label: label.clone(),
            why: why.to_owned(),
        };
        if is_ours(label) {
            return Err(refused(
                "is the factory's own; approving the issue takes it off",
            ));
        }
        if !issue.has_label(label) {
            return Err(refused(&format!("is not on issue {number}")));
        }
        issue.labels.retain(|there| there != label);
    }
    add_labels(&mut issue, add)?;
    let labels = issue.labels.join(", ");
    tx.put_issue(issue);
    Ok(format!("issue {number}: labels by {by}: {labels}"))
}

/// True for labels that say where an issue stands.
fn is_ours(label: &str) -> bool {
    label == NEEDS_HUMAN || label == REJECTED
}

pub(super) fn add_labels(issue: &mut Issue, labels: &[String]) -> Result<(), Refusal> {
    for label in labels {
        let refused = |why: String| Refusal::Label {
            label: crate::text::one_line(label),
            why,
        };
        if is_ours(label) {
            return Err(refused("is the factory's own".to_owned()));
        }
        let is_plain = |c: char| c.is_alphanumeric() || "-_./:+".contains(c);
        if label.is_empty() || label.len() > LABEL_LIMIT || !label.chars().all(is_plain) {
            let why = format!(
                "is none: use up to {LABEL_LIMIT} letters, digits and `-_./:+`, without spaces"
            );
            return Err(refused(why));
        }
        if label.starts_with(PREFIX) {
            if Priority::of_label(label).is_none() {
                let known = Priority::ALL.map(|p| format!("{PREFIX}{p}")).join(", ");
                return Err(refused(format!("gives no priority; known are {known}")));
            }
            issue.labels.retain(|there| !there.starts_with(PREFIX));
        }
        if label.starts_with(route::PREFIX) {
            if Complexity::of_label(label).is_none() {
                let known = Complexity::ALL.map(|tier| format!("{}{tier}", route::PREFIX));
                let known = known.join(", ");
                return Err(refused(format!("names no complexity; known are {known}")));
            }
            issue.labels.retain(|l| !l.starts_with(route::PREFIX));
        }
        job::label(issue, label);
    }
    Ok(())
}

pub(super) fn add_dependencies(
    tx: &Tx<'_>,
    issue: &mut Issue,
    on: &[IssueNo],
) -> Result<(), Refusal> {
    for on in on {
        if *on == issue.number {
            return Err(Refusal::DependsOnItself(*on));
        }
        tx.issue(*on)?;
        if let Some(way) = way(tx, *on, issue.number) {
            let cycle = std::iter::once(issue.number).chain(way);
            return Err(Refusal::Cycle(cycle.collect()));
        }
        if let Err(at) = issue.depends_on.binary_search(on) {
            issue.depends_on.insert(at, *on);
        }
    }
    Ok(())
}

/// How `from` waits for `to`, both included; none where it does not. An instruction waits
/// for the issues that it became.
pub(super) fn way(tx: &Tx<'_>, from: IssueNo, to: IssueNo) -> Option<Vec<IssueNo>> {
    let mut came_from = BTreeMap::from([(from, from)]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if at == to {
            let mut way = vec![to];
            let mut at = to;
            while at != from {
                at = came_from[&at];
                way.push(at);
            }
            way.reverse();
            return Some(way);
        }
        let Ok(issue) = tx.issue(at) else { continue };
        let parts = issue.instruction.into_iter().flat_map(|i| i.children);
        for on in issue.depends_on.into_iter().chain(parts) {
            came_from.entry(on).or_insert_with(|| {
                open.push(on);
                at
            });
        }
    }
    None
}

pub(super) fn depend(
    tx: &mut Tx<'_>,
    by: &str,
    number: IssueNo,
    on: &[IssueNo],
    off: &[IssueNo],
) -> Result<String, Refusal> {
    let mut issue = tx.issue(number)?;
    for on in off {
        if !issue.depends_on.contains(on) {
            return Err(Refusal::DoesNotDepend {
                issue: number,
                on: *on,
            });
        }
        issue.depends_on.retain(|there| there != on);
    }
    add_dependencies(tx, &mut issue, on)?;
    let names: Vec<String> = issue.depends_on.iter().map(|on| format!("#{on}")).collect();
    let on = match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    };
    tx.put_issue(issue);
    Ok(format!("issue {number}: depends on {on} (by {by})"))
}

/// Nobody waits for an issue any more that is done.
pub(super) fn done(tx: &mut Tx<'_>, number: IssueNo) -> Result<(), Refusal> {
    for waiting in tx.dependents(number) {
        // It may have been closed in this same step.
        let Ok(mut issue) = tx.issue(waiting) else {
            continue;
        };
        issue.depends_on.retain(|on| *on != number);
        tx.put_issue(issue);
    }
    Ok(())
}

fn job_of(tx: &Tx<'_>, number: IssueNo) -> Result<Job, Refusal> {
    tx.issue(number)?;
    tx.job(number).ok_or(Refusal::NoSuchJob(number))
}

fn refused(job: IssueNo, why: &str) -> Refusal {
    let why = why.to_owned();
    Refusal::Job { job, why }
}

pub(super) fn hold(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut job = job_of(tx, number)?;
    if let Some(by) = &job.held_by {
        return Err(refused(number, &format!("is held already, by {by}")));
    }
    job.held_by = Some(by.to_owned());
    tx.put_job(job);
    Ok(format!("job {number}: held by {by}"))
}

pub(super) fn release(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut job = job_of(tx, number)?;
    if job.held_by.take().is_none() {
        return Err(refused(number, "is not held"));
    }
    tx.put_job(job);
    configured::go_on(tx, number)?;
    Ok(format!("job {number}: released by {by}"))
}

pub(super) fn bump(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut job = job_of(tx, number)?;
    job.bumped = Some(tx.now.0);
    tx.put_job(job);
    Ok(format!("job {number}: put in front by {by}"))
}

/// Takes away the pause of a job that rests.
pub(super) fn retry(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut job = job_of(tx, number)?;
    let rests = matches!(job.stage(), Stage::Proposed) || job.stage().is_due();
    if !rests || job.not_before.take().is_none() {
        return Err(refused(number, "neither rests nor needs a person"));
    }
    tx.put_job(job);
    Ok(format!("job {number}: tried again now, by {by}"))
}
