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
mod rules;
mod trial;
mod views;
mod wait;

use clap::Parser;

use std::process::ExitCode;

/// Parses the command line, does what it asks for, and gives the documented exit code.
pub fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(said) => return answered(&said),
    };
    match commands::run(args) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Help, the version, or what is wrong with the command line, which may quote foreign text.
fn answered(said: &clap::Error) -> ExitCode {
    let text = said.render().to_string();
    if said.use_stderr() {
        views::aside(text.trim_end());
    } else if let Err(failure) = views::print(&text) {
        return failure.report();
    }
    ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(failure::Class::Usage.code()))
}
