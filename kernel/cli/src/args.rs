//! The command line.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Allocates slots and runs coding agents in containers; git is the only state.
#[derive(Debug, Parser)]
#[command(name = "factory", version, about, propagate_version = true)]
pub struct Args {
    /// Work as if started in this directory.
    #[arg(short = 'C', long = "directory", global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write factory.yaml and the intent layer into this repository, staged but not committed.
    Init(Init),
    /// Look whether everything that is needed is there, and say what mends it.
    Doctor(Json),
    /// The image that agents run in.
    #[command(subcommand)]
    Image(Image),
    /// Give an instruction: it is split into issues, and these are worked on.
    Do(Do),
    /// Issues: what is to be built.
    #[command(subcommand)]
    Issue(Issue),
    /// Pull requests: what was built.
    #[command(subcommand)]
    Pr(Pr),
    /// Jobs: approved issues on their way.
    #[command(subcommand)]
    Job(Job),
    /// What begins next, and for everything that waits the reason why.
    Plan(Json),
    /// Agents: who does the work of each role, and with what words.
    #[command(subcommand)]
    Agent(Agent),
    /// Runs: who works and who worked.
    #[command(subcommand)]
    Run(Run),
    /// Start the factory and watch it work.
    ///
    /// Model keys come from the environment, else from ~/.config/factory/keys.env, else from the
    /// command that FACTORY_KEY_COMMAND names in that file.
    Start(Start),
    /// End the factory that runs here: after what runs has ended, or at once. Or stop all agents.
    Stop(Stop),
    /// Let agents work again after `stop --all-agents`.
    Resume,
    /// What goes on now, and what waits for you.
    Status(Json),
    /// What happened, step by step, newest last.
    Log(Log),
    /// The database: whether it is whole, and the way back where it is not.
    #[command(subcommand)]
    State(State),
    /// Bring this factory's state to refs/factory/* of a remote, for another machine to go on from.
    Sync(Sync),
    /// Pack the repositories in the factory's folder and drop what is old.
    Gc,
    /// The whole thing in a temporary repository: no key, no account; once the image is there, no network.
    Demo(Demo),
    /// One of the processes that `start` starts.
    #[command(hide = true)]
    Kernel(Start),
    /// One of the processes that `start` starts.
    #[command(hide = true)]
    Gateway,
    /// One of the processes that `start` starts: image and door probe.
    #[command(hide = true)]
    Prepare(Start),
}

/// Output for programs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Json {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `init`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Init {
    /// Run the checks once in the image; exit code 12 if they are not green.
    #[arg(long = "try")]
    pub try_checks: bool,
}

/// Options of `start`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Start {
    /// How many containers may live at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub slots: Option<u32>,
    /// End when only human gates are left; exit code 10 if something needs a person.
    #[arg(long)]
    pub until_idle: bool,
    /// Use this file in place of the target branch's factory.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Branch to work for from now on.
    #[arg(long, value_name = "BRANCH")]
    pub target: Option<String>,
    /// Go on here with what another machine brought to the remote by `factory sync`.
    #[arg(long)]
    pub take_over: bool,
    /// The remote to take over from.
    #[arg(long, value_name = "NAME", requires = "take_over")]
    pub remote: Option<String>,
    /// Only settle pull requests whose merge gate is open.
    #[arg(long, hide = true)]
    pub merges_only: bool,
}

/// Options of `do`.
#[derive(Debug, Clone, clap::Args)]
pub struct Do {
    /// What is wanted; `-` or nothing reads standard input.
    #[arg(allow_hyphen_values = true)]
    pub instruction: Option<String>,
    /// Approve its issues as soon as they are filed.
    #[arg(long)]
    pub auto_approve: bool,
    /// Stay until it is done, with a factory of its own where none runs; exit code 10 if something needs a person.
    #[arg(long)]
    pub wait: bool,
}

/// Commands for images.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build it, as factory.yaml says.
    Build,
    /// List the images of factory on this engine, and what needs them.
    List(Json),
    /// Remove images that earlier configurations of this repository wanted; none that a container is made from.
    Prune {
        /// Also those of other factories on this engine: who needs one builds it again.
        #[arg(long)]
        all: bool,
    },
}

