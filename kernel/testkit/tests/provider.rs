//! The scripted provider over real sockets, against the published schema and
//! the recorded traffic.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod messages;
#[path = "messages/openai.rs"]
mod openai;
#[path = "messages/played.rs"]
mod played;

use factory_testkit::anthropic::Usage;
use factory_testkit::provider::{Outcome, Provider, ProviderError};
use factory_testkit::scenario::{
    Answer as Said, Conversation, HANG, Scenario, Step, ToolCall, When,
};
use http_body_util::BodyExt;
use messages::{Client, ask, body, check, events, read, request, shared, turns};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

async fn start(steps: &str) -> Provider {
    let yaml = format!(
        "conversations:\n  - name: fix\n    when: {{contains: the task}}\n    steps:\n{steps}"
    );
    Provider::start(Scenario::parse(&yaml, "test").unwrap())
        .await
        .unwrap()
}

const TWO_TOOLS: &str = r#"
      - text: Let me look at all of it, äöü and more.
        tools:
          - {tool: Read, input: {file_path: /workspace/calc.sh}}
          - {tool: Bash, input: {command: "true", description: Nothing}}
      - text: Done.
"#;

#[tokio::test]
async fn answers_fit_the_published_schema() {
    let Some(file) = shared("contracts/anthropic/openapi.derived.json") else {
        println!("skipped: answers_fit_the_published_schema: no openapi.derived.json");
        return;
    };
    let root: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let fits = |schema: &str, value: &Value| {
        let schema = &root["components"]["schemas"][schema];
        check(&root, schema, value, "").unwrap();
    };
    let provider = start(TWO_TOOLS).await;
    for turn in 0..2 {
        let whole = ask(&provider.base_url(), &body("the task", &turns(turn), false)).await;
        assert_eq!((whole.status, whole.cut), (200, false));
        fits("Message", &whole.json());
        let stream = ask(&provider.base_url(), &body("the task", &turns(turn), true)).await;
        assert_eq!(
            stream.headers["content-type"],
            "text/event-stream; charset=utf-8"
        );
        for event in stream.events() {
            if event["type"] != "ping" {
                fits("RawMessageStreamEvent", &event);
            }
        }
        assert_eq!(assemble(&stream.events()), whole.json());
    }
    for turn in [2, 3] {
        let refused = ask(&provider.base_url(), &body("the task", &turns(turn), true)).await;
        assert_eq!(refused.status, 400);
        fits("ErrorResponse", &refused.json());
    }
    let fields = &root["components"]["schemas"]["Message"];
    assert!(
        check(&root, fields, &json!({"id": 1}), "").is_err(),
        "the checker checks"
    );
    provider.stop().await;
}

/// What a client makes of a stream.
fn assemble(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let mut blocks: Vec<Value> = Vec::new();
    let mut arguments = String::new();
    for event in &events[1..] {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                arguments.clear();
            }
            "content_block_delta" => {
                let block = blocks.last_mut().unwrap();
                if event["delta"]["type"] == "text_delta" {
                    let text = block["text"].as_str().unwrap().to_owned();
                    block["text"] = (text + event["delta"]["text"].as_str().unwrap()).into();
                } else {
                    arguments += event["delta"]["partial_json"].as_str().unwrap();
                }
            }
            "content_block_stop" if !arguments.is_empty() => {
                blocks.last_mut().unwrap()["input"] = serde_json::from_str(&arguments).unwrap();
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["usage"]["output_tokens"] = event["usage"]["output_tokens"].clone();
            }
            _ => {}
        }
    }
    message["content"] = blocks.into();
    message
}

