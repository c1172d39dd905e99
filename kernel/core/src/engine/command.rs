//! Any command: the brief on standard input, exit code 0 when done.

use super::{Verdict, describe_exit};
use crate::{
    inbox::{EngineExit, RunEnd},
    wire::EngineLaunch,
};
use std::collections::BTreeMap;

pub(super) fn launch(argv: &[String]) -> EngineLaunch {
    EngineLaunch {
        argv: argv.to_vec(),
        resume_argv: None,
        env: BTreeMap::new(),
        dirs: Vec::new(),
        files: BTreeMap::new(),
        session_file: None,
    }
}

pub(super) fn verdict(end: &RunEnd) -> Verdict {
    match end.exit {
        EngineExit::Code(0) => Verdict::Finished,
        _ => Verdict::Failed {
            why: format!("the command ended with {}", describe_exit(end)),
        },
    }
}
