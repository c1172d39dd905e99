//! The file's own shape: every key optional, so that a wrong mix can be named.

use super::{Answer, Fault, ScenarioError, Step, Times, ToolCall, When};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use std::fmt;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) conversations: Vec<Conversation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversation {
    name: String,
    #[serde(default)]
    when: When,
    steps: Vec<RawStep>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStep {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_after_events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_after_events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_call: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    too_long: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_credit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hang: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<Times>,
}

impl Conversation {
    pub(super) fn check(self, file: &str) -> Result<super::Conversation, ScenarioError> {
        let name = self.name;
        if self.steps.is_empty() {
            return Err(ScenarioError::Empty {
                file: file.to_owned(),
                conversation: name,
            });
        }
        let bad = |index: usize, problem: String| ScenarioError::Step {
            file: file.to_owned(),
            conversation: name.clone(),
            step: index + 1,
            problem,
        };
        let last = self.steps.len() - 1;
        let mut steps = Vec::with_capacity(self.steps.len());
        let mut wait = None;
        for (index, mut step) in self.steps.into_iter().enumerate() {
            if step.is_wait() {
                wait = step.wait;
                continue;
            }
            if let Some(name) = wait.take_if(|_| !step.is_fault())
                && step.wait.replace(name).is_some()
            {
                return Err(bad(
                    index,
                    "has a `wait` and follows one; keep one".to_owned(),
                ));
            }
            steps.push(step.check().map_err(|problem| bad(index, problem))?);
        }
        let breaks = matches!(
            steps.last(),
            Some(Step::Fault {
                fault: Fault::CutAfterEvents(_)
                    | Fault::SilentAfterEvents(_)
                    | Fault::ErrorEvent(_),
                ..
            })
        );
        if breaks || wait.is_some() {
            let problem = "needs an answer to act on; add a step with `text` or `tool` after it";
            return Err(bad(last, problem.to_owned()));
        }
        Ok(super::Conversation {
            name,
            when: self.when,
            steps,
        })
    }
}

impl RawStep {
    fn faults(&self) -> usize {
        let kinds = [
            self.status.is_some(),
            self.cut_after_events.is_some(),
            self.silent_after_events.is_some(),
            self.bad_call.is_some(),
            self.error_event.is_some(),
            self.too_long.is_some(),
            self.no_credit.is_some(),
            self.hang.is_some(),
        ];
        kinds.into_iter().filter(|given| *given).count()
    }

    fn is_fault(&self) -> bool {
        self.faults() > 0
    }

    /// `wait` as a step of its own holds the answer that follows.
    fn is_wait(&self) -> bool {
        self.wait.is_some()
            && !self.is_fault()
            && self.text.is_none()
            && self.tool.is_none()
            && self.input.is_none()
            && self.tools.is_empty()
    }

    fn check(self) -> Result<Step, String> {
        let faults = self.faults();
        let answers = self.text.is_some() || self.tool.is_some() || !self.tools.is_empty();
        match (faults, answers) {
            (0, true) => self.answer().map(Step::Answer),
            (1, false) => self.fault(),
            (0, false) => {
                Err("says nothing; write `text`, `tool` with `input`, or a fault".to_owned())
            }
            _ => Err("mixes an answer and faults; write each as a step of its own".to_owned()),
        }
    }

    fn answer(self) -> Result<Answer, String> {
        if self.times.is_some() || self.retry_after.is_some() {
            return Err("`times` and `retry_after` belong to faults".to_owned());
        }
        let mut tools = Vec::new();
        match (self.tool, self.input) {
            (Some(tool), Some(input)) => tools.push(ToolCall {
                tool,
                input,
                raw: None,
            }),
            (Some(tool), None) => return Err(format!("`tool: {tool}` needs `input`")),
            (None, Some(_)) => return Err("`input` needs `tool`".to_owned()),
            (None, None) => {}
        }
        tools.extend(self.tools);
        if self.text.as_deref() == Some("") && tools.is_empty() {
            return Err("has an empty `text` and no tool".to_owned());
        }
        Ok(Answer {
            text: self.text,
            tools,
            wait: self.wait,
        })
    }

    fn fault(self) -> Result<Step, String> {
        if self.wait.is_some() || self.input.is_some() {
            return Err("`wait` and `input` belong to answers".to_owned());
        }
        if self.retry_after.is_some() && self.status.is_none() {
            return Err("`retry_after` needs `status`".to_owned());
        }
        let fault = if let Some(code) = self.status {
            if !(400..600).contains(&code) {
                return Err(format!("`status: {code}` is no error; use 400 to 599"));
            }
            Fault::Status {
                code,
                retry_after: self.retry_after,
            }
        } else if let Some(events) = self.cut_after_events {
            Fault::CutAfterEvents(events)
        } else if let Some(events) = self.silent_after_events {
            Fault::SilentAfterEvents(events)
        } else if self.bad_call == Some(true) {
            Fault::BadCall
        } else if let Some(kind) = self.error_event {
            Fault::ErrorEvent(kind)
        } else if self.too_long == Some(true) {
            Fault::TooLong
        } else if self.no_credit == Some(true) {
            Fault::NoCredit
        } else if self.hang == Some(true) {
            Fault::Hang
        } else {
            return Err(
                "`hang`, `too_long`, `no_credit` and `bad_call` can only be true".to_owned(),
            );
        };
        Ok(Step::Fault {
            fault,
            times: self.times.unwrap_or(Times::Limited(1)),
        })
    }
}

impl From<&super::Conversation> for Conversation {
    fn from(from: &super::Conversation) -> Self {
        Self {
            name: from.name.clone(),
            when: from.when.clone(),
            steps: from.steps.iter().map(RawStep::from).collect(),
        }
    }
}

impl From<&Step> for RawStep {
    fn from(step: &Step) -> Self {
        let mut raw = Self::default();
        match step {
            Step::Answer(answer) => {
                raw.text.clone_from(&answer.text);
                raw.wait.clone_from(&answer.wait);
                match answer.tools.as_slice() {
                    [one] => {
                        raw.tool = Some(one.tool.clone());
                        raw.input = Some(one.input.clone());
                    }
                    several => raw.tools = several.to_vec(),
                }
            }
            Step::Fault { fault, times } => {
                raw.times = Some(*times);
                match fault {
                    Fault::Status { code, retry_after } => {
                        raw.status = Some(*code);
                        raw.retry_after = *retry_after;
                    }
                    Fault::CutAfterEvents(events) => raw.cut_after_events = Some(*events),
                    Fault::SilentAfterEvents(events) => {
                        raw.silent_after_events = Some(*events);
                    }
                    Fault::BadCall => raw.bad_call = Some(true),
                    Fault::ErrorEvent(kind) => raw.error_event = Some(kind.clone()),
                    Fault::TooLong => raw.too_long = Some(true),
                    Fault::NoCredit => raw.no_credit = Some(true),
                    Fault::Hang => raw.hang = Some(true),
                }
            }
        }
        raw
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Times::Limited(n) => s.serialize_u32(*n),
            Times::Always => s.serialize_str("always"),
        }
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Times;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of times from 1, or `always`")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Times, E> {
                match u32::try_from(n) {
                    Ok(n) if n > 0 => Ok(Times::Limited(n)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(n), &self)),
                }
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Times, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(n), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Times, E> {
                match s {
                    "always" => Ok(Times::Always),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        d.deserialize_any(Visit)
    }
}
