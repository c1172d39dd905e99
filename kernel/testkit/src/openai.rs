//! The shapes of OpenAI's Responses and chat completions APIs, as Codex CLI and
//! mini-swe-agent send and read them.

use crate::anthropic::{Message, Request, Usage, add_turn, is_bad, pieces, text_of};
use factory_core::grant::WireApi;
use serde_json::{Value, json};

/// Reads a request of the Responses API.
pub(crate) fn parse_responses(body: &Value) -> Result<Request, String> {
    let mut request = begun(WireApi::Responses, body)?;
    request.system = text_of(&body["instructions"]);
    let items = match &body["input"] {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items.clone(),
        _ => return Err("input: field required".to_owned()),
    };
    let mut before_assistant = false;
    // The text that came with a wrong call is an item of its own, right before it.
    let wrong = |at: usize| {
        let call = |at: usize| items.get(at).is_some_and(|item| is_bad(&item["call_id"]));
        call(at) || (items[at]["role"] == "assistant" && call(at + 1))
    };
    let right = items.iter().enumerate().filter(|(at, _)| !wrong(*at));
    for (_, item) in right {
        let (role, kind) = (item["role"].as_str(), item["type"].as_str());
        let calls = matches!(kind, Some("function_call" | "custom_tool_call"));
        let assistant = calls || role == Some("assistant") || kind == Some("reasoning");
        match role {
            _ if assistant => add_turn(&mut request.turns, before_assistant, calls),
            // Newer models are offered their tools here.
            _ if kind == Some("additional_tools") => request.tools = true,
            Some("system" | "developer") => add_text(&mut request.system, &item["content"]),
            Some("user") if request.turns.is_empty() => {
                add_text(&mut request.prompt, &item["content"]);
            }
            Some(_) | None => {}
        }
        before_assistant = assistant;
    }
    Ok(request)
}

/// Reads a request of the chat completions API.
pub(crate) fn parse_chat(body: &Value) -> Result<Request, String> {
    let mut request = begun(WireApi::ChatCompletions, body)?;
    let messages = body["messages"]
        .as_array()
        .ok_or("messages: field required")?;
    let mut before_assistant = false;
    for (index, message) in messages.iter().enumerate() {
        let role = message["role"]
            .as_str()
            .ok_or_else(|| format!("messages.{index}.role: field required"))?;
        let assistant = role == "assistant";
        if is_bad(&message["tool_calls"][0]["id"]) {
            continue;
        }
        match role {
            "assistant" => {
                let calls = message["tool_calls"].as_array();
                let calls = calls.is_some_and(|calls| !calls.is_empty());
                add_turn(&mut request.turns, before_assistant, calls);
            }
            "system" | "developer" => add_text(&mut request.system, &message["content"]),
            "user" if request.turns.is_empty() => {
                add_text(&mut request.prompt, &message["content"]);
            }
            _ => {}
        }
        before_assistant = assistant;
    }
    Ok(request)
}

/// What both APIs have in common.
fn begun(api: WireApi, body: &Value) -> Result<Request, String> {
    let tools = body["tools"].as_array().map(Vec::as_slice);
    let tools = tools.unwrap_or_default();
    let name = |tool: &Value| {
        let name = tool["name"].as_str().or(tool["function"]["name"].as_str());
        name.map(str::to_owned)
    };
    Ok(Request {
        api,
        model: body["model"]
            .as_str()
            .ok_or("model: field required")?
            .to_owned(),
        stream: body["stream"] == true,
        tools: !tools.is_empty(),
        offered: tools.iter().filter_map(name).collect(),
        turns: Vec::new(),
        system: String::new(),
        prompt: String::new(),
    })
}

fn add_text(to: &mut String, content: &Value) {
    to.push_str(&text_of(content));
    to.push('\n');
}

