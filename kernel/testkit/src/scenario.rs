//! What the scripted provider answers: conversations, matched on the request,
//! each a list of answers with faults between them.
//!
//! ```yaml
//! conversations:
//!   - name: fix the sum
//!     when: {contains: "calc.sh subtracts"}
//!     steps:
//!       - text: Let me look.
//!         tool: Read
//!         input: {file_path: /workspace/calc.sh}
//!       - status: 429          # before the next answer, once
//!         retry_after: 1
//!       - text: Done.
//! ```
//!
//! Which answer is given follows from the request alone: with `n` assistant
//! turns in its messages it gets the conversation's answer number `n`. So a
//! request that is repeated gets the same answer. Only the `times` of faults
//! are counted, over all requests that reach them.
//!
//! The same scenario is played for every engine: tool calls are written with the
//! tools of Claude Code, and sent as shell commands to engines that have only those.
//!
//! The Claude Code CLI keeps the whole blocks of a stream that is cut: with
//! `cut_after_events` beyond an answer's first block it sends them back and asks
//! the model to go on. An answer whose tool call got lost that way is given again.

mod raw;

pub use crate::diff::{DiffError, from_diff};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Name under which [`Fault::Hang`] is waited for and released.
pub const HANG: &str = "hang";

/// A scenario that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not a scenario's YAML.
    #[error("{file} is not a scenario; correct the place named below")]
    Malformed {
        /// Name of the file, or what stands for it.
        file: String,
        /// What is wrong, with line and column.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A step says nothing, or two things at once.
    #[error("{file}: conversation `{conversation}`, step {step}: {problem}")]
    Step {
        /// Name of the file, or what stands for it.
        file: String,
        /// Name of the conversation.
        conversation: String,
        /// Number of the step, from 1.
        step: usize,
        /// What is wrong and what to write.
        problem: String,
    },
    /// A conversation that can never answer.
    #[error("{file}: conversation `{conversation}` has no steps; give it at least one")]
    Empty {
        /// Name of the file, or what stands for it.
        file: String,
        /// Name of the conversation.
        conversation: String,
    },
    /// A scenario that cannot be written as YAML.
    #[error("cannot write the scenario as YAML")]
    Unwritable(#[source] Box<serde_saphyr::SerializeError>),
}

/// All conversations; the first that matches a request answers it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scenario {
    /// In the order in which they are tried.
    pub conversations: Vec<Conversation>,
}

/// One scripted exchange with an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// For messages and recorded requests.
    pub name: String,
    /// Which requests it answers.
    pub when: When,
    /// Answers, and the faults that come before them.
    pub steps: Vec<Step>,
}

/// Which requests a conversation answers: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Occurs in the system text or in the first user message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Equals the model asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// At least this many assistant turns are in the request; the conversation
    /// takes over there and its answers are counted from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<usize>,
}

/// One entry of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// What the model says.
    Answer(Answer),
    /// What goes wrong before the answer that follows.
    Fault {
        /// The kind.
        fault: Fault,
        /// How often.
        times: Times,
    },
}

/// What the model says in one turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Text before the tool calls.
    pub text: Option<String>,
    /// Tool calls, in order; with none the turn ends the engine's loop.
    pub tools: Vec<ToolCall>,
    /// Hold the answer in the middle until this name is released.
    pub wait: Option<String>,
}

/// One tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The tool's name as the engine knows it: `Bash`, `Read`, `Edit`, `Write`.
    pub tool: String,
    /// Its arguments.
    #[serde(default)]
    pub input: Map<String, Value>,
    /// What is sent in place of the arguments, JSON or not.
    #[serde(skip)]
    pub raw: Option<String>,
}

impl ToolCall {
    /// A call with the given arguments.
    pub fn new<const N: usize>(tool: &str, input: [(&str, Value); N]) -> Self {
        let input = input
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        Self {
            tool: tool.to_owned(),
            input,
            raw: None,
        }
    }

    /// Its arguments as they are sent.
    pub fn arguments(&self) -> String {
        let input = || Value::Object(self.input.clone()).to_string();
        self.raw.clone().unwrap_or_else(input)
    }

    /// A `Bash` call.
    pub fn bash(command: &str, description: &str) -> Self {
        Self::new(
            "Bash",
            [
                ("command", command.into()),
                ("description", description.into()),
            ],
        )
    }
}

/// Something that goes wrong on the provider's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error instead of an answer.
    Status {
        /// HTTP status, 400 to 599.
        code: u16,
        /// Seconds for the `retry-after` header.
        retry_after: Option<u64>,
    },
    /// The connection breaks after so many events of the answer; a whole
    /// (non-streaming) answer breaks after half its bytes.
    CutAfterEvents(usize),
    /// Nothing more comes after so many events of the answer, or after half its
    /// bytes, until the client goes.
    SilentAfterEvents(usize),
    /// In place of the answer comes a tool call whose arguments are no JSON.
    BadCall,
    /// The answer's stream ends in an error event of this type; who does not
    /// stream gets the same error as a status.
    ErrorEvent(String),
    /// The conversation has become longer than the model can read.
    TooLong,
    /// The account has nothing left to pay with; each API says so in its own way.
    NoCredit,
    /// No answer, not even headers, until [`HANG`] is released or the client goes.
    Hang,
}

/// How often a fault happens before it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// So many times; 1 where the file says nothing.
    Limited(u32),
    /// Each time; `times: always`.
    Always,
}

impl Scenario {
    /// Reads and checks a scenario file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a usable scenario.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Checks a scenario's YAML; `file` names it in errors.
    ///
    /// # Errors
    /// The text is not a usable scenario.
    pub fn parse(text: &str, file: &str) -> Result<Self, ScenarioError> {
        let raw: raw::Scenario =
            serde_saphyr::from_str(text).map_err(|source| ScenarioError::Malformed {
                file: file.to_owned(),
                source: Box::new(source),
            })?;
        let conversations = raw
            .conversations
            .into_iter()
            .map(|c| c.check(file))
            .collect::<Result<_, _>>()?;
        Ok(Self { conversations })
    }

    /// The scenario as YAML that [`Scenario::parse`] reads back unchanged.
    ///
    /// # Errors
    /// A value has no YAML form.
    pub fn to_yaml(&self) -> Result<String, ScenarioError> {
        let conversations = self
            .conversations
            .iter()
            .map(raw::Conversation::from)
            .collect();
        serde_saphyr::to_string(&raw::Scenario { conversations })
            .map_err(|source| ScenarioError::Unwritable(Box::new(source)))
    }

    /// Every name that [`Answer::wait`] and [`Fault::Hang`] use.
    pub fn waits(&self) -> impl Iterator<Item = &str> {
        self.conversations
            .iter()
            .flat_map(|c| &c.steps)
            .filter_map(|step| match step {
                Step::Answer(answer) => answer.wait.as_deref(),
                Step::Fault {
                    fault: Fault::Hang, ..
                } => Some(HANG),
                Step::Fault { .. } => None,
            })
    }
}

impl Conversation {
    /// The answers, in order.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.steps.iter().filter_map(|step| match step {
            Step::Answer(answer) => Some(answer),
            Step::Fault { .. } => None,
        })
    }
}

impl From<Answer> for Step {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
