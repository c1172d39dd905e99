//! Instructions: how they become issues, and what is told when these are done.

use super::{command, configured, job, job::FACTORY, queue, tx::Tx};
use crate::{
    budget::Spent,
    config::Gate,
    event::Refusal,
    ids::{IssueNo, PrNo},
    model::{Instruction, Issue, IssueState, Job, PartDone, REJECTED, Run, Stage, TITLE_LIMIT},
    report::SplitReport,
    route::PREFIX,
    text,
};
use std::collections::BTreeMap;

/// Files an instruction; it is worked on at once, since a person gave it.
pub(super) fn instruct(
    tx: &mut Tx<'_>,
    by: &str,
    text: String,
    auto_approve: bool,
) -> Result<String, Refusal> {
    command::bounded("instruction", &text, command::TEXT_LIMIT)?;
    if tx.config().splitter().is_none() {
        return Err(Refusal::NoSplitter);
    }
    let first = text.trim().lines().next().unwrap_or_default();
    let title = text::trimmed(&text::one_line(first), TITLE_LIMIT - 4);
    let number = tx.next_issue();
    let note = format!("issue {number}: instruction by {by}: {title}");
    tx.put_issue(Issue {
        number,
        title,
        state: IssueState::Approved { by: by.to_owned() },
        labels: Vec::new(),
        author: by.to_owned(),
        run: None,
        created: tx.now.0,
        comments: 0,
        runs: 0,
        depends_on: Vec::new(),
        touches: Vec::new(),
        parent: None,
        instruction: Some(Instruction {
            auto_approve,
            children: Vec::new(),
            done: Vec::new(),
        }),
        merged: None,
        acceptance: Vec::new(),
        body: text,
    });
    tx.put_job(Job::new(number, String::new(), Stage::SplitDue, tx.now.0));
    Ok(note)
}

/// Files what a splitting run reported. What is open already is not filed again: others
/// depend on that one instead.
pub(super) fn taken(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    report: SplitReport,
) -> Result<(String, String), Refusal> {
    let id = run.id;
    let parent = job.issue;
    // One part may well have the title of the whole.
    let mut titles = tx.titles_beside(Some(parent));
    let mut numbers: BTreeMap<String, IssueNo> = BTreeMap::new();
    let mut children = Vec::new();
    let mut told = String::new();
    for part in report.issues {
        if let Some(open) = titles.get(&text::folded(&part.title)) {
            told.push_str(&format!("- #{open} is open already: {}\n", part.title));
            // Nobody waits for what itself waits for this instruction.
            if queue::way(tx, *open, parent).is_none() {
                numbers.insert(part.key, *open);
            }
            continue;
        }
        let number = tx.next_issue();
        let on = part.depends_on.iter().filter_map(|key| numbers.get(key));
        let mut depends_on: Vec<IssueNo> = on.copied().collect();
        depends_on.sort_unstable();
        depends_on.dedup();
        told.push_str(&format!("- #{number}: {}\n", part.title));
        let mut touches = part.paths;
        touches.sort_unstable();
        touches.dedup();
        tx.put_issue(Issue {
            number,
            title: text::one_line(&part.title),
            state: IssueState::Proposed,
            labels: vec![format!("{PREFIX}{}", part.complexity)],
            author: id.to_string(),
            run: Some(id),
            created: tx.now.0,
            comments: 0,
            runs: 0,
            depends_on,
            touches,
            parent: Some(parent),
            instruction: None,
            merged: None,
            acceptance: part.acceptance,
            body: part.body,
        });
        titles.insert(text::folded(&part.title), number);
        numbers.insert(part.key, number);
        children.push(number);
    }
    let count = children.len();
    job.story.push(format!("{id}: split into {count} issues"));
    if children.is_empty() {
        let why = format!("{id} asked for nothing that is not open already:\n\n{told}");
        let to = job::needs_human(tx, job, &why)?;
        return Ok(("nothing to file".to_owned(), to));
    }
    let mut issue = tx.issue(parent)?;
    let by = match &issue.state {
        IssueState::Approved { by } => by.clone(),
        IssueState::Proposed | IssueState::Closed { .. } => issue.author.clone(),
    };
    let mut opens = tx.config().gates.issues == Gate::Auto;
    if let Some(instruction) = &mut issue.instruction {
        // Of an earlier split, those that are worked on are left.
        instruction.children.extend(&children);
        opens |= instruction.auto_approve;
    }
    tx.put_issue(issue);
    let next = match opens {
        true => "They are approved.".to_owned(),
        false => format!("`factory issue approve {parent}` approves them all."),
    };
    let summary = &report.summary;
    tx.comment_on_report(id, format!("{summary}\n\n{told}\n{next}\n"))?;
    let to = match opens {
        true => approve(tx, &by, job, &children)?,
        false => {
            job.enter(Stage::SplitReady)?;
            tx.put_job(job);
            "split-ready".to_owned()
        }
    };
    Ok((format!("split into {count} issues"), to))
}

/// Approves the issues of an instruction that wait for it.
pub(super) fn approve(
    tx: &mut Tx<'_>,
    by: &str,
    mut job: Job,
    children: &[IssueNo],
) -> Result<String, Refusal> {
    job.enter(Stage::Children)?;
    let parent = job.issue;
    tx.put_job(job);
    for child in children {
        let waits = tx
            .issue(*child)
            .is_ok_and(|i| i.state == IssueState::Proposed);
        if waits && tx.job(*child).is_none() {
            command::approve(tx, by, *child)?;
        }
    }
    close_when_done(tx, parent)?;
    Ok("children".to_owned())
}