/// An error's body.
pub(crate) fn error_body(kind: &str, code: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The frame of an error in the middle of a stream.
pub(crate) fn error_frame(api: WireApi, kind: &str, message: &str) -> String {
    match api {
        WireApi::ChatCompletions => data(&error_body(kind, None, message)),
        WireApi::Messages | WireApi::Responses => named(&json!({
            "type": "error", "code": kind, "message": message, "param": null, "sequence_number": 0,
        })),
    }
}

fn named(event: &Value) -> String {
    let name = event["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {event}\n\n")
}

fn data(event: &Value) -> String {
    format!("data: {event}\n\n")
}

/// A tool's call: its id, name and arguments as they are sent.
fn calls(message: &Message<'_>) -> Vec<(String, String, String)> {
    let tools = message.answer.tools.iter().enumerate();
    tools
        .map(|(index, call)| {
            let id = format!("call_{}{index:02}", message.key);
            (id, call.tool.clone(), call.arguments())
        })
        .collect()
}

fn text(message: &Message<'_>) -> Option<String> {
    let text = message.answer.text.clone();
    text.filter(|text| !text.is_empty())
}

/// The output items of a response.
fn items(message: &Message<'_>) -> Vec<Value> {
    let text = text(message).map(|text| {
        json!({
            "type": "message", "id": format!("msg_{}", message.key), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        })
    });
    let calls = calls(message).into_iter().map(|(id, name, arguments)| {
        let mut item = json!({
            "type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": name,
            "arguments": arguments, "status": "completed",
        });
        // Tools of a Model Context Protocol server are called in a namespace of theirs.
        let of_server = name
            .strip_prefix("mcp__")
            .and_then(|rest| rest.split_once("__"));
        if let Some((server, tool)) = of_server {
            item["namespace"] = format!("mcp__{server}").into();
            item["name"] = tool.into();
        }
        item
    });
    text.into_iter().chain(calls).collect()
}

/// A response, as it is at its end or, without output, at its beginning.
fn envelope(message: &Message<'_>, output: &[Value], done: bool) -> Value {
    let usage = message.usage();
    let input = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens;
    let usage = json!({
        "input_tokens": input,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + usage.output_tokens,
    });
    let mut response = json!({
        "id": format!("resp_{}", message.key), "object": "response", "created_at": 1,
        "status": if done { "completed" } else { "in_progress" },
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
        "model": message.model, "output": output, "parallel_tool_calls": true,
        "temperature": 1, "tool_choice": "auto", "tools": [], "top_p": 1,
    });
    if done {
        response["usage"] = usage;
    }
    response
}

/// The whole response, for a request that does not stream.
pub(crate) fn response(message: &Message<'_>) -> Value {
    envelope(message, &items(message), true)
}

/// The response as a stream's frames.
pub(crate) fn response_frames(message: &Message<'_>) -> Vec<String> {
    let begun = envelope(message, &[], false);
    let mut events = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
    ];
    let items = items(message);
    for (index, item) in items.iter().enumerate() {
        let at = |mut event: Value| {
            event["output_index"] = index.into();
            event["item_id"] = item["id"].clone();
            event
        };
        let whole =
            |kind: &str, item: &Value| json!({"type": kind, "output_index": index, "item": item});
        let mut empty = item.clone();
        empty["status"] = "in_progress".into();
        if item["type"] == "function_call" {
            let arguments = item["arguments"].as_str().unwrap_or_default();
            empty["arguments"] = "".into();
            events.push(whole("response.output_item.added", &empty));
            events.extend(pieces(arguments).into_iter().map(|piece| {
                at(json!({"type": "response.function_call_arguments.delta", "delta": piece}))
            }));
            events.push(at(json!({
                "type": "response.function_call_arguments.done", "name": item["name"], "arguments": arguments,
            })));
        } else {
            let part = &item["content"][0];
            let text = part["text"].as_str().unwrap_or_default();
            let mut nothing = part.clone();
            nothing["text"] = "".into();
            empty["content"] = json!([]);
            let in_part = |mut event: Value| {
                event["content_index"] = 0.into();
                at(event)
            };
            events.push(whole("response.output_item.added", &empty));
            events.push(in_part(
                json!({"type": "response.content_part.added", "part": nothing}),
            ));
            events.extend(pieces(text).into_iter().map(|piece| {
                in_part(
                    json!({"type": "response.output_text.delta", "delta": piece, "logprobs": []}),
                )
            }));
            events.push(in_part(
                json!({"type": "response.output_text.done", "text": text, "logprobs": []}),
            ));
            events.push(in_part(
                json!({"type": "response.content_part.done", "part": part}),
            ));
        }
        events.push(whole("response.output_item.done", item));
    }
    events.push(json!({"type": "response.completed", "response": envelope(message, &items, true)}));
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = number.into();
        named(&event)
    });
    numbered.collect()
}

fn chat_usage(usage: Usage) -> Value {
    let input = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens;
    json!({
        "prompt_tokens": input,
        "completion_tokens": usage.output_tokens,
        "total_tokens": input + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

fn finish_reason(message: &Message<'_>) -> &'static str {
    match message.answer.tools.is_empty() {
        true => "stop",
        false => "tool_calls",
    }
}

/// The whole chat completion, for a request that does not stream.
pub(crate) fn chat(message: &Message<'_>) -> Value {
    let mut said = json!({"role": "assistant", "content": text(message), "refusal": null});
    let calls: Vec<Value> = calls(message)
        .into_iter()
        .map(|(id, name, arguments)| {
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    if !calls.is_empty() {
        said["tool_calls"] = calls.into();
    }
    json!({
        "id": format!("chatcmpl-{}", message.key), "object": "chat.completion", "created": 1,
        "model": message.model,
        "choices": [{"index": 0, "message": said, "logprobs": null, "finish_reason": finish_reason(message)}],
        "usage": chat_usage(message.usage()),
    })
}

/// The chat completion as a stream's frames.
pub(crate) fn chat_frames(message: &Message<'_>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        data(&json!({
            "id": format!("chatcmpl-{}", message.key), "object": "chat.completion.chunk", "created": 1,
            "model": message.model, "choices": choices, "usage": usage,
        }))
    };
    let delta = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        chunk(json!([choice]), Value::Null)
    };
    let mut frames = vec![delta(
        json!({"role": "assistant", "content": ""}),
        Value::Null,
    )];
    let text = text(message).unwrap_or_default();
    let said = pieces(&text).into_iter().filter(|piece| !piece.is_empty());
    frames.extend(said.map(|piece| delta(json!({"content": piece}), Value::Null)));
    for (index, (id, name, arguments)) in calls(message).into_iter().enumerate() {
        let call = |call: Value| delta(json!({"tool_calls": [call]}), Value::Null);
        frames.push(call(json!({
            "index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""},
        })));
        frames.extend(
            pieces(&arguments)
                .into_iter()
                .map(|piece| call(json!({"index": index, "function": {"arguments": piece}}))),
        );
    }
    frames.push(delta(json!({}), finish_reason(message).into()));
    frames.push(chunk(json!([]), chat_usage(message.usage())));
    frames.push("data: [DONE]\n\n".to_owned());
    frames
}