/// The names of all fields, with what kind of value each has.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (k.clone(), if k == "type" { v.clone() } else { shape(v) }))
            .collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn streams_have_the_recorded_shape() {
    let Some(file) = shared("engines/claude/responses-success.sse") else {
        println!("skipped: streams_have_the_recorded_shape: no responses-success.sse");
        return;
    };
    let recorded = events(&std::fs::read_to_string(file).unwrap());
    let recorded: Vec<&[Value]> = recorded
        .split_inclusive(|event| event["type"] == "message_stop")
        .collect();
    assert_eq!(recorded.len(), 5);
    // The same answers, taken from the recording.
    let steps = recorded.iter().map(|stream| {
        let content = &assemble(stream)["content"][0];
        let text = content["text"].as_str().map(str::to_owned);
        let input = content["input"].as_object();
        let tools = input.map(|input| ToolCall {
            tool: content["name"].as_str().unwrap().to_owned(),
            input: input.clone(),
            raw: None,
        });
        Step::Answer(Said {
            text,
            tools: tools.into_iter().collect(),
            wait: None,
        })
    });
    let conversation = Conversation {
        name: "recorded".to_owned(),
        when: When::default(),
        steps: steps.collect(),
    };
    let provider = Provider::start(Scenario {
        conversations: vec![conversation],
    })
    .await
    .unwrap();
    for (turn, stream) in recorded.iter().enumerate() {
        let ours = ask(&provider.base_url(), &body("x", &turns(turn), true))
            .await
            .events();
        let mut shapes: Vec<Value> = ours.iter().map(shape).collect();
        let mut expected: Vec<Value> = stream.iter().map(shape).collect();
        // How an answer is cut into pieces is the provider's choice.
        shapes.dedup();
        expected.dedup();
        assert_eq!(shapes, expected);
        assert_eq!(
            assemble(&ours)["content"][0]["input"],
            assemble(stream)["content"][0]["input"]
        );
    }
    provider.stop().await;
}