/// Takes back the issues of an instruction that nobody approved: it is split anew.
pub(super) fn withdraw(tx: &mut Tx<'_>, by: &str, parent: IssueNo) -> Result<(), Refusal> {
    let mut issue = tx.issue(parent)?;
    let Some(instruction) = &mut issue.instruction else {
        return Ok(());
    };
    let mut kept = Vec::new();
    let mut withdrawn = Vec::new();
    for number in std::mem::take(&mut instruction.children) {
        match tx.job(number) {
            None if tx.issue(number).is_ok() => withdrawn.push(number),
            _ => kept.push(number),
        }
    }
    instruction.children = kept;
    tx.put_issue(issue);
    for number in withdrawn {
        let mut child = tx.issue(number)?;
        // It is no part of what came of the instruction.
        child.parent = None;
        tx.put_issue(child);
        let text = format!("Instruction #{parent} was edited before this was approved.\n");
        tx.comment(number, FACTORY, text)?;
        command::close(tx, by, number)?;
    }
    Ok(())
}

/// Goes on with an instruction whose job was cancelled: with the issues that it became, where
/// any is open.
pub(super) fn again(tx: &mut Tx<'_>, by: &str, parent: IssueNo) -> Result<(), Refusal> {
    let mut issue = tx.issue(parent)?;
    let children = issue.instruction.iter().flat_map(|i| i.children.clone());
    let open: Vec<IssueNo> = children.filter(|n| tx.issue(*n).is_ok()).collect();
    issue.labels.retain(|label| label != REJECTED);
    issue.state = IssueState::Approved { by: by.to_owned() };
    tx.put_issue(issue);
    let stage = match open.is_empty() {
        true => Stage::SplitDue,
        false => Stage::SplitReady,
    };
    let job = Job::new(parent, String::new(), stage, tx.now.0);
    match open.is_empty() {
        true => {
            tx.put_job(job);
            configured::go_on(tx, parent)?;
        }
        false => {
            approve(tx, by, job, &open)?;
        }
    }
    Ok(())
}

/// Takes down what came of a part of an instruction, and closes that one where it was the last.
pub(super) fn child_over(
    tx: &mut Tx<'_>,
    child: &Issue,
    job: Option<&Job>,
    pr: Option<PrNo>,
) -> Result<(), Refusal> {
    let Some(parent) = child.parent else {
        return Ok(());
    };
    let Ok(mut issue) = tx.issue(parent) else {
        return Ok(());
    };
    let Some(instruction) = &mut issue.instruction else {
        return Ok(());
    };
    instruction.done.push(PartDone {
        issue: child.number,
        title: child.title.clone(),
        pr,
        rounds: job.map_or(0, |job| job.rounds),
        runs: child.runs,
        spent: job.map_or(Spent::default(), |job| job.spent),
    });
    tx.put_issue(issue);
    close_when_done(tx, parent)
}

fn close_when_done(tx: &mut Tx<'_>, parent: IssueNo) -> Result<(), Refusal> {
    // The last of its issues may have closed it already.
    let Ok(issue) = tx.issue(parent) else {
        return Ok(());
    };
    let Some(instruction) = issue.instruction else {
        return Ok(());
    };
    // Each of them may have been approved by itself.
    let is_split = |job: Job| matches!(job.stage(), Stage::Children | Stage::SplitReady);
    let at_work = tx.job(parent).is_some_and(is_split);
    if !at_work || instruction.children.iter().any(|n| tx.issue(*n).is_ok()) {
        return Ok(());
    }
    let own = tx.job(parent);
    let own_spent = own.as_ref().map_or(Spent::default(), |job| job.spent);
    let spent = instruction
        .done
        .iter()
        .fold(own_spent, |sum, part| sum.plus(part.spent));
    let merged = instruction
        .done
        .iter()
        .filter(|part| part.pr.is_some())
        .count();
    let rows: String = instruction.done.iter().map(row).collect();
    let took = crate::text::span(tx.now.0.saturating_sub(issue.created));
    let text = format!(
        "All issues of this instruction are over: {merged} merged, {} given up. It took {took} and {spent}.\n\n| issue | pull request | code runs | runs | spent |\n| --- | --- | --- | --- | --- |\n{rows}",
        instruction.done.len() - merged
    );
    tx.comment(parent, FACTORY, text)?;
    let mut issue = tx.issue(parent)?;
    issue.state = IssueState::Closed {
        by: FACTORY.to_owned(),
        at: tx.now.0,
        pr: None,
    };
    tx.archive_issue(issue);
    queue::done(tx, parent)?;
    if let Some(job) = own {
        tx.archive_job(job);
    }
    Ok(())
}

fn row(part: &PartDone) -> String {
    let pr = part
        .pr
        .map_or("given up".to_owned(), |pr| format!("pull request {pr}"));
    let title = part.title.replace('|', "\\|");
    format!(
        "| #{} {title} | {pr} | {} | {} | {} |\n",
        part.issue, part.rounds, part.runs, part.spent
    )
}
