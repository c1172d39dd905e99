//! `factory issue`.

use crate::{
    args::Issue,
    clock,
    factory::{Factory, check_prefix, read_config},
    failure::{Class, Failure},
    views::{
        self, archive,
        issue::{Whole, view, word},
        line,
    },
    wait,
};
use factory_core::{config::Gate, event::Command, ids::IssueNo, model::IssueState, schedule};
use std::{io::Read, process::ExitCode};

/// Most bytes of standard input that are taken for a text; the state keeps less.
const INPUT_LIMIT: u64 = 1 << 20;
/// What starts a factory that does not run.
const START: &str = "start the factory: `factory start`";

/// Does what is asked for.
pub fn run(factory: &mut Factory, command: Issue) -> Result<ExitCode, Failure> {
    match command {
        Issue::New {
            title,
            body,
            labels,
        } => new(factory, title, body, labels),
        Issue::List { all, json } => list(factory, all, json.json),
        Issue::Show { number, json } => show(factory, number.parse()?, json.json),
        Issue::Edit {
            number,
            title,
            body,
        } => edit(factory, number.parse()?, title, body),
        Issue::Approve { number } => approve(factory, number.parse()?),
        Issue::Label {
            number,
            add,
            remove,
        } => label(factory, number.parse()?, add, remove),
        Issue::Depend { number, on, off } => depend(factory, number.parse()?, &on, &off),
        Issue::Close { number } => close(factory, number.parse()?),
        Issue::Comment { number, body } => comment(factory, number.parse()?, body),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A text from the command line; `-` reads standard input.
pub(super) fn text(given: String) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given);
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(INPUT_LIMIT + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_LIMIT {
        // How much more there is, nobody knows before its end.
        return Err(Failure::new(
            Class::Refused,
            format!(
                "the text on standard input has more than {INPUT_LIMIT} bytes, and no more are read"
            ),
        )
        .help(
            "make it shorter; what is long fits into a file of the repository that the text names",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        Failure::of(Class::Usage, error).help("give the text on standard input in UTF-8")
    })
}

fn unknown(number: IssueNo) -> Failure {
    Failure::new(Class::Refused, format!("there is no issue {number}"))
        .help("see them with `factory issue list`")
}

/// Refuses a number that no open issue has.
fn must_be_open(factory: &Factory, number: IssueNo) -> Result<(), Failure> {
    if factory.state.issues.contains_key(&number) {
        return Ok(());
    }
    Err(match archive::issue(factory, number)? {
        Some(_) => Failure::new(Class::Refused, format!("issue {number} is closed")).help(format!(
            "see it with `factory issue show {number}`; the open ones with `factory issue list`"
        )),
        None => unknown(number),
    })
}

fn new(
    factory: &mut Factory,
    title: String,
    body: String,
    labels: Vec<String>,
) -> Result<(), Failure> {
    let body = text(body)?;
    let written = schedule::written_dependencies(&body).unwrap_or_default();
    let command = Command::NewIssue {
        done: done_of(factory, &written)?,
        title,
        body,
        labels,
    };
    let (_, awake) = wait::order(factory, command)?;
    let number = factory.state.meta.last_issue;
    let next = match (gate(factory, awake), awake) {
        (Gate::Human, _) => format!("`factory issue approve {number}` lets a worker build it"),
        (Gate::Auto, true) => "it will be built".to_owned(),
        (Gate::Auto, false) => format!("to have it built, {START}"),
    };
    views::told(&format!("issue {number} filed; {next}\n"))?;
    Ok(())
}

/// Who opens the gate from issue to job. Before a kernel brings it into force,
/// the target's `factory.yaml` says so; a wrong one is the kernel's to report.
fn gate(factory: &Factory, awake: bool) -> Gate {
    let in_force = factory.state.config.config.gates.issues;
    if awake {
        return in_force;
    }
    factory
        .target_tip()
        .and_then(|tip| read_config(&factory.user, &tip, &factory.state.config.config.engine))
        .map_or(in_force, |(_, config)| config.gates.issues)
}

fn approve(factory: &mut Factory, number: IssueNo) -> Result<(), Failure> {
    must_be_open(factory, number)?;
    if wait::kernel(&factory.places)?.is_none() {
        // The prefix of the work branch is taken from it now.
        factory.refresh_config(None)?;
    }
    // A job that is there keeps its branch's name.
    let job = factory.state.jobs.get(&number);
    let prefix = job.and_then(|job| Some(job.branch.rsplit_once('/')?.0));
    let prefix = prefix.unwrap_or(&factory.state.config.config.branch_prefix);
    check_prefix(&factory.user, prefix)?;
    let order = wait::order(factory, Command::Approve(number));
    let see = format!("see where it stands with `factory issue show {number}`");
    let (_, awake) = order.map_err(|failure| failure.help(see))?;
    let next = if awake { "a worker builds it" } else { START };
    views::told(&format!("issue {number} approved; {next}\n"))?;
    Ok(())
}

fn label(
    factory: &mut Factory,
    issue: IssueNo,
    add: Vec<String>,
    remove: Vec<String>,
) -> Result<(), Failure> {
    must_be_open(factory, issue)?;
    wait::order(factory, Command::Label { issue, add, remove })?;
    let labels = factory
        .state
        .issues
        .get(&issue)
        .map(|i| i.labels.join(", "));
    let labels = labels.filter(|labels| !labels.is_empty());
    views::told(&format!(
        "issue {issue} has the labels {}\n",
        labels.as_deref().unwrap_or("none")
    ))
}

/// Those of the issues that are done.
fn done_of(factory: &Factory, issues: &[IssueNo]) -> Result<Vec<IssueNo>, Failure> {
    let mut done = Vec::new();
    for number in issues {
        if factory.state.issues.contains_key(number) {
            continue;
        }
        let closed = archive::issue(factory, *number)?.map(|issue| issue.state);
        if matches!(closed, Some(IssueState::Closed { pr: Some(_), .. })) {
            done.push(*number);
        }
    }
    Ok(done)
}

fn depend(
    factory: &mut Factory,
    issue: IssueNo,
    on: &[String],
    off: &[String],
) -> Result<(), Failure> {
    must_be_open(factory, issue)?;
    let parsed = |numbers: &[String]| -> Result<Vec<IssueNo>, Failure> {
        let plain = numbers.iter().map(|n| n.trim_start_matches('#').parse());
        Ok(plain.collect::<Result<_, _>>()?)
    };
    let (mut on, off) = (parsed(on)?, parsed(off)?);
    let done = done_of(factory, &on)?;
    on.retain(|on| !done.contains(on));
    if on.is_empty() && off.is_empty() {
        let names: Vec<_> = done.iter().map(|n| format!("#{n}")).collect();
        return views::told(&format!(
            "{} done already: nothing to wait for\n",
            names.join(", ")
        ));
    }
    wait::order(factory, Command::Depend { issue, on, off })?;
    let depends = factory.state.issues.get(&issue).map(|i| &i.depends_on);
    let names: Vec<_> = depends
        .into_iter()
        .flatten()
        .map(|n| format!("#{n}"))
        .collect();
    views::told(&match names.is_empty() {
        true => format!("issue {issue} depends on nothing\n"),
        false => format!("issue {issue} waits until {} is done\n", names.join(", ")),
    })
}

fn close(factory: &mut Factory, number: IssueNo) -> Result<(), Failure> {
    must_be_open(factory, number)?;
    let job = factory.state.jobs.get(&number).cloned();
    let issue = factory.state.issues.get(&number);
    let merged = issue.and_then(|issue| issue.merged.as_ref().map(|merged| merged.pr));
    wait::order(factory, Command::CloseIssue(number))?;
    let mut out = match merged {
        Some(pr) => format!("issue {number} closed as done by pull request {pr}"),
        None => format!("issue {number} closed"),
    };
    if let Some(job) = job {
        if let Some(pr) = job.pr {
            out.push_str(&format!(", and pull request {pr} with it"));
        }
        out.push_str(&format!(
            "; its work stays on the branch {}",
            line(&job.branch)
        ));
    }
    views::told(&format!("{out}\n"))?;
    Ok(())
}

fn comment(factory: &mut Factory, number: IssueNo, body: String) -> Result<(), Failure> {
    must_be_open(factory, number)?;
    let text = text(body)?;
    let issue = number;
    let (step, _) = wait::order(factory, Command::Comment { issue, text })?;
    // Where it was an order, the step says what came of it, and a comment may answer it.
    let said = match is_order(&step.note, number) {
        true => format!("{}\n{}", step.note, answer(factory, number)),
        false => format!("issue {number} commented on; its next run reads it\n"),
    };
    views::told(&said)?;
    Ok(())
}

/// True where the step did more than to take a comment down.
fn is_order(note: &str, number: IssueNo) -> bool {
    !note.starts_with(&format!("issue {number}: comment by "))
}

/// What the factory answered in its newest comment.
fn answer(factory: &Factory, number: IssueNo) -> String {
    let newest = factory.state.comments_of(number).last();
    let own = newest.filter(|comment| comment.author == "factory");
    own.map_or(String::new(), |comment| format!("\n{}", comment.text))
}

fn edit(
    factory: &mut Factory,
    number: IssueNo,
    title: Option<String>,
    body: Option<String>,
) -> Result<(), Failure> {
    must_be_open(factory, number)?;
    let body = body.map(text).transpose()?;
    let issue = number;
    wait::order(factory, Command::EditIssue { issue, title, body })?;
    let next = match factory.state.jobs.get(&number) {
        Some(_) => "its job begins anew",
        None => "nothing is begun before it is approved",
    };
    views::told(&format!("issue {number} edited; {next}\n"))?;
    Ok(())
}

fn list(factory: &Factory, all: bool, json: bool) -> Result<(), Failure> {
    let state = &factory.state;
    let mut issues = if all {
        archive::issues(factory)?
    } else {
        Vec::new()
    };
    issues.extend(state.issues.values().cloned());
    issues.sort_by_key(|issue| issue.number);
    if json {
        let views: Vec<_> = issues
            .iter()
            .map(|issue| view(issue, state.jobs.get(&issue.number)))
            .collect();
        views::print_json(&views)?;
        return Ok(());
    }
    if issues.is_empty() {
        return views::hint("no open issues; file one with `factory issue new --title \"…\"`");
    }
    let rows: Vec<_> = issues
        .iter()
        .map(|issue| {
            [
                issue.number.to_string(),
                word(issue, state.jobs.get(&issue.number)),
                issue.author.clone(),
                issue.labels.join(","),
                issue.title.clone(),
            ]
        })
        .collect();
    views::print(&views::table(
        ["#", "STATE", "AUTHOR", "LABELS", "TITLE"],
        &rows,
    ))?;
    Ok(())
}

fn show(factory: &Factory, number: IssueNo, json: bool) -> Result<(), Failure> {
    let whole = Whole::read(factory, number)?.ok_or_else(|| unknown(number))?;
    if json {
        views::print_json(&whole.detail())?;
    } else {
        views::print(&whole.show(clock::now()))?;
    }
    Ok(())
}
