//! Commands: one file each.

mod agent;
mod demo;
mod doctor;
mod freeze;
mod gc;
mod image;
mod init;
mod instruct;
mod issue;
mod job;
mod log;
mod plan;
mod pr;
mod processes;
mod run;
mod state;
mod status;
mod stop;
mod sync;
mod take_over;

use crate::{
    args::{Args, Command, Issue, Job, Pr},
    factory::Factory,
    failure::{Class, Failure},
};
use std::{path::PathBuf, process::ExitCode};

/// Does what the command line asks for.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let cwd = directory(args.directory)?;
    match args.command {
        Command::Init(options) => init::run(&cwd, options),
        Command::Doctor(json) => doctor::run(&cwd, json.json),
        Command::Image(command) => image::run(&cwd, command),
        Command::Issue(command @ (Issue::List { .. } | Issue::Show { .. })) => {
            issue::run(&mut look(cwd)?, command)
        }
        Command::Issue(command) => issue::run(&mut open(cwd)?, command),
        Command::Do(options) => instruct::run(&mut open(cwd)?, options),
        Command::Pr(command @ (Pr::List { .. } | Pr::Show { .. } | Pr::Diff { .. })) => {
            pr::run(&mut look(cwd)?, command)
        }
        Command::Pr(command) => pr::run(&mut open(cwd)?, command),
        Command::Job(command @ (Job::List(_) | Job::Show { .. })) => {
            job::run(&mut look(cwd)?, command)
        }
        Command::Job(command) => job::run(&mut open(cwd)?, command),
        Command::Plan(json) => plan::run(&look(cwd)?, json.json),
        Command::Agent(command) => agent::run(&cwd, command),
        Command::Run(command) => run::run(&look(cwd)?, command),
        Command::Status(json) => status::run(&look(cwd)?, json.json),
        Command::Log(options) => log::run(&look(cwd)?, options),
        Command::Stop(options) if options.all_agents => freeze::run(&mut open(cwd)?),
        Command::Stop(options) => stop::run(&mut open(cwd)?, options),
        Command::Resume => freeze::lift(&mut open(cwd)?),
        Command::State(command) => state::run(&cwd, command),
        Command::Sync(options) => sync::run(&cwd, &options),
        Command::Gc => gc::run(&mut open(cwd)?),
        Command::Demo(options) => demo::run(options),
        Command::Start(mut options) => {
            // `-C` means: as if started there.
            options.config = options.config.map(|file| cwd.join(file));
            processes::start(&cwd, &options)
        }
        Command::Prepare(options) => image::prepare(&cwd, &options),
        Command::Kernel(options) => processes::kernel(&cwd, options),
        Command::Gateway => processes::gateway(&cwd),
    }
}

/// Where to work: in `given`, from where we stand.
fn directory(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) if path.is_absolute() => Ok(path),
        given => match std::env::current_dir() {
            Ok(here) => Ok(given.map_or_else(|| here.clone(), |path| here.join(path))),
            Err(error) => {
                let named = std::env::var_os("PWD").map(PathBuf::from);
                let place = named.map(|path| format!(", {},", path.display()));
                Err(Failure::new(
                    Class::Repository,
                    format!(
                        "the current directory{} cannot be used: {error}",
                        place.unwrap_or_default()
                    ),
                )
                .help("change into a directory that is there: cd <your repository>"))
            }
        },
    }
}

fn look(cwd: PathBuf) -> Result<Factory, Failure> {
    Factory::look(&cwd)
}

fn open(cwd: PathBuf) -> Result<Factory, Failure> {
    Factory::open(&cwd)
}