#[tokio::test]
async fn the_request_alone_decides_the_answer() {
    let provider = start(TWO_TOOLS).await;
    let url = provider.base_url();
    let first = ask(&url, &body("the task", &[], true)).await.text;
    assert_eq!(ask(&url, &body("the task", &[], true)).await.text, first);
    let second = ask(&url, &body("the task", &turns(1), true)).await;
    assert_eq!(assemble(&second.events())["content"][0]["text"], "Done.");
    assert_eq!(assemble(&second.events())["stop_reason"], "end_turn");

    // What the CLI does after a cut behind a whole block: the text stays, the tool call is due again.
    let mut broken = vec![
        json!({"role": "assistant", "content": [{"type": "text", "text": "Let me look"}]}),
        json!({"role": "user", "content": [{"type": "text", "text": "Resume directly from where it stops."}]}),
    ];
    let again = assemble(&ask(&url, &body("the task", &broken, true)).await.events());
    assert_eq!(again["stop_reason"], "tool_use");
    assert_ne!(
        again["id"],
        assemble(&events(&first))["id"],
        "or the CLI would take both for one message"
    );
    broken.extend(turns(1));
    assert_eq!(
        assemble(&ask(&url, &body("the task", &broken, true)).await.events())["stop_reason"],
        "end_turn"
    );

    let usage: Vec<Usage> = provider
        .requests()
        .iter()
        .map(|request| match &request.outcome {
            Outcome::Answer { usage, .. } => *usage,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(usage[0].input_tokens, 1200);
    assert_eq!(usage[2].input_tokens, 1300);
    assert_eq!(
        provider.usage().input_tokens,
        1200 + 1200 + 1300 + 1300 + 1400
    );
    assert_eq!(
        provider.usage().output_tokens,
        usage.iter().map(|usage| usage.output_tokens).sum::<u64>()
    );
    provider.stop().await;
}

#[tokio::test]
async fn faults_come_before_their_answer_and_end() {
    let provider = start(
        r"
      - {status: 429, retry_after: 2, times: 2}
      - {status: 529}
      - {cut_after_events: 3}
      - {error_event: overloaded_error, times: 2}
      - text: Long enough for two pieces of text.
      - {status: 401, times: always}
      - text: Never said.
",
    )
    .await;
    let url = provider.base_url();
    let begin = body("the task", &[], true);
    for _ in 0..2 {
        let limited = ask(&url, &begin).await;
        assert_eq!(
            (
                limited.status,
                limited.headers["retry-after"].to_str().unwrap()
            ),
            (429, "2")
        );
        assert_eq!(limited.json()["error"]["type"], "rate_limit_error");
    }
    let overloaded = ask(&url, &begin).await;
    assert_eq!(
        (overloaded.status, &overloaded.json()["error"]["type"]),
        (529, &json!("overloaded_error"))
    );
    let cut = ask(&url, &begin).await;
    assert!(cut.cut);
    assert_eq!(cut.events().len(), 3);
    let failed = ask(&url, &begin).await;
    assert!(!failed.cut);
    assert_eq!(failed.events().len(), 5);
    assert_eq!(failed.events()[4]["error"]["type"], "overloaded_error");
    assert!(
        !failed.text.contains("content_block_stop"),
        "nothing of it is whole"
    );
    let whole = ask(&url, &body("the task", &[], false)).await;
    assert_eq!(whole.status, 529, "who does not stream gets a status");
    let answer = ask(&url, &begin).await;
    assert_eq!(
        assemble(&answer.events())["content"][0]["text"],
        "Long enough for two pieces of text."
    );
    let one = [
        json!({"role": "assistant", "content": "Long"}),
        json!({"role": "user", "content": "And?"}),
    ];
    for _ in 0..3 {
        assert_eq!(ask(&url, &body("the task", &one, true)).await.status, 401);
    }
    let faults = provider
        .requests()
        .iter()
        .filter(|r| matches!(r.outcome, Outcome::Fault { .. }))
        .count();
    assert_eq!((provider.requests().len(), faults), (10, 9));
    provider.stop().await;
}

#[tokio::test]
async fn a_cut_breaks_a_whole_answer_as_well() {
    let provider = start("      - {cut_after_events: 0}\n      - text: Whole.\n").await;
    let cut = ask(&provider.base_url(), &body("the task", &[], false)).await;
    assert!(cut.cut && !cut.text.is_empty());
    assert!(
        !ask(&provider.base_url(), &body("the task", &[], false))
            .await
            .cut
    );
    provider.stop().await;
}

#[tokio::test]
async fn an_answer_is_held_until_it_is_released() {
    let provider = start("      - wait: middle\n      - text: Long enough for two pieces.\n").await;
    let mut client = Client::connect(&provider.base_url()).await;
    let mut held = client.post(&body("the task", &[], true)).await.into_body();
    provider.reached("middle").await.unwrap();
    let mut text = String::new();
    // Four events arrive while the rest is held.
    while events(&text).len() < 4 {
        let frame = held.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert_eq!(events(&text).len(), 4);
    provider.release("middle").unwrap();
    while let Some(frame) = held.frame().await {
        text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
    }
    assert_eq!(events(&text).last().unwrap()["type"], "message_stop");
    assert!(
        !ask(&provider.base_url(), &body("the task", &[], true))
            .await
            .cut,
        "released for good"
    );
    assert!(matches!(
        provider.release("midle"),
        Err(ProviderError::NoSuchWait { .. })
    ));
    provider.stop().await;
}

#[tokio::test]
async fn a_hang_gives_no_headers_until_it_is_released() {
    let provider = start("      - {hang: true, times: 2}\n      - text: At last.\n").await;
    let mut gone = Client::connect(&provider.base_url()).await;
    let begin = body("the task", &[], true);
    tokio::select! {
        _ = gone.post(&begin) => panic!("answered"),
        reached = provider.reached(HANG) => reached.unwrap(),
    }
    drop(gone);
    let url = provider.base_url();
    let released = async {
        while provider.requests().len() < 2 {
            tokio::task::yield_now().await;
        }
        provider.release(HANG).unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&url, &begin), released);
    assert_eq!(assemble(&answer.events())["content"][0]["text"], "At last.");
    let outcomes: Vec<_> = provider
        .requests()
        .into_iter()
        .map(|request| request.outcome)
        .collect();
    assert!(
        matches!(outcomes[1], Outcome::Answer { .. }),
        "{outcomes:?}"
    );
    provider.stop().await;
}

#[tokio::test]
async fn what_is_not_scripted_is_refused_and_recorded() {
    let provider = start("      - text: Only this.\n").await;
    let url = provider.base_url();
    let mut client = Client::connect(&url).await;
    let mut said = Vec::new();
    let mut no_key = request("POST", "/v1/messages", &body("the task", &[], true));
    no_key.headers_mut().remove("x-api-key");
    for request in [
        request("POST", "/v1/messages", &body("another matter", &[], true)),
        request("POST", "/v1/messages", &body("the task", &turns(1), true)),
        request(
            "POST",
            "/v1/messages",
            &json!({"model": "m", "max_tokens": 1}),
        ),
        request("GET", "/v1/models", &Value::Null),
        no_key,
    ] {
        let answer = read(client.send(request).await.unwrap()).await;
        assert_eq!(answer.json()["type"], "error");
        said.push((
            answer.status,
            answer.json()["error"]["message"]
                .as_str()
                .unwrap()
                .to_owned(),
        ));
    }
    let statuses: Vec<u16> = said.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [400, 400, 400, 404, 401]);
    assert!(said[0].1.contains("there are: fix"), "{}", said[0].1);
    assert!(
        said[1]
            .1
            .contains("`fix` has 1 answers, and this request asks for number 2"),
        "{}",
        said[1].1
    );
    let recorded = provider.requests();
    for (request, (status, message)) in recorded.iter().zip(&said) {
        assert_eq!(
            request.outcome,
            Outcome::Refused {
                status: *status,
                message: message.clone()
            }
        );
    }
    assert_eq!(recorded[3].path, "/v1/models");
    assert_eq!(recorded[0].header("anthropic-version"), Some("2023-06-01"));
    assert!(
        recorded[0]
            .request()
            .unwrap()
            .prompt
            .contains("another matter")
    );
    assert!(recorded.is_sorted_by_key(|request| request.at));
    provider.stop().await;
    assert!(
        tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn side_requests_get_a_harmless_text() {
    let provider = start(TWO_TOOLS).await;
    let mut title = body("the task", &[], true);
    title["tools"] = json!([]);
    let answer = assemble(&ask(&provider.base_url(), &title).await.events());
    assert_eq!(
        (&answer["stop_reason"], &answer["content"][0]["type"]),
        (&json!("end_turn"), &json!("text"))
    );
    assert!(matches!(
        provider.requests()[0].outcome,
        Outcome::SideRequest { .. }
    ));
    provider.stop().await;
}

#[tokio::test]
async fn conversations_are_tried_in_order() {
    let yaml = r"
conversations:
  - {name: later, when: {contains: the task, turn: 2}, steps: [{text: later}]}
  - {name: other model, when: {contains: the task, model: claude-opus-5}, steps: [{text: opus}]}
  - name: system
    when: {contains: You are an agent}
    steps: [{tool: Bash, input: {}}, {tool: Bash, input: {}}, {text: done}]
";
    let provider = Provider::start(Scenario::parse(yaml, "test").unwrap())
        .await
        .unwrap();
    let mut opus = body("the task", &[], true);
    opus["model"] = "claude-opus-5".into();
    for (body, conversation, number) in [
        (opus, "other model", 0),
        (body("the task", &turns(1), true), "system", 1),
        (body("the task", &turns(2), true), "later", 0),
        (body("anything", &turns(2), true), "system", 2),
    ] {
        ask(&provider.base_url(), &body).await;
        match provider.requests().pop().unwrap().outcome {
            Outcome::Answer {
                conversation: name,
                answer,
                ..
            } => assert_eq!((name.as_str(), answer), (conversation, number)),
            other => panic!("{other:?}"),
        }
    }
    provider.stop().await;
}

#[tokio::test]
async fn thousands_of_turns_are_fine() {
    let step = Step::Answer(Said {
        tools: vec![ToolCall::bash("true", "Nothing")],
        ..Said::default()
    });
    let conversation = Conversation {
        name: "long".to_owned(),
        when: When::default(),
        steps: vec![step; 5000],
    };
    let provider = Provider::start(Scenario {
        conversations: vec![conversation],
    })
    .await
    .unwrap();
    let answer = ask(&provider.base_url(), &body("x", &turns(4999), true)).await;
    assert_eq!(assemble(&answer.events())["stop_reason"], "tool_use");
    assert!(matches!(
        provider.requests()[0].outcome,
        Outcome::Answer { answer: 4999, .. }
    ));
    provider.stop().await;
}

#[tokio::test]
async fn the_binary_serves_a_file_until_it_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scenario.yaml");
    std::fs::write(&file, "conversations: [{name: a, steps: [{text: Hello.}]}]").unwrap();
    let binary = env!("CARGO_BIN_EXE_scripted-provider");
    let mut child = Command::new(binary)
        .arg("--scenario")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();
    let answer = ask(url.trim(), &body("x", &[], false)).await;
    let ended = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(ended.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(answer.json()["content"][0]["text"], "Hello.");
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("POST /v1/messages?beta=true -> Answer")
    );

    std::fs::write(&file, "conversations: [{name: a, stepz: []}]").unwrap();
    let output = Command::new(binary)
        .arg("--scenario")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("stepz") && said.contains("line 1"), "{said}");
}
