//! The state as a value, what a step changes in it, and how both are written as files.

use crate::{
    change::FileChange,
    history::History,
    ids::{IssueNo, PrNo, RunId},
    model::{Comment, ConfigInForce, Drafts, Effect, FORMAT, Issue, Job, Meta, Pr, Run},
    schedule::Queue,
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is live; what is archived is read by path when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `meta.yaml`.
    pub meta: Meta,
    /// `config.yaml`.
    pub config: ConfigInForce,
    /// `history.yaml`.
    pub history: History,
    /// Open issues.
    pub issues: BTreeMap<IssueNo, Issue>,
    /// Comments of open issues, by issue and number.
    pub comments: BTreeMap<(IssueNo, u32), Comment>,
    /// Open pull requests.
    pub prs: BTreeMap<PrNo, Pr>,
    /// Jobs that are not done.
    pub jobs: BTreeMap<IssueNo, Job>,
    /// Runs whose container or workspace may still exist.
    pub runs: BTreeMap<RunId, Run>,
    /// Effects without a result.
    pub effects: BTreeMap<String, Effect>,
    /// Issues that agents asked for and that wait for a day with room.
    pub drafts: BTreeMap<RunId, Drafts>,
    /// The order in which jobs wait, derived from the above.
    pub queue: Queue,
}

/// A state tree that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A file does not parse.
    #[error("state: {path} cannot be read: {what}")]
    Unreadable {
        /// Path in the state tree.
        path: String,
        /// What the parser said.
        what: String,
    },
    /// The tree was written by a newer program.
    #[error("state: the format is {found}, this program knows {FORMAT}; use the newer factory")]
    Newer {
        /// The format found.
        found: u32,
    },
    /// `meta.yaml` is missing.
    #[error("state: meta.yaml is missing")]
    NoMeta,
}

/// What becomes of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put<T> {
    /// It is live with this value.
    Live(T),
    /// It leaves the live state with this last value, which the archive keeps.
    Archived(T),
    /// It leaves the live state; the history is enough.
    Gone,
}

/// What one step changes. Applied to the state only after its commit landed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// New `meta.yaml`.
    pub meta: Option<Meta>,
    /// New `config.yaml`.
    pub config: Option<ConfigInForce>,
    /// New `history.yaml`.
    pub history: Option<History>,
    /// Issues.
    pub issues: BTreeMap<IssueNo, Put<Issue>>,
    /// Comments.
    pub comments: BTreeMap<(IssueNo, u32), Put<Comment>>,
    /// Pull requests.
    pub prs: BTreeMap<PrNo, Put<Pr>>,
    /// Jobs.
    pub jobs: BTreeMap<IssueNo, Put<Job>>,
    /// Runs.
    pub runs: BTreeMap<RunId, Put<Run>>,
    /// Effects.
    pub effects: BTreeMap<String, Put<Effect>>,
    /// Drafts.
    pub drafts: BTreeMap<RunId, Put<Drafts>>,
}

fn apply_puts<K: Ord, V>(map: &mut BTreeMap<K, V>, puts: BTreeMap<K, Put<V>>) {
    for (key, put) in puts {
        match put {
            Put::Live(value) => map.insert(key, value),
            Put::Archived(_) | Put::Gone => map.remove(&key),
        };
    }
}

impl State {
    /// A repository's first state.
    pub fn new(repository: String, target: String) -> Self {
        Self {
            meta: Meta {
                format: FORMAT,
                repository,
                target,
                epoch: crate::ids::Epoch(0),
                step: 0,
                last_issue: 0,
                last_pr: 0,
                kernel: None,
                ending: None,
                frozen: None,
                breakers: BTreeMap::new(),
                today: None,
                done: None,
                holder: None,
            },
            config: ConfigInForce::default(),
            history: History::default(),
            issues: BTreeMap::new(),
            comments: BTreeMap::new(),
            prs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            effects: BTreeMap::new(),
            drafts: BTreeMap::new(),
            queue: Queue::default(),
        }
    }

    /// The files of a first state.
    pub fn initial_files(&self) -> Vec<FileChange> {
        vec![
            write("meta.yaml".to_owned(), yaml(&self.meta)),
            write("config.yaml".to_owned(), yaml(&self.config)),
        ]
    }