/// Commands for issues.
#[derive(Debug, Subcommand)]
pub enum Issue {
    /// File an issue.
    New {
        /// One line.
        #[arg(short, long, allow_hyphen_values = true)]
        title: String,
        /// Markdown; `-` reads standard input.
        #[arg(short, long, default_value = "", allow_hyphen_values = true)]
        body: String,
        /// A label, such as priority/high; may be given more than once.
        #[arg(short, long = "label", value_name = "LABEL")]
        labels: Vec<String>,
    },
    /// List open issues.
    List {
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show an issue with its comments.
    Show {
        /// Its number.
        number: String,
        #[command(flatten)]
        json: Json,
    },
    /// Change what it asks for; its job begins anew.
    Edit {
        /// Its number.
        number: String,
        /// One line.
        #[arg(
            short,
            long,
            allow_hyphen_values = true,
            required_unless_present = "body"
        )]
        title: Option<String>,
        /// Markdown; `-` reads standard input.
        #[arg(short, long, allow_hyphen_values = true)]
        body: Option<String>,
    },
    /// Open its gate: let a job work on it, by its plan, or on the issues that it became; also tries again what needed a person.
    Approve {
        /// Its number.
        number: String,
    },
    /// Give it up; ends its runs and closes its pull request.
    Close {
        /// Its number.
        number: String,
    },
    /// Change its labels.
    Label {
        /// Its number.
        number: String,
        /// A label to put on; a priority takes the place of another, as does a complexity.
        #[arg(long, value_name = "LABEL", required_unless_present = "remove")]
        add: Vec<String>,
        /// A label to take off.
        #[arg(long, value_name = "LABEL")]
        remove: Vec<String>,
    },
    /// Say what must be done before it.
    Depend {
        /// Its number.
        number: String,
        /// An issue that must be done before.
        #[arg(long, value_name = "NUMBER", required_unless_present = "off")]
        on: Vec<String>,
        /// An issue that need not be done before any more.
        #[arg(long, value_name = "NUMBER")]
        off: Vec<String>,
    },
    /// Comment on it; the next run reads it. `/factory retry`, `hold`, `release`, `approve`, `merge`, `stop` or `explain` in its first line is carried out.
    Comment {
        /// Its number.
        number: String,
        /// Markdown; `-` reads standard input.
        #[arg(short, long, allow_hyphen_values = true)]
        body: String,
    },
}

/// Commands for jobs, each named by its issue.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs, and where each stands.
    List(Json),
    /// Show a job.
    Show {
        /// Its issue's number.
        number: String,
        #[command(flatten)]
        json: Json,
    },
    /// Begin nothing of it until it is released; a run that lives goes on.
    Hold {
        /// Its issue's number.
        number: String,
    },
    /// Let it go on.
    Release {
        /// Its issue's number.
        number: String,
    },
    /// Put it in front of all others.
    Bump {
        /// Its issue's number.
        number: String,
    },
    /// Try again now: what rests between two tries, what needs a person, or, with another round, a pull request at its gate.
    Retry {
        /// Its issue's number.
        number: String,
    },
    /// End it with its runs and its pull request; its issue waits for approval again.
    Cancel {
        /// Its issue's number.
        number: String,
    },
}

/// Commands for pull requests.
#[derive(Debug, Subcommand)]
pub enum Pr {
    /// List open pull requests.
    List {
        /// Merged and closed ones too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show a pull request.
    Show {
        /// Its number.
        number: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show what it changes.
    Diff {
        /// Its number.
        number: String,
    },
    /// Merge it: tested with the target first.
    Merge {
        /// Its number.
        number: String,
    },
    /// Send it back to its job, which reads what is to be changed.
    Review {
        /// Its number.
        number: String,
        /// What is to be changed; `-` reads standard input.
        #[arg(short = 'c', long, value_name = "TEXT", allow_hyphen_values = true)]
        request_changes: String,
    },
    /// Close it; its issue waits for approval again.
    Reject {
        /// Its number.
        number: String,
        /// Why; the next run reads it.
        #[arg(short, long, allow_hyphen_values = true)]
        reason: String,
    },
}

/// Commands for agents.
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// List who works: the target's own agents, and the built-in ones of all other roles.
    List(Json),
    /// Show an agent's file: a beginning for one of your own.
    Show {
        /// Its name, such as reviewer.
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Look at .factory/agents as it is here, committed or not; exit code 4 where anything is wrong.
    Lint(Json),
}

/// Commands for runs.
#[derive(Debug, Subcommand)]
pub enum Run {
    /// List live runs.
    List {
        /// Ended ones too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show a run.
    Show {
        /// Its name, such as r7-1.
        run: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show what its engine said and did.
    Logs {
        /// Its name, such as r7-1.
        run: String,
        /// Go on until it ends.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        json: Json,
    },
}

/// Commands for the database.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum State {
    /// Look whether it and its history are whole; exit code 1 if not. Changes nothing.
    Verify(Json),
    /// Go back to the newest intact step, where something is wrong. No factory may run.
    Restore,
}

/// Options of `stop`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Stop {
    /// End the agents as well, within seconds; the next start goes on from what they have.
    #[arg(long)]
    pub now: bool,
    /// Emergency stop: end every agent within seconds and begin nothing, also after a restart,
    /// until `factory resume`. What they have is kept; the factory itself stays.
    #[arg(long, conflicts_with = "now")]
    pub all_agents: bool,
}

/// Options of `sync`.
#[derive(Debug, Clone, clap::Args)]
pub struct Sync {
    /// A remote of this repository; remembered.
    #[arg(long, value_name = "NAME")]
    pub remote: Option<String>,
    /// Bring what engines said in ended runs, too.
    #[arg(long)]
    pub with_transcripts: bool,
    /// Do not ask the first time.
    #[arg(long)]
    pub yes: bool,
}

/// Options of `log`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Log {
    /// How many of the newest steps.
    #[arg(short = 'n', long, default_value_t = 200)]
    pub limit: usize,
    #[command(flatten)]
    /// Output for programs.
    pub json: Json,
}

/// Options of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Demo {
    /// Keep the temporary repository.
    #[arg(long)]
    pub keep: bool,
}
