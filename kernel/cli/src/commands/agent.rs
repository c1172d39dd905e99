//! `factory agent`.

use crate::{
    args::Agent as Command,
    factory::Factory,
    failure::{Class, Failure},
    rules,
    views::{self, line},
};
use factory_core::agents::{self, AGENTS, Agent, AgentError, Agents, FILE_LIMIT};
use factory_ledger::places::Places;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{self, DirEntry},
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Most files that are looked at.
const MOST_FILES: usize = 100;

/// An agent in JSON.
#[derive(Debug, Serialize)]
struct AgentView {
    name: String,
    role: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    job: String,
    /// Its file in the repository; null for one that is built in.
    file: Option<String>,
    /// Its whole file; of `show` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl AgentView {
    fn new(agent: &Agent, is_own: bool) -> Self {
        Self {
            name: agent.name.clone(),
            role: agent.role.as_str(),
            kind: agent.kind.as_str(),
            job: line(&agent.job),
            file: is_own.then(|| format!("{AGENTS}/{}.md", agent.name)),
            text: None,
        }
    }
}

/// What is wrong with an agent's file, in JSON.
#[derive(Debug, Serialize)]
struct WrongView {
    file: String,
    /// From 1; 0 where the whole file is meant.
    line: u64,
    what: String,
    help: String,
}

/// Does what is asked for.
pub fn run(cwd: &Path, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List(json) => list(&Factory::look(cwd)?, json.json),
        Command::Show { name, json } => show(&Factory::look(cwd)?, &name, json.json),
        Command::Lint(json) => lint(cwd, json.json),
    }
}

/// Who works at the target's tip, one for each role, and whether it is its own.
fn working(factory: &Factory) -> Result<Vec<(Agent, bool)>, Failure> {
    let own = rules::agents(&factory.user, &factory.target_tip()?)?;
    let all = builtins()?.into_iter();
    let all = all.map(|builtin| match own.own(builtin.role) {
        Some(own) => (own.clone(), true),
        None => (builtin, false),
    });
    Ok(all.collect())
}

fn builtins() -> Result<Vec<Agent>, Failure> {
    agents::builtins().map_err(|error| Failure::of(Class::Internal, error))
}

fn list(factory: &Factory, json: bool) -> Result<ExitCode, Failure> {
    let working = working(factory)?;
    let all: Vec<AgentView> = working
        .iter()
        .map(|(a, own)| AgentView::new(a, *own))
        .collect();
    if json {
        views::print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 5]> = all
        .into_iter()
        .map(|agent| {
            let file = agent.file.unwrap_or_else(|| "built in".to_owned());
            let (role, kind) = (agent.role.to_owned(), agent.kind.to_owned());
            [agent.name, role, kind, file, agent.job]
        })
        .collect();
    let heading = ["AGENT", "ROLE", "TYPE", "FROM", "JOB"];
    views::print(&views::table(heading, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn show(factory: &Factory, name: &str, json: bool) -> Result<ExitCode, Failure> {
    let mut found = working(factory)?.into_iter().find(|(a, _)| a.name == name);
    if found.is_none() {
        // One that another takes the place of is worth a look too.
        let builtin = builtins()?.into_iter().find(|agent| agent.name == name);
        found = builtin.map(|agent| (agent, false));
    }
    let Some((agent, is_own)) = found else {
        let what = format!("there is no agent `{}`", line(name));
        return Err(Failure::new(Class::Refused, what).help("factory agent list"));
    };
    match json {
        true => views::print_json(&AgentView {
            text: Some(agent.text.clone()),
            ..AgentView::new(&agent, is_own)
        })?,
        false => views::print(&agent.text)?,
    };
    Ok(ExitCode::SUCCESS)
}

fn lint(cwd: &Path, json: bool) -> Result<ExitCode, Failure> {
    let places = Places::discover(cwd)?;
    let Some(top) = places.work_tree() else {
        let what = "no work tree is here: its agents are looked at as they lie there";
        return Err(Failure::new(Class::Repository, what).help("change into the repository"));
    };
    let (files, mut wrong) = here(top)?;
    if let Err(more) = Agents::read(&files) {
        wrong.extend(more);
    }
    wrong.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let code = match wrong.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Class::Config.code()),
    };
    if json {
        let view = |error: &AgentError| WrongView {
            file: error.file.clone(),
            line: error.line,
            what: error.what.clone(),
            help: error.help.clone(),
        };
        let all: Vec<WrongView> = wrong.iter().map(view).collect();
        views::print_json(&all)?;
        return Ok(code);
    }
    match wrong.is_empty() {
        true => {
            let count = views::count(files.len() as u64, "agent");
            views::told(&format!("{AGENTS}: {count}, nothing wrong\n"))?;
        }
        false => {
            let told = wrong
                .iter()
                .map(|error| format!("{error}\n  {}\n", error.help));
            views::print(&told.collect::<String>())?;
        }
    }
    Ok(code)
}

/// Files by path, and what is none.
type Here = (BTreeMap<String, Vec<u8>>, Vec<AgentError>);

/// The files that lie in the work tree, by their paths in it; and those that git would not
/// keep as files.
fn here(top: &Path) -> Result<Here, Failure> {
    let mut files = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut open: Vec<PathBuf> = vec![PathBuf::from(AGENTS)];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(top.join(&dir)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                let what = "this is no folder".to_owned();
                wrong.push(no_file(
                    dir.to_string_lossy().into_owned(),
                    what,
                    "make it one",
                ));
                continue;
            }
            entries => entries.and_then(Iterator::collect::<Result<Vec<DirEntry>, _>>)?,
        };
        for entry in entries {
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            let name = path.to_string_lossy().into_owned();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                // One more than is allowed tells that it is too long.
                let mut content = Vec::new();
                let file = fs::File::open(entry.path())?;
                file.take(FILE_LIMIT as u64 + 1).read_to_end(&mut content)?;
                files.insert(name, content);
            } else {
                let what = "this is no file".to_owned();
                wrong.push(no_file(name, what, "put the text itself there"));
            }
        }
        if files.len() + wrong.len() + open.len() > MOST_FILES {
            let what = format!("{AGENTS} holds more than {MOST_FILES} files");
            return Err(Failure::new(Class::Config, what).help("keep one for each role"));
        }
    }
    Ok((files, wrong))
}

fn no_file(file: String, what: String, help: &str) -> AgentError {
    AgentError {
        file,
        line: 0,
        what,
        help: help.to_owned(),
    }
}
