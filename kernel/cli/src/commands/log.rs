//! `factory log`: the state's history as a diary.

use crate::{
    args::Log,
    clock,
    factory::Factory,
    failure::Failure,
    views::{self, line},
};
use serde::Serialize;
use std::process::ExitCode;

/// The trailer that numbers a step.
const TRAILER: &str = "Factory-Step: ";

/// One step in JSON.
#[derive(Debug, Serialize)]
struct StepView {
    /// `<epoch>.<n>`.
    step: String,
    /// When, RFC 3339.
    at: String,
    /// What happened, one line.
    note: String,
    /// The commit of `state.git` that recorded it.
    commit: String,
}

/// Prints the newest steps, newest last.
pub fn run(factory: &Factory, options: Log) -> Result<ExitCode, Failure> {
    let mut steps = factory.store.log(options.limit)?;
    steps.reverse();
    let step_of = |message: &str| {
        let number = message.lines().rev().find_map(|l| l.strip_prefix(TRAILER));
        number.unwrap_or_default().to_owned()
    };
    let note_of = |message: &str| message.lines().next().unwrap_or_default().to_owned();
    if options.json.json {
        let views: Vec<StepView> = steps
            .iter()
            .map(|entry| StepView {
                step: step_of(&entry.message),
                at: views::stamp(entry.seconds),
                note: note_of(&entry.message),
                commit: entry.oid.to_string(),
            })
            .collect();
        views::print_json(&views)?;
    } else {
        let mut out = String::new();
        for entry in &steps {
            out.push_str(&format!(
                "{}  {:7} {}\n",
                clock::show(entry.seconds),
                line(&step_of(&entry.message)),
                line(&note_of(&entry.message)),
            ));
        }
        views::print(&out)?;
    }
    Ok(ExitCode::SUCCESS)
}
