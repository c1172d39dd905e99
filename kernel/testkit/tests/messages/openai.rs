//! The Responses and chat completions APIs, against the published schema and the
//! recorded requests of the real engines.

use crate::messages::{Client, check, read, shared};
use factory_testkit::anthropic::{Request, Usage};
use factory_testkit::provider::{Outcome, Provider};
use factory_testkit::scenario::Scenario;
use http_body_util::Full;
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";
const STEPS: &str = r#"
conversations:
  - name: fix
    when: {contains: the task}
    steps:
      - text: Let me look at all of it, äöü and more.
        tools:
          - {tool: Read, input: {file_path: /workspace/calc.sh}}
          - {tool: Bash, input: {command: "true", description: Nothing}}
      - {bad_call: true}
      - text: Done.
"#;

async fn start() -> Provider {
    let scenario = Scenario::parse(STEPS, "test").unwrap();
    Provider::start(scenario).await.unwrap()
}

/// A request as each engine makes it, after `turns` answers with calls.
fn body(path: &str, turns: &[Value], stream: bool) -> Value {
    match path {
        RESPONSES => {
            let mut input = vec![
                json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are an agent."}]}),
                json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment/>"}]}),
                json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "the task"}]}),
            ];
            input.extend_from_slice(turns);
            let tool = json!({"type": "function", "name": "exec_command", "parameters": {}});
            json!({"model": "gpt-5.5", "stream": stream, "input": input, "tools": [tool]})
        }
        _ => {
            let mut messages = vec![
                json!({"role": "system", "content": "You are an agent."}),
                json!({"role": "user", "content": "the task"}),
            ];
            messages.extend_from_slice(turns);
            let tool = json!({"type": "function", "function": {"name": "bash"}});
            json!({"model": "gpt-5.5", "stream": stream, "messages": messages, "tools": [tool]})
        }
    }
}

async fn ask(provider: &Provider, path: &str, body: &Value) -> (u16, String) {
    let mut client = Client::connect(&provider.base_url()).await;
    let request = hyper::Request::post(path)
        .header("host", "127.0.0.1")
        .header("authorization", "Bearer placeholder")
        .body(Full::from(body.to_string()))
        .unwrap();
    let answer = read(client.send(request).await.unwrap()).await;
    assert!(!answer.cut);
    (answer.status, answer.text)
}

/// The data of a stream's events; `[DONE]` is none.
fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// What a client puts into its next request: the answer, and a result of each call.
fn next_turn(path: &str, whole: &Value) -> Vec<Value> {
    match path {
        RESPONSES => {
            let output = whole["output"].as_array().unwrap();
            let calls = output.iter().filter(|item| item["type"] == "function_call");
            let results = calls.map(|call| {
                json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"})
            });
            output.iter().cloned().chain(results).collect()
        }
        _ => {
            let message = &whole["choices"][0]["message"];
            let calls = message["tool_calls"].as_array().unwrap().iter();
            let results = calls
                .map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"}));
            std::iter::once(message.clone()).chain(results).collect()
        }
    }
}

#[tokio::test]
async fn answers_fit_the_published_schema_and_lead_to_the_next_one() {
    let Some(file) = shared("contracts/openai/openapi.json") else {
        println!(
            "skipped: answers_fit_the_published_schema_and_lead_to_the_next_one: no openapi.json"
        );
        return;
    };
    let root: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let fits = |schema: &str, value: &Value| {
        let schema = &root["components"]["schemas"][schema];
        check(&root, schema, value, "").unwrap_or_else(|wrong| panic!("{wrong}\nin {value}"));
    };
    for (path, whole_schema, event_schema, tool, argument) in [
        (
            RESPONSES,
            "Response",
            "ResponseStreamEvent",
            "exec_command",
            "cmd",
        ),
        (
            CHAT,
            "CreateChatCompletionResponse",
            "CreateChatCompletionStreamResponse",
            "bash",
            "command",
        ),
    ] {
        let provider = start().await;
        let mut turns = Vec::new();
        for answer in ["cat '/workspace/calc.sh'", "bad", "Done."] {
            let (status, whole) = ask(&provider, path, &body(path, &turns, false)).await;
            assert_eq!(status, 200, "{whole}");
            let whole: Value = serde_json::from_str(&whole).unwrap();
            fits(whole_schema, &whole);
            let text = whole.to_string();
            if answer == "bad" {
                assert!(text.contains("{\\\"command\\\": "), "{text}");
            } else {
                let (status, stream) = ask(&provider, path, &body(path, &turns, true)).await;
                assert_eq!(status, 200, "{stream}");
                let streamed = events(&stream);
                streamed.iter().for_each(|event| fits(event_schema, event));
                assert!(text.contains(answer), "no `{answer}` in {text}");
                // Both forms say the same.
                match path {
                    RESPONSES => assert_eq!(streamed.last().unwrap()["response"], whole),
                    _ => assert_eq!(streamed.last().unwrap()["usage"], whole["usage"]),
                }
            }
            if answer.starts_with("cat") {
                assert!(text.contains(&format!("\"{tool}\"")), "{text}");
                assert!(
                    text.contains(&format!("\\\"{argument}\\\":\\\"true\\\"")),
                    "{text}"
                );
            }
            if answer != "Done." {
                turns.extend(next_turn(path, &whole));
            }
        }
        let (status, refused) = ask(
            &provider,
            path,
            &body(path, &[], false)
                .as_object()
                .map(|all| {
                    let mut all = all.clone();
                    all.remove("model");
                    Value::Object(all)
                })
                .unwrap(),
        )
        .await;
        assert_eq!(status, 400);
        fits("ErrorResponse", &serde_json::from_str(&refused).unwrap());
        let outcomes: Vec<bool> = provider
            .requests()
            .iter()
            .map(|request| matches!(request.outcome, Outcome::Answer { .. }))
            .collect();
        assert_eq!(outcomes, [true, true, false, true, true, false]);
        assert_ne!(provider.usage(), Usage::default());
        provider.stop().await;
    }
}

#[test]
fn recorded_requests_are_understood() {
    let read = |name: &str| {
        let file = shared(name)?;
        let text = std::fs::read_to_string(file).unwrap();
        serde_json::from_str::<Value>(&text).ok()
    };
    let table = [
        ("engines/codex/request.json", RESPONSES, "exec_command"),
        ("engines/mini/request-chat-completions.json", CHAT, "bash"),
    ];
    for (name, path, tool) in table {
        let Some(recorded) = read(name) else {
            println!("skipped: recorded_requests_are_understood: no {name}");
            continue;
        };
        let requests = recorded["requests"].as_array().unwrap();
        for (request, turns) in requests.iter().zip([0, 3]) {
            let body = request["body"].to_string();
            let request = Request::parse(path, body.as_bytes()).unwrap();
            assert_eq!(request.turns, vec![true; turns], "{name}");
            assert!(request.tools && request.offered.iter().any(|offered| offered == tool));
            assert!(request.prompt.contains("Fix calc.sh"), "{}", request.prompt);
            assert!(request.system.contains("You are a"), "{}", request.system);
        }
    }
    let newer = "engines/codex/request-known-model-gpt-6-sol.json";
    if let Some(recorded) = read(newer) {
        let body = recorded["requests"][0]["body"].to_string();
        assert!(Request::parse(RESPONSES, body.as_bytes()).unwrap().tools);
    }
}
