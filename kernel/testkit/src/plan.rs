//! Which answer a request gets: a decision without any I/O.

use crate::anthropic::{self, BAD_KEY, Message, Request};
use crate::record::Outcome;
use crate::scenario::{Answer, Conversation, Fault, Scenario, Step, Times, ToolCall};
use crate::tools::translated;
use factory_core::grant::WireApi;
use hyper::{Method, header};
use std::borrow::Cow;
use std::collections::HashMap;

/// How often each fault happened, by conversation and step.
pub(crate) type FaultCounts = HashMap<(usize, usize), u32>;

/// How a request is to be answered.
pub(crate) struct Plan<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) reply: Reply<'a>,
}

/// What is sent.
pub(crate) enum Reply<'a> {
    Error {
        status: u16,
        kind: &'a str,
        code: Option<&'a str>,
        message: String,
        retry_after: Option<u64>,
    },
    Message {
        message: Message<'a>,
        stream: bool,
        fault: Option<&'a Fault>,
    },
    Hang,
}

/// Decides how to answer; counts the fault that it uses up.
pub(crate) fn plan<'a>(
    scenario: &'a Scenario,
    head: &hyper::http::request::Parts,
    request: &'a Result<Request, String>,
    faults: &mut FaultCounts,
) -> Plan<'a> {
    if head.method != Method::POST || anthropic::api_at(head.uri.path()).is_none() {
        return Plan::refuse(
            404,
            format!("{} {} is not scripted", head.method, head.uri.path()),
        );
    }
    if !head.headers.contains_key("x-api-key") && !head.headers.contains_key(header::AUTHORIZATION)
    {
        return Plan::refuse(
            401,
            "a key is required, in x-api-key or authorization".to_owned(),
        );
    }
    let request = match request {
        Ok(request) => request,
        Err(problem) => return Plan::refuse(400, problem.clone()),
    };
    if !request.tools {
        return Plan::side(request);
    }
    let matching = scenario
        .conversations
        .iter()
        .enumerate()
        .find(|(_, c)| matches(c, request));
    let Some((index, conversation)) = matching else {
        let names: Vec<&str> = scenario
            .conversations
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        return Plan::refuse(
            400,
            format!(
                "no conversation of the scenario matches this request; there are: {}",
                names.join(", ")
            ),
        );
    };
    let wanted = answered(conversation, request);
    let mut next = 0;
    let mut breaks = None;
    for (number, step) in conversation.steps.iter().enumerate() {
        match step {
            Step::Answer(answer) if next == wanted => {
                return Plan::answer(conversation, index, wanted, answer, request, breaks);
            }
            Step::Answer(_) => next += 1,
            Step::Fault { fault, times } if next == wanted && breaks.is_none() => {
                let seen = faults.entry((index, number)).or_default();
                if matches!(times, Times::Limited(limit) if *seen >= *limit) {
                    continue;
                }
                *seen += 1;
                match fault {
                    Fault::CutAfterEvents(_)
                    | Fault::SilentAfterEvents(_)
                    | Fault::ErrorEvent(_) => breaks = Some(fault),
                    Fault::BadCall => return Plan::bad_call(conversation, fault, request),
                    Fault::Status { code, retry_after } => {
                        return Plan {
                            outcome: Outcome::fault(conversation, fault),
                            reply: Reply::Error {
                                status: *code,
                                kind: anthropic::error_kind(*code),
                                code: None,
                                message: format!("scripted status {code}"),
                                retry_after: *retry_after,
                            },
                        };
                    }
                    Fault::TooLong => {
                        return Plan {
                            outcome: Outcome::fault(conversation, fault),
                            reply: too_long(request.api),
                        };
                    }
                    Fault::NoCredit => {
                        return Plan {
                            outcome: Outcome::fault(conversation, fault),
                            reply: no_credit(request.api),
                        };
                    }
                    Fault::Hang => {
                        return Plan {
                            outcome: Outcome::fault(conversation, fault),
                            reply: Reply::Hang,
                        };
                    }
                }
            }
            Step::Fault { .. } => {}
        }
    }
    Plan::refuse(
        400,
        format!(
            "conversation `{}` has {next} answers, and this request asks for number {}",
            conversation.name,
            wanted + 1
        ),
    )
}

/// How each API says that a conversation does not fit into the model any more.
fn too_long<'a>(api: WireApi) -> Reply<'a> {
    let (code, message) = match api {
        WireApi::Messages => (None, "prompt is too long: 210000 tokens > 200000 maximum"),
        WireApi::Responses | WireApi::ChatCompletions => (
            Some("context_length_exceeded"),
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
        ),
    };
    Reply::Error {
        status: 400,
        kind: "invalid_request_error",
        code,
        message: message.to_owned(),
        retry_after: None,
    }
}

