//! The `factory` program: launcher, commands, and the async shell around the core.

mod args;
mod base;
mod clock;
mod commands;
mod disk;
mod factory;
mod failure;
mod guess;
pub mod kernel;
mod keys;
mod launcher;
mod probe;
mod retention;
mod room;
mod trial;
mod views;
mod wait;

use clap::Parser;

use std::process::ExitCode;

/// Parses the command line, does what it asks for, and gives the documented exit code.
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
