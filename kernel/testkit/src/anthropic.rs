//! The shapes of the Messages API, as the Claude Code CLI sends and reads them, and
//! what a request and an answer are whatever the API.

use crate::openai;
use crate::scenario::Answer;
use factory_core::grant::WireApi;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::ops::AddAssign;

/// Characters in the first piece of a block, so that each block has several.
const FIRST_PIECE: usize = 20;
/// Characters in each further piece.
const PIECE: usize = 2000;

/// What the key of a call that is wrong on purpose begins with.
pub(crate) const BAD_KEY: &str = "bad";

/// Whether a tool call's id is that of one that is wrong on purpose.
pub(crate) fn is_bad(id: &Value) -> bool {
    id.as_str()
        .and_then(|id| id.split_once('_'))
        .is_some_and(|(_, key)| key.starts_with(BAD_KEY))
}

/// Tokens of one answer, or of several added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Input tokens that no cache held.
    pub input_tokens: u64,
    /// Input tokens written to the cache.
    pub cache_write_tokens: u64,
    /// Input tokens read from the cache.
    pub cache_read_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

impl Usage {
    /// What `answer` costs after `turn` assistant turns. It depends on nothing
    /// else, so a test can add up what it expects.
    pub fn of(answer: &Answer, turn: usize) -> Self {
        let text = answer.text.as_deref().map_or(0, str::len);
        let tools: usize = answer
            .tools
            .iter()
            .map(|call| call.tool.len() + call.arguments().len())
            .sum();
        Self {
            input_tokens: 1200 + 100 * turn as u64,
            cache_write_tokens: 300,
            cache_read_tokens: 2000,
            output_tokens: 10 + (text + tools) as u64 / 4,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.input_tokens += more.input_tokens;
        self.cache_write_tokens += more.cache_write_tokens;
        self.cache_read_tokens += more.cache_read_tokens;
        self.output_tokens += more.output_tokens;
    }
}

/// What of a request decides its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it was asked over.
    pub api: WireApi,
    /// The model asked for.
    pub model: String,
    /// An event stream is wanted.
    pub stream: bool,
    /// Tools are offered; the CLI's side requests (a title, a summary) have none.
    pub tools: bool,
    /// Names of the tools offered.
    pub offered: Vec<String>,
    /// Assistant turns so far, each with whether it calls a tool; neighbouring
    /// assistant messages are one turn.
    pub turns: Vec<bool>,
    /// All system text.
    pub system: String,
    /// All text of the first user message.
    pub prompt: String,
}

impl Request {
    /// Reads a request body of the API at `path`; the error says what it lacks.
    ///
    /// # Errors
    /// The body is no request of that API.
    pub fn parse(path: &str, body: &[u8]) -> Result<Self, String> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the body is no JSON: {error}"))?;
        match api_at(path) {
            Some(WireApi::Messages) => Self::parse_messages(&body),
            Some(WireApi::Responses) => openai::parse_responses(&body),
            Some(WireApi::ChatCompletions) => openai::parse_chat(&body),
            None => Err(format!("no API is scripted at {path}")),
        }
    }

    fn parse_messages(body: &Value) -> Result<Self, String> {
        let model = body["model"]
            .as_str()
            .ok_or("model: field required")?
            .to_owned();
        if !body["max_tokens"].is_u64() {
            return Err("max_tokens: field required".to_owned());
        }
        let messages = body["messages"]
            .as_array()
            .ok_or("messages: field required")?;
        let mut turns = Vec::new();
        let mut before = "";
        for (index, message) in messages.iter().enumerate() {
            let role = message["role"]
                .as_str()
                .ok_or_else(|| format!("messages.{index}.role: field required"))?;
            let content = message["content"].as_array().map(Vec::as_slice);
            if content
                .unwrap_or_default()
                .iter()
                .any(|block| is_bad(&block["id"]))
            {
                continue;
            }
            if role == "assistant" {
                let calls = has_tool_call(&message["content"]);
                add_turn(&mut turns, before == "assistant", calls);
            }
            before = role;
        }
        let first = messages.iter().find(|message| message["role"] == "user");
        let tools = body["tools"].as_array().map(Vec::as_slice);
        let tools = tools.unwrap_or_default();
        let names = tools.iter().filter_map(|tool| tool["name"].as_str());
        Ok(Self {
            api: WireApi::Messages,
            model,
            stream: body["stream"] == true,
            tools: !tools.is_empty(),
            offered: names.map(str::to_owned).collect(),
            turns,
            system: text_of(&body["system"]),
            prompt: first
                .map(|message| text_of(&message["content"]))
                .unwrap_or_default(),
        })
    }
}

/// The API that is served at `path`.
pub(crate) fn api_at(path: &str) -> Option<WireApi> {
    match path {
        "/v1/messages" => Some(WireApi::Messages),
        "/v1/responses" => Some(WireApi::Responses),
        "/v1/chat/completions" => Some(WireApi::ChatCompletions),
        _ => None,
    }
}

/// Notes an assistant's message: of the same turn as the one directly before it.
pub(crate) fn add_turn(turns: &mut Vec<bool>, goes_on: bool, calls: bool) {
    match turns.last_mut().filter(|_| goes_on) {
        Some(turn) => *turn |= calls,
        None => turns.push(calls),
    }
}

/// Text of a content value, which is a string or a list of blocks.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks
                .iter()
                .filter_map(|block| block["text"].as_str())
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn has_tool_call(content: &Value) -> bool {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().any(|block| block["type"] == "tool_use")
}

/// One server-sent event as it is sent.
fn frame(event: &Value) -> String {
    let name = event["type"].as_str().unwrap_or("error");
    format!("event: {name}\ndata: {event}\n\n")
}

