//! The two APIs of openai at a door: what is relayed, counted, filled and refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{
    Agent, Got, KEY, Lab, Piece, Provider, Reply, bytes, collect, contracts_of, counted, files,
    openai_request, quick, read_until,
};
use factory_core::{grant::WireApi, inbox::Usage};
use factory_gateway::{Timing, client};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";
const ASKED: &str = r#"{"model":"gpt-asked","stream":true}"#;

/// A gateway whose run `r1-1` speaks `api` with `provider`, whose address ends in a version.
async fn lab(provider: &Provider, api: WireApi, timing: Timing) -> Lab {
    let lab = Lab::with_run("http://127.0.0.1:1", timing).await;
    let mut grant = lab.grant("r1-1", &format!("{}/v1", provider.base_url));
    grant.models.as_mut().unwrap().api = api;
    *lab.grants.lock().unwrap() = vec![grant];
    client::wake(&lab.places).await.unwrap();
    lab
}

async fn call(agent: &mut Agent, path: &str) -> Got {
    collect(agent.ask(openai_request(path, ASKED)).await.unwrap()).await
}

/// What an answer with this usage counts.
fn used(model: &Value, usage: &Value, names: [&str; 3]) -> Usage {
    let [input, details, output] = names;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let read = number(&usage[details]["cached_tokens"]);
    Usage {
        model: model.as_str().unwrap().to_owned(),
        status: 200,
        input_tokens: number(&usage[input]) - read,
        output_tokens: number(&usage[output]),
        cache_read_tokens: read,
        ..Usage::default()
    }
}

fn of_response(response: &Value) -> Usage {
    let names = ["input_tokens", "input_tokens_details", "output_tokens"];
    used(&response["model"], &response["usage"], names)
}

fn of_chat(answer: &Value) -> Usage {
    let names = [
        "prompt_tokens",
        "prompt_tokens_details",
        "completion_tokens",
    ];
    used(&answer["model"], &answer["usage"], names)
}

#[tokio::test]
async fn recorded_responses_are_relayed_byte_for_byte_and_counted() {
    let test = "recorded_responses_are_relayed_byte_for_byte_and_counted";
    let Some(folder) = contracts_of("openai", test) else {
        return;
    };
    let provider = Provider::new(vec![]).await;
    let mut open = lab(&provider, WireApi::Responses, quick()).await;
    let mut agent = open.agent().await;
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    for (name, text) in files(&folder.join("responses"), ".jsonl") {
        let text = String::from_utf8(text).unwrap();
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let framed: String = events
            .iter()
            .map(|event| {
                format!(
                    "event: {}\ndata: {event}\n\n",
                    event["type"].as_str().unwrap()
                )
            })
            .collect();
        // An error event is never relayed: what came before it is, and then a break.
        let error = framed.find("event: error\n");
        let pieces = framed.as_bytes().chunks(997);
        provider.say(vec![Reply::sse(
            pieces.map(|p| bytes(p.to_vec())).collect(),
        )]);
        let got = call(&mut agent, RESPONSES).await;
        assert_eq!(got.cut, error.is_some(), "{name}");
        assert_eq!(
            got.text(),
            framed[..error.unwrap_or(framed.len())],
            "{name}"
        );
        if error.is_some() {
            // An account without credit, which this run does not ask again.
            seen.extend(open.usages());
            open.stop().await;
            open = lab(&provider, WireApi::Responses, quick()).await;
            agent = open.agent().await;
        }
        let ends = |event: &&Value| {
            matches!(
                event["type"].as_str().unwrap(),
                "response.completed" | "response.incomplete" | "response.failed"
            )
        };
        if error.is_none() {
            // One recording holds several answers of one conversation.
            let whole = events.iter().filter(ends);
            expected.extend(whole.map(|end| of_response(&end["response"])));
        } else {
            expected.push(Usage {
                model: events[0]["response"]["model"].as_str().unwrap().to_owned(),
                // The recorded error is an account without credit, said in the stream.
                status: 402,
                cut: true,
                ..Usage::default()
            });
        }
    }
    let wholes = files(&folder.join("responses"), ".json");
    for (name, text) in wholes.iter().filter(|(name, _)| !name.contains("error")) {
        provider.say(vec![Reply::json(200, text.clone())]);
        assert_eq!(call(&mut agent, RESPONSES).await.body, *text, "{name}");
        expected.push(of_response(&serde_json::from_slice(text).unwrap()));
    }
    seen.extend(open.usages());
    let usages: Vec<Usage> = seen.iter().map(counted).collect();
    assert!(usages.len() > 20 && usages.iter().any(|usage| usage.cache_read_tokens > 0));
    assert_eq!(usages, expected);
    open.stop().await;
}