    /// Takes over what a landed step changed.
    pub fn apply(&mut self, delta: Delta) {
        if let Some(meta) = delta.meta {
            self.meta = meta;
        }
        if let Some(config) = delta.config {
            self.config = config;
        }
        if let Some(history) = delta.history {
            self.history = history;
        }
        let of_issues = delta.issues.keys().chain(delta.jobs.keys());
        let touched: BTreeSet<IssueNo> = of_issues.copied().collect();
        apply_puts(&mut self.issues, delta.issues);
        apply_puts(&mut self.comments, delta.comments);
        apply_puts(&mut self.prs, delta.prs);
        apply_puts(&mut self.jobs, delta.jobs);
        apply_puts(&mut self.runs, delta.runs);
        apply_puts(&mut self.effects, delta.effects);
        apply_puts(&mut self.drafts, delta.drafts);
        for number in touched {
            self.requeue(number);
        }
    }

    fn requeue(&mut self, number: IssueNo) {
        let (issue, job) = (self.issues.get(&number), self.jobs.get(&number));
        self.queue.put(number, issue, job);
    }

    /// Comments of one open issue, oldest first.
    pub fn comments_of(&self, issue: IssueNo) -> impl Iterator<Item = &Comment> {
        self.comments
            .range((issue, 0)..=(issue, u32::MAX))
            .map(|(_, comment)| comment)
    }