/// How each API says that the account has nothing left to pay with.
fn no_credit<'a>(api: WireApi) -> Reply<'a> {
    let (status, kind, code, message) = match api {
        // Not the 402 that its documentation names.
        WireApi::Messages => (
            400,
            "invalid_request_error",
            None,
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
        ),
        WireApi::Responses | WireApi::ChatCompletions => (
            429,
            "insufficient_quota",
            Some("insufficient_quota"),
            "You exceeded your current quota, please check your plan and billing details.",
        ),
    };
    Reply::Error {
        status,
        kind,
        code,
        message: message.to_owned(),
        retry_after: None,
    }
}

/// How many of the conversation's answers the request already holds. A turn
/// without the tool call that its answer has was broken: the CLI keeps the whole
/// blocks of a cut stream and asks the model to go on, so that answer is due again.
fn answered(conversation: &Conversation, request: &Request) -> usize {
    let mut answers = conversation.answers().peekable();
    let mut answered = 0;
    for calls in request
        .turns
        .iter()
        .skip(conversation.when.turn.unwrap_or(0))
    {
        let broken = answers
            .peek()
            .is_some_and(|answer| !answer.tools.is_empty() && !calls);
        if !broken {
            answers.next();
            answered += 1;
        }
    }
    answered
}

fn matches(conversation: &Conversation, request: &Request) -> bool {
    let when = &conversation.when;
    when.contains
        .as_ref()
        .is_none_or(|text| request.prompt.contains(text) || request.system.contains(text))
        && when
            .model
            .as_ref()
            .is_none_or(|model| *model == request.model)
        && when.turn.is_none_or(|turn| request.turns.len() >= turn)
}

/// The answer to every side request.
static SIDE_ANSWER: std::sync::LazyLock<Answer> = std::sync::LazyLock::new(|| Answer {
    text: Some("Work on the repository".to_owned()),
    ..Answer::default()
});

impl<'a> Plan<'a> {
    fn refuse(status: u16, message: String) -> Self {
        let outcome = Outcome::Refused {
            status,
            message: message.clone(),
        };
        let kind = anthropic::error_kind(status);
        Self {
            outcome,
            reply: Reply::Error {
                status,
                kind,
                code: None,
                message,
                retry_after: None,
            },
        }
    }

    fn side(request: &'a Request) -> Self {
        let message = Message {
            answer: Cow::Borrowed(&SIDE_ANSWER),
            api: request.api,
            model: &request.model,
            turn: request.turns.len(),
            key: "side".to_owned(),
        };
        let outcome = Outcome::SideRequest {
            usage: message.usage(),
        };
        Self {
            outcome,
            reply: Reply::Message {
                message,
                stream: request.stream,
                fault: None,
            },
        }
    }

    /// A call that is no call, and is not counted as one of the conversation's turns.
    fn bad_call(conversation: &Conversation, fault: &Fault, request: &'a Request) -> Self {
        let call = ToolCall {
            raw: Some("{\"command\": ".to_owned()),
            ..ToolCall::new("Bash", [])
        };
        let answer = Answer {
            text: Some("Hm.".to_owned()),
            tools: vec![call],
            wait: None,
        };
        let message = Message {
            answer: Cow::Owned(translated(&answer, request).into_owned()),
            api: request.api,
            model: &request.model,
            turn: request.turns.len(),
            key: format!("{BAD_KEY}{:06}", request.turns.len()),
        };
        Self {
            outcome: Outcome::fault(conversation, fault),
            reply: Reply::Message {
                message,
                stream: request.stream,
                fault: None,
            },
        }
    }

    fn answer(
        conversation: &Conversation,
        index: usize,
        number: usize,
        answer: &'a Answer,
        request: &'a Request,
        fault: Option<&'a Fault>,
    ) -> Self {
        let message = Message {
            answer: translated(answer, request),
            api: request.api,
            model: &request.model,
            turn: request.turns.len(),
            key: format!("{index:03}{:06}", request.turns.len()),
        };
        let outcome = match fault {
            Some(fault) => Outcome::fault(conversation, fault),
            None => Outcome::Answer {
                conversation: conversation.name.clone(),
                answer: number,
                usage: message.usage(),
            },
        };
        let reply = match fault {
            // Who does not stream cannot be sent an event.
            Some(Fault::ErrorEvent(kind)) if !request.stream => Reply::Error {
                status: anthropic::error_status(kind),
                kind,
                code: None,
                message: format!("scripted {kind}"),
                retry_after: None,
            },
            _ => Reply::Message {
                message,
                stream: request.stream,
                fault,
            },
        };
        Self { outcome, reply }
    }
}