#[tokio::test]
async fn recorded_chats_are_relayed_byte_for_byte_and_counted() {
    let test = "recorded_chats_are_relayed_byte_for_byte_and_counted";
    let Some(folder) = contracts_of("openai", test) else {
        return;
    };
    let provider = Provider::new(vec![]).await;
    let mut lab = lab(&provider, WireApi::ChatCompletions, quick()).await;
    let mut agent = lab.agent().await;
    let text = std::fs::read_to_string(folder.join("chat/openai-text.chunks.jsonl")).unwrap();
    let framed: String = text
        .lines()
        .map(|line| format!("data: {line}\n\n"))
        .collect();
    let framed = format!("{framed}data: [DONE]\n\n");
    provider.say(vec![Reply::sse(vec![bytes(framed.clone())])]);
    assert_eq!(call(&mut agent, CHAT).await.text(), framed);
    let whole = std::fs::read(folder.join("chat/openai-text.json")).unwrap();
    provider.say(vec![Reply::json(200, whole.clone())]);
    assert_eq!(call(&mut agent, CHAT).await.body, whole);
    let usages: Vec<Usage> = lab.usages().iter().map(counted).collect();
    let last = text.lines().last().unwrap();
    let expected = [
        of_chat(&serde_json::from_str(last).unwrap()),
        of_chat(&serde_json::from_slice(&whole).unwrap()),
    ];
    assert_eq!(usages, expected);
    assert_eq!((usages[0].input_tokens, usages[0].output_tokens), (16, 300));
    // Without its last event a stream is cut, whatever it held.
    provider.say(vec![Reply::sse(vec![bytes(
        framed.replace("[DONE]", "{}"),
    )])]);
    assert!(call(&mut agent, CHAT).await.cut);
    lab.stop().await;
}

#[tokio::test]
async fn the_key_is_swapped_and_the_path_is_the_providers() {
    let provider = Provider::new(vec![Reply::json(200, r#"{"model":"m"}"#)]).await;
    for (api, path, upstream) in [
        (WireApi::Responses, RESPONSES, "/v1/responses"),
        (WireApi::ChatCompletions, CHAT, "/v1/chat/completions"),
    ] {
        let mut lab = lab(&provider, api, quick()).await;
        call(&mut lab.agent().await, path).await;
        let asked = provider.asked().pop().unwrap();
        assert_eq!(asked.target, upstream);
        assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
        assert!(!asked.headers.contains_key("x-api-key"));
        assert_eq!(asked.headers["session-id"], "s-1");
        assert_eq!(asked.headers["x-codex-window-id"], "w-1");
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        // Only a stream of chat completions has to be asked for what it used.
        let counts = (api == WireApi::ChatCompletions).then(|| json!({"include_usage": true}));
        assert_eq!(body.get("stream_options"), counts.as_ref());
        // The other two APIs are not granted.
        for other in ["/v1/messages", RESPONSES, CHAT] {
            let got = call(&mut lab.agent().await, other).await;
            assert_eq!(got.status == 200, other == path, "{other}: {}", got.text());
        }
        lab.stop().await;
    }
}

#[tokio::test]
async fn what_is_final_is_a_400_in_the_apis_own_shape() {
    let message =
        r#"{"error":{"message":"bad key","type":"x","param":null,"code":"invalid_api_key"}}"#;
    let provider = Provider::new(vec![Reply::json(401, message)]).await;
    for (api, path) in [
        (WireApi::Responses, RESPONSES),
        (WireApi::ChatCompletions, CHAT),
    ] {
        let mut lab = lab(&provider, api, quick()).await;
        let got = call(&mut lab.agent().await, path).await;
        let error: Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(got.status, 400);
        assert!(
            error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("bad key"),
            "{error}"
        );
        assert_eq!(lab.usages()[0].status, 401, "the kernel reads what it was");
        lab.stop().await;
    }
}

#[tokio::test]
async fn silences_are_filled_with_what_each_engine_takes_for_a_sign_of_life() {
    let created = json!({"type": "response.created", "sequence_number": 7, "response": {"id": "r", "model": "m"}});
    let completed = json!({"type": "response.completed", "sequence_number": 8, "response": {"id": "r", "model": "m"}});
    let event = |data: &Value| {
        format!(
            "event: {}\ndata: {data}\n\n",
            data["type"].as_str().unwrap()
        )
    };
    let progress = json!({"type": "response.in_progress", "sequence_number": 7, "response": created["response"]});
    let chunk = "data: {\"model\":\"m\",\"choices\":[]}\n\n".to_owned();
    let table = [
        (
            WireApi::Responses,
            RESPONSES,
            event(&created),
            event(&completed),
            event(&progress),
        ),
        (
            WireApi::ChatCompletions,
            CHAT,
            chunk,
            "data: [DONE]\n\n".to_owned(),
            ": keep-alive\n\n".to_owned(),
        ),
    ];
    for (api, path, first, last, filled) in table {
        let gate = Arc::new(Notify::new());
        let provider = Provider::new(vec![Reply::sse(vec![
            bytes(first.clone()),
            Piece::Gate(Arc::clone(&gate)),
            bytes(last.clone()),
        ])])
        .await;
        let timing = Timing {
            ping_every: Duration::from_millis(20),
            ..quick()
        };
        let mut lab = lab(&provider, api, timing).await;
        let mut agent = lab.agent().await;
        let mut stream = agent
            .ask(openai_request(path, ASKED))
            .await
            .unwrap()
            .into_body();
        let mut body = read_until(&mut stream, &format!("{first}{filled}{filled}")).await;
        gate.notify_one();
        body.extend(read_until(&mut stream, last.trim_end()).await);
        let text = String::from_utf8(body).unwrap().replace(&filled, "");
        assert!(
            text.starts_with(&format!("{first}{}", last.trim_end())),
            "{text}"
        );
        lab.stop().await;
    }
}
