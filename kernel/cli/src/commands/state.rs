//! `factory state`: whether the database is whole, and the way back where it is not.

use crate::{
    args::State,
    clock,
    failure::{Class, Failure},
    views::{self, count, line},
    wait,
};
use factory_ledger::{
    history::{self, Landmark, Report},
    places::Places,
    restore::{self, RestoreError, Restored},
};
use serde::Serialize;
use std::{path::Path, process::ExitCode};

/// Most lost steps that are listed one by one.
const MOST_LOST: usize = 20;

/// What `state verify` found, in JSON.
#[derive(Debug, Serialize)]
struct ReportView {
    /// True when nothing is wrong.
    whole: bool,
    /// The newest state; null where there is none.
    newest: Option<StepView>,
    /// A second way into the history, at most a hundred steps behind.
    anchor: Option<StepView>,
    /// Commits in the history, as far as it can be read.
    steps: u64,
    /// Steps whose writer died before they landed. Harmless.
    unlanded: Vec<StepView>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StepView {
    /// `<epoch>.<n>`.
    step: String,
    commit: String,
    subject: String,
}

impl From<&Landmark> for StepView {
    fn from(mark: &Landmark) -> Self {
        Self {
            step: mark.step.to_string(),
            commit: mark.oid.to_string(),
            subject: mark.subject.clone(),
        }
    }
}

/// Runs a command on the database. Does not read the state: it may be broken.
pub fn run(cwd: &Path, command: State) -> Result<ExitCode, Failure> {
    let places = Places::discover(cwd)?;
    match command {
        State::Verify(json) => verify(&places, json.json),
        State::Restore => restore(&places),
    }
}

fn verify(places: &Places, json: bool) -> Result<ExitCode, Failure> {
    let report = history::verify(places)?;
    let whole = report.problems.is_empty();
    if json {
        views::print_json(&ReportView {
            whole,
            newest: report.tip.as_ref().map(Into::into),
            anchor: report.anchor.as_ref().map(Into::into),
            steps: report.steps,
            unlanded: report.unlanded.iter().map(Into::into).collect(),
            problems: report.problems.iter().map(ToString::to_string).collect(),
        })?;
    } else {
        views::print(&shown(&report))?;
    }
    Ok(match whole {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Class::Internal.code()),
    })
}

fn shown(report: &Report) -> String {
    let mut out = String::new();
    if let Some(tip) = &report.tip {
        out.push_str(&format!(
            "state:   step {} ({}), {} in all\n",
            tip.step,
            line(&tip.subject),
            count(report.steps, "step"),
        ));
    }
    match &report.anchor {
        Some(anchor) => out.push_str(&format!("anchor:  step {}\n", anchor.step)),
        None => out.push_str("anchor:  none; the next hundredth step sets it\n"),
    }
    for mark in &report.unlanded {
        out.push_str(&format!(
            "note:    step {} ({}) did not land; its writer was stopped before, or lost to another\n",
            mark.step,
            line(&mark.subject)
        ));
    }
    for problem in &report.problems {
        out.push_str(&format!("problem: {}\n", line(&problem.to_string())));
    }
    match report.problems.is_empty() {
        true => out.push_str("The state is whole.\n"),
        false => out.push_str(
            "\n`factory state restore` goes back to the newest intact step and keeps the rest aside.\n",
        ),
    }
    out
}

fn restore(places: &Places) -> Result<ExitCode, Failure> {
    // Held to the end: no kernel may begin on a state that is just replaced.
    let _lock = wait::lock(places)?;
    if history::verify(places)?.problems.is_empty() {
        views::print("The state is whole; nothing was changed.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = restore::restore(places, clock::now().0).map_err(|error| {
        let class = match &error {
            RestoreError::NothingIntact { .. } => Class::Refused,
            _ => Class::Internal,
        };
        Failure::of(class, error)
    })?;
    views::told(&told(&done))?;
    Ok(ExitCode::SUCCESS)
}

fn told(done: &Restored) -> String {
    let mut out = format!(
        "restored from step {} ({}); now at step {}\nEvery number from here on is {} higher, so that none is given twice.\n",
        done.from.step,
        line(&done.from.subject),
        done.step,
        done.raised,
    );
    match done.lost.len() as u64 {
        0 => out.push_str("No later step was found.\n"),
        n => {
            out.push_str(&format!("\nLost: {}\n", count(n, "step")));
            for mark in done.lost.iter().take(MOST_LOST) {
                out.push_str(&format!("  {}  {}\n", mark.step, line(&mark.subject)));
            }
            if done.lost.len() > MOST_LOST {
                out.push_str(&format!("  and {} more\n", done.lost.len() - MOST_LOST));
            }
        }
    }
    for file in &done.lost_files {
        out.push_str(&format!("Lost: {}\n", line(file)));
    }
    if done.cut {
        out.push_str("The history before that step is damaged: `factory log` begins anew.\n");
    }
    if !done.damaged.is_empty() {
        let n = count(done.damaged.len() as u64, "damaged object");
        let dir = done.damaged_dir.display();
        out.push_str(&format!(
            "{n}; what lay in a file of its own is now in {dir}\n"
        ));
    }
    match (&done.old, &done.kept) {
        (_, Some(kept)) => {
            out.push_str(&format!("What was there is kept at {kept} of state.git.\n"))
        }
        (Some(old), None) => out.push_str(&format!(
            "What was there, commit {old}, is not whole and has no name any more.\n"
        )),
        (None, None) => {}
    }
    out.push_str("\nWhat agents did in lost steps may be done again. `factory start` goes on.\n");
    out
}