/// One answer, ready to be sent in either form.
#[derive(Debug)]
pub struct Message<'a> {
    /// What the model says.
    pub answer: Cow<'a, Answer>,
    /// What it is sent over.
    pub api: WireApi,
    /// The model asked for; named as the one that answers.
    pub model: &'a str,
    /// Assistant turns before this one.
    pub turn: usize,
    /// Unique within a session; message and tool call ids are made of it.
    pub key: String,
}

impl Message<'_> {
    /// Tokens of this answer.
    pub fn usage(&self) -> Usage {
        Usage::of(&self.answer, self.turn)
    }

    /// The whole answer, for a request that does not stream.
    pub fn json(&self) -> Value {
        match self.api {
            WireApi::Messages => self.message(),
            WireApi::Responses => openai::response(self),
            WireApi::ChatCompletions => openai::chat(self),
        }
    }

    /// The answer as a stream's frames, each as it is sent.
    pub fn frames(&self) -> Vec<String> {
        match self.api {
            WireApi::Messages => self.events().iter().map(frame).collect(),
            WireApi::Responses => openai::response_frames(self),
            WireApi::ChatCompletions => openai::chat_frames(self),
        }
    }

    fn message(&self) -> Value {
        let usage = self.usage();
        self.envelope(
            self.blocks(),
            json!(self.stop_reason()),
            usage.output_tokens,
        )
    }

    /// The message as a stream's events.
    fn events(&self) -> Vec<Value> {
        let mut events = vec![
            json!({"type": "message_start", "message": self.envelope(Vec::new(), Value::Null, 1)}),
            json!({"type": "ping"}),
        ];
        // Of calls, what is sent may be no JSON.
        let mut arguments = self.answer.tools.iter().map(|call| call.arguments());
        for (index, block) in self.blocks().into_iter().enumerate() {
            let (empty, pieces): (Value, Vec<Value>) = if block["type"] == "tool_use" {
                let empty = json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}});
                let piece = |text: &str| json!({"type": "input_json_delta", "partial_json": text});
                (
                    empty,
                    pieces(&arguments.next().unwrap_or_default())
                        .into_iter()
                        .map(piece)
                        .collect(),
                )
            } else {
                let piece = |text: &str| json!({"type": "text_delta", "text": text});
                let text = block["text"].as_str().unwrap_or_default();
                (
                    json!({"type": "text", "text": ""}),
                    pieces(text).into_iter().map(piece).collect(),
                )
            };
            events.push(
                json!({"type": "content_block_start", "index": index, "content_block": empty}),
            );
            events.extend(pieces.into_iter().map(
                |delta| json!({"type": "content_block_delta", "index": index, "delta": delta}),
            ));
            events.push(json!({"type": "content_block_stop", "index": index}));
        }
        events.push(json!({
            "type": "message_delta",
            "delta": {"stop_reason": self.stop_reason(), "stop_sequence": null},
            "usage": {"output_tokens": self.usage().output_tokens},
        }));
        events.push(json!({"type": "message_stop"}));
        events
    }

    fn stop_reason(&self) -> &'static str {
        if self.answer.tools.is_empty() {
            "end_turn"
        } else {
            "tool_use"
        }
    }

    fn blocks(&self) -> Vec<Value> {
        let text = self.answer.text.as_deref().filter(|text| !text.is_empty());
        let text = text.map(|text| json!({"type": "text", "text": text}));
        let tools = self.answer.tools.iter().enumerate().map(|(index, call)| {
            let id = format!("toolu_{}{index:02}", self.key);
            json!({"type": "tool_use", "id": id, "name": call.tool, "input": call.input})
        });
        text.into_iter().chain(tools).collect()
    }

    fn envelope(&self, content: Vec<Value>, stop_reason: Value, output_tokens: u64) -> Value {
        let usage = self.usage();
        json!({
            "id": format!("msg_{}", self.key),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": {
                "input_tokens": usage.input_tokens,
                "cache_creation_input_tokens": usage.cache_write_tokens,
                "cache_read_input_tokens": usage.cache_read_tokens,
                "output_tokens": output_tokens,
            },
        })
    }
}

/// Cuts text where a provider might: a short first piece, then larger ones.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut length = FIRST_PIECE;
    while let Some((end, _)) = rest.char_indices().nth(length) {
        let (piece, more) = rest.split_at(end);
        pieces.push(piece);
        rest = more;
        length = PIECE;
    }
    pieces.push(rest);
    pieces
}

/// The frame of an error in the middle of a stream of `api`.
pub(crate) fn error_frame(api: WireApi, kind: &str, message: &str) -> String {
    match api {
        WireApi::Messages => frame(&error_body(api, kind, None, message)),
        WireApi::Responses | WireApi::ChatCompletions => openai::error_frame(api, kind, message),
    }
}

/// An error's body; `code` is for the APIs that have one.
pub(crate) fn error_body(api: WireApi, kind: &str, code: Option<&str>, message: &str) -> Value {
    match api {
        WireApi::Messages => messages_error(kind, message),
        WireApi::Responses | WireApi::ChatCompletions => openai::error_body(kind, code, message),
    }
}

fn messages_error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"})
}

/// The error type that goes with a status.
pub fn error_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// The status that goes with an error type.
pub fn error_status(kind: &str) -> u16 {
    [401, 402, 403, 404, 413, 429, 504, 529]
        .into_iter()
        .find(|status| error_kind(*status) == kind)
        .unwrap_or(if kind == "invalid_request_error" {
            400
        } else {
            500
        })
}
