//! `factory do`.

use super::{issue::text, processes};
use crate::{
    args::{Do, Start},
    factory::Factory,
    failure::{Class, Failure, NEEDS_HUMAN},
    views::{self, archive, issue::word, line},
    wait::{self, Next},
};
use factory_core::{
    event::Command,
    ids::IssueNo,
    model::{Issue, PrState, Stage},
};
use std::{collections::BTreeMap, process::ExitCode};

/// Gives an instruction; with `--wait` stays until it is known what came of it.
pub fn run(factory: &mut Factory, options: Do) -> Result<ExitCode, Failure> {
    let said = text(options.instruction.unwrap_or_else(|| "-".to_owned()))?;
    if wait::kernel(&factory.places)?.is_none() {
        // It says who can split instructions.
        factory.refresh_config(None)?;
    }
    let command = Command::Instruct {
        text: said,
        auto_approve: options.auto_approve,
    };
    let (_, awake) = wait::order(factory, command)?;
    let number = IssueNo(factory.state.meta.last_issue);
    let next = match (options.wait, awake) {
        (true, _) => String::new(),
        (false, true) => "; it is split into issues now".to_owned(),
        (false, false) => "; start the factory: `factory start`".to_owned(),
    };
    views::told(&format!("instruction filed as issue {number}{next}\n"))?;
    match options.wait {
        true => follow(factory, number),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Stays with an instruction until all that it became is over, or a person has to look at it.
fn follow(factory: &mut Factory, number: IssueNo) -> Result<ExitCode, Failure> {
    let mut told: BTreeMap<IssueNo, String> = BTreeMap::new();
    loop {
        for (issue, stands) in standings(factory, number) {
            if told.get(&issue) != Some(&stands) {
                views::hint(&format!("#{issue} {stands}"))?;
                told.insert(issue, stands);
            }
        }
        if !factory.state.issues.contains_key(&number) {
            return outcome(factory, number);
        }
        if let Some(stuck) = stuck(factory, number) {
            views::hint(&format!(
                "#{stuck} needs you: `factory issue show {stuck}` says why"
            ))?;
            return Ok(ExitCode::from(NEEDS_HUMAN));
        }
        if wait::next(factory)? == Next::Look {
            continue;
        }
        // One that prepares is about to come.
        if wait::launcher(&factory.places)?.is_some() {
            std::thread::park_timeout(wait::LOOK_AGAIN);
            factory.reload()?;
            continue;
        }
        if let Some(code) = alone(factory, number)? {
            return Ok(code);
        }
    }
}

/// Where no factory runs: with one that works until only gates are left. None where it is
/// known by then what came of the instruction.
fn alone(factory: &mut Factory, number: IssueNo) -> Result<Option<ExitCode>, Failure> {
    let places = &factory.places;
    let directory = places.work_tree().unwrap_or(places.common_dir()).to_owned();
    let options = Start {
        until_idle: true,
        ..Start::default()
    };
    let code = processes::start(&directory, &options)?;
    factory.reload()?;
    if !factory.state.issues.contains_key(&number) || code == ExitCode::from(Class::Busy.code()) {
        return Ok(None);
    }
    for gate in gates(factory, number) {
        views::hint(&gate)?;
    }
    Ok(Some(code))
}

/// The issues that belong to an instruction, itself first.
fn family(factory: &Factory, number: IssueNo) -> impl Iterator<Item = &Issue> {
    let issues = factory.state.issues.values();
    issues.filter(move |issue| issue.number == number || issue.parent == Some(number))
}

fn standings(factory: &Factory, number: IssueNo) -> Vec<(IssueNo, String)> {
    let standing = |issue: &Issue| {
        let job = factory.state.jobs.get(&issue.number);
        let word = match job.and_then(|job| gate_of(factory, issue.number, job.stage())) {
            Some(gate) => gate,
            None => word(issue, job),
        };
        (issue.number, format!("{}: {word}", line(&issue.title)))
    };
    family(factory, number).map(standing).collect()
}

/// What opens the gate that an issue's job waits at.
fn gate_of(factory: &Factory, issue: IssueNo, stage: &Stage) -> Option<String> {
    match stage {
        Stage::SplitReady => Some(format!(
            "its issues wait for you: `factory issue approve {issue}`"
        )),
        Stage::PlanReady => Some(format!(
            "its plan waits for you: `factory issue approve {issue}`"
        )),
        Stage::Proposed => {
            let pr = factory.state.jobs.get(&issue)?.pr?;
            let state = &factory.state.prs.get(&pr)?.state;
            (*state == PrState::Ready).then(|| {
                format!("pull request {pr} waits for you: `factory pr show {pr}`, `factory pr merge {pr}`")
            })
        }
        _ => None,
    }
}

fn gates(factory: &Factory, number: IssueNo) -> Vec<String> {
    let gate = |issue: &Issue| {
        let job = factory.state.jobs.get(&issue.number)?;
        let gate = gate_of(factory, issue.number, job.stage())?;
        Some(format!("#{} {gate}", issue.number))
    };
    family(factory, number).filter_map(gate).collect()
}

/// One of them that a person has to look at.
fn stuck(factory: &Factory, number: IssueNo) -> Option<IssueNo> {
    let mut stuck = factory.state.needing_human();
    stuck.find(|stuck| family(factory, number).any(|issue| issue.number == *stuck))
}

fn outcome(factory: &Factory, number: IssueNo) -> Result<ExitCode, Failure> {
    let comments = archive::comments(factory, number)?;
    if let Some(summary) = comments.last() {
        views::print(&format!("{}\n", summary.text.trim_end()))?;
    }
    let issue = archive::issue(factory, number)?;
    let done = issue.and_then(|issue| issue.instruction).map(|i| i.done);
    let all_merged = done.is_some_and(|done| done.iter().all(|part| part.pr.is_some()));
    match all_merged {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::new(
            Class::Refused,
            format!("not all of instruction {number} was merged"),
        )
        .help(format!(
            "see what was given up with `factory issue show {number}`"
        ))),
    }
}