    /// Reads a state from the live files of its tree. Files it does not know are an error.
    pub fn decode(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, StateError> {
        let meta_file = files.get("meta.yaml").ok_or(StateError::NoMeta)?;
        #[derive(serde::Deserialize)]
        struct OnlyFormat {
            format: u32,
        }
        let only: OnlyFormat = parse("meta.yaml", meta_file)?;
        if only.format > FORMAT {
            return Err(StateError::Newer { found: only.format });
        }
        let meta: Meta = parse("meta.yaml", meta_file)?;
        let mut state = Self::new(String::new(), String::new());
        state.meta = meta;
        for (path, bytes) in files {
            let parts: Vec<&str> = path.split('/').collect();
            match parts.as_slice() {
                ["meta.yaml"] => {}
                ["config.yaml"] => state.config = parse(path, bytes)?,
                ["history.yaml"] => state.history = parse(path, bytes)?,
                ["issues", "open", name] if name.ends_with(".md") => {
                    let mut issue: Issue =
                        front(path, bytes, |issue: &mut Issue, body| issue.body = body)?;
                    issue.labels.sort();
                    state.issues.insert(issue.number, issue);
                }
                ["issues", "open", dir, name] => {
                    let number = dir.strip_suffix(".d").and_then(|n| n.parse().ok());
                    let k = name
                        .strip_prefix("c-")
                        .and_then(|n| n.strip_suffix(".md"))
                        .and_then(|n| n.parse().ok());
                    let (Some(number), Some(k)) = (number, k) else {
                        return Err(stray(path));
                    };
                    let comment = front(path, bytes, |comment: &mut Comment, text| {
                        comment.text = text
                    })?;
                    state.comments.insert((number, k), comment);
                }
                ["prs", "open", _] => {
                    let pr = front(path, bytes, |pr: &mut Pr, body| pr.body = body)?;
                    state.prs.insert(pr.number, pr);
                }
                ["jobs", "active", _] => {
                    let job: Job = parse(path, bytes)?;
                    state.jobs.insert(job.issue, job);
                }
                ["runs", "active", _] => {
                    let run: Run = parse(path, bytes)?;
                    state.runs.insert(run.id, run);
                }
                ["effects", _] => {
                    let effect: Effect = parse(path, bytes)?;
                    state.effects.insert(effect.key.clone(), effect);
                }
                ["drafts", _] => {
                    let drafts: Drafts = parse(path, bytes)?;
                    state.drafts.insert(drafts.run, drafts);
                }
                _ => return Err(stray(path)),
            }
        }
        let numbers: Vec<IssueNo> = state.issues.keys().copied().collect();
        for number in numbers {
            state.requeue(number);
        }
        Ok(state)
    }
}

impl Delta {
    /// The files to write and remove, by kind of entity.
    pub fn files(&self) -> Vec<FileChange> {
        let mut out = Vec::new();
        if let Some(config) = &self.config {
            out.push(write("config.yaml".to_owned(), yaml(config)));
        }
        if let Some(history) = &self.history {
            out.push(write("history.yaml".to_owned(), yaml(history)));
        }
        for (key, put) in &self.effects {
            entity(
                &mut out,
                put,
                format!("effects/{key}.yaml"),
                format!("archive/effects/{key}.yaml"),
                yaml,
            );
        }
        for (run, put) in &self.drafts {
            let name = format!("{run}.yaml");
            entity(
                &mut out,
                put,
                format!("drafts/{name}"),
                archived("drafts", run.job.0, &name),
                yaml,
            );
        }
        for ((issue, k), put) in &self.comments {
            let name = format!("{issue}.d/c-{k}.md");
            entity(
                &mut out,
                put,
                format!("issues/open/{name}"),
                archived("issues", issue.0, &name),
                |c| document(c, &c.text),
            );
        }
        for (number, put) in &self.issues {
            let name = format!("{number}.md");
            entity(
                &mut out,
                put,
                format!("issues/open/{name}"),
                archived("issues", number.0, &name),
                |i| document(i, &i.body),
            );
        }
        for (number, put) in &self.jobs {
            let name = format!("{number}.yaml");
            entity(
                &mut out,
                put,
                format!("jobs/active/{name}"),
                archived("jobs", number.0, &name),
                yaml,
            );
        }
        if let Some(meta) = &self.meta {
            out.push(write("meta.yaml".to_owned(), yaml(meta)));
        }
        for (number, put) in &self.prs {
            let name = format!("{number}.md");
            entity(
                &mut out,
                put,
                format!("prs/open/{name}"),
                archived("prs", number.0, &name),
                |p| document(p, &p.body),
            );
        }
        for (run, put) in &self.runs {
            let name = format!("{run}.yaml");
            entity(
                &mut out,
                put,
                format!("runs/active/{name}"),
                archived("runs", run.job.0, &name),
                yaml,
            );
        }
        out
    }
}

/// Path of an archived file: `archive/<kind>/<number / 100>/<name>`.
pub fn archived(kind: &str, number: u64, name: &str) -> String {
    format!("archive/{kind}/{}/{name}", number / 100)
}

/// Reads an archived or live YAML file of the state tree.
pub fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, StateError> {
    let unreadable = |what: String| StateError::Unreadable {
        path: path.to_owned(),
        what,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    serde_saphyr::from_str(text).map_err(|e| unreadable(e.without_snippet().to_string()))
}

/// Reads an issue, with its body.
pub fn parse_issue(path: &str, bytes: &[u8]) -> Result<Issue, StateError> {
    front(path, bytes, |issue: &mut Issue, body| issue.body = body)
}

/// Reads a pull request, with its body.
pub fn parse_pr(path: &str, bytes: &[u8]) -> Result<Pr, StateError> {
    front(path, bytes, |pr: &mut Pr, body| pr.body = body)
}

/// Reads a comment, with its text.
pub fn parse_comment(path: &str, bytes: &[u8]) -> Result<Comment, StateError> {
    front(path, bytes, |comment: &mut Comment, text| {
        comment.text = text
    })
}

fn stray(path: &str) -> StateError {
    StateError::Unreadable {
        path: path.to_owned(),
        what: "no such file belongs into the state".to_owned(),
    }
}

fn entity<T>(
    out: &mut Vec<FileChange>,
    put: &Put<T>,
    live: String,
    archive: String,
    text: impl Fn(&T) -> String,
) {
    match put {
        Put::Live(value) => out.push(write(live, text(value))),
        Put::Archived(value) => {
            out.push(FileChange {
                path: live,
                content: None,
            });
            out.push(write(archive, text(value)));
        }
        Put::Gone => out.push(FileChange {
            path: live,
            content: None,
        }),
    }
}

fn write(path: String, text: String) -> FileChange {
    FileChange {
        path,
        content: Some(text.into_bytes()),
    }
}

fn yaml<T: Serialize>(value: &T) -> String {
    // Plain data with string keys always serialises; a failure would be a defect
    // that the property test in `tests/life.rs` finds.
    serde_saphyr::to_string(value).unwrap_or_else(|e| format!("# {e}\n"))
}

/// `---`, YAML, `---`, then the text verbatim.
fn document<T: Serialize>(head: &T, text: &str) -> String {
    let mut head = yaml(head);
    if !head.ends_with('\n') {
        head.push('\n');
    }
    format!("---\n{head}---\n{text}")
}

fn front<T: DeserializeOwned>(
    path: &str,
    bytes: &[u8],
    set: impl FnOnce(&mut T, String),
) -> Result<T, StateError> {
    let unreadable = |what: &str| StateError::Unreadable {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(&e.to_string()))?;
    let rest = text
        .strip_prefix("---\n")
        .ok_or_else(|| unreadable("it does not begin with a line `---`"))?;
    let end = rest
        .find("\n---\n")
        .ok_or_else(|| unreadable("the front matter has no closing `---`"))?;
    let mut value = parse(path, &rest.as_bytes()[..=end])?;
    set(&mut value, rest[end + 5..].to_owned());
    Ok(value)
}
