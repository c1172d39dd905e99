//! The models endpoint against a scripted provider: what is relayed and counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{
    DELTA, KEY, Lab, PING, Piece, Provider, Reply, START, STOP, bytes, collect, contracts, counted,
    files, quick, read_until, said, soon, whole,
};
use factory_core::inbox::{InboxEntry, Usage};
use factory_gateway::Timing;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Notify;

fn cut(usage: &Usage) -> Usage {
    Usage {
        cut: true,
        ..usage.clone()
    }
}

/// What each message of a recording used.
fn recorded(text: &str) -> Vec<Usage> {
    let mut all = Vec::new();
    let mut usage = Usage::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(model) = event["message"]["model"].as_str() {
            usage.model = model.to_owned();
        }
        for counts in [&event["message"]["usage"], &event["usage"]] {
            let most = |seen: u64, name: &str| {
                let parts = counts["iterations"].as_array().into_iter().flatten();
                let sum: u64 = parts.filter_map(|part| part[name].as_u64()).sum();
                seen.max(counts[name].as_u64().unwrap_or(0)).max(sum)
            };
            usage.input_tokens = most(usage.input_tokens, "input_tokens");
            usage.output_tokens = most(usage.output_tokens, "output_tokens");
            usage.cache_write_tokens =
                most(usage.cache_write_tokens, "cache_creation_input_tokens");
            usage.cache_read_tokens = most(usage.cache_read_tokens, "cache_read_input_tokens");
        }
        if event["type"] == "message_stop" {
            all.push(Usage {
                status: 200,
                ..std::mem::take(&mut usage)
            });
        }
    }
    all
}

#[tokio::test]
async fn every_recorded_stream_is_relayed_byte_for_byte_and_counted() {
    let Some(folder) = contracts("every_recorded_stream_is_relayed_byte_for_byte_and_counted")
    else {
        return;
    };
    let mut streams = files(&folder.join("sse"), ".sse");
    for (name, text) in files(&folder.join("chunks"), ".jsonl") {
        let text = String::from_utf8(text).unwrap();
        // Recorded without framing: with and without event names, with both line ends.
        let bare: String = text
            .lines()
            .map(|line| format!("data: {line}\n\n"))
            .collect();
        let named: String = text
            .lines()
            .map(|line| {
                let kind = line
                    .split("\"type\":\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .to_owned();
                format!("event: {kind}\r\ndata: {line}\r\n\r\n")
            })
            .collect();
        streams.push((format!("{name}, bare"), bare.into()));
        streams.push((format!("{name}, named"), named.into()));
    }
    assert!(streams.len() > 30, "{} recordings", streams.len());
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let mut numbers = BTreeMap::new();
    let mut before = 0;
    for (name, text) in &streams {
        let pieces = text
            .chunks(997)
            .map(|piece| bytes(piece.to_vec()))
            .collect();
        provider.say(vec![Reply::sse(pieces)]);
        let got = agent.whole_model().await;
        assert!(!got.cut, "{name}");
        assert!(
            got.body == *text,
            "{name} was changed on its way:\n{}",
            got.text()
        );
        let usages: Vec<Usage> = lab.usages()[before..].iter().map(counted).collect();
        assert_eq!(usages, recorded(&String::from_utf8_lossy(text)), "{name}");
        before += usages.len();
        let short = name.split('.').next().unwrap().to_owned();
        numbers.insert(
            short,
            usages
                .iter()
                .map(|usage| (usage.input_tokens, usage.output_tokens))
                .collect::<Vec<_>>(),
        );
    }
    // By number: a repeated start counts once, each message of a stream and
    // each iteration of a message counts.
    for (name, expected) in [
        ("basic_response", vec![(11, 6)]),
        ("duplicate-message-start", vec![(17, 227)]),
        ("spliced-message-start", vec![(17, 65)]),
        ("anthropic-message-delta-input-tokens", vec![(61, 2)]),
        ("anthropic-compaction", vec![(60997, 3341)]),
    ] {
        assert_eq!(numbers[name], expected, "{name}");
    }
    assert!(numbers["anthropic-programmatic-tool-calling"].len() > 1);
    lab.stop().await;
}

#[tokio::test]
async fn every_recorded_body_is_relayed_and_counted() {
    let Some(folder) = contracts("every_recorded_body_is_relayed_and_counted") else {
        return;
    };
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    for (at, (name, text)) in files(&folder.join("chunks"), ".json").iter().enumerate() {
        provider.say(vec![Reply::json(200, text.clone())]);
        let got = agent.whole_model().await;
        assert_eq!(got.body, *text, "{name}");
        let body: serde_json::Value = serde_json::from_slice(text).unwrap();
        let event = serde_json::json!({"type": "message_stop", "message": body});
        assert_eq!(
            counted(&lab.usages()[at]),
            recorded(&format!("data: {event}"))[0],
            "{name}"
        );
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_stream_may_come_byte_by_byte() {
    let text = format!("{START}{PING}{DELTA}{STOP}");
    let provider = Provider::new(vec![Reply::sse(
        text.bytes().map(|byte| bytes(vec![byte])).collect(),
    )])
    .await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let got = lab.agent().await.whole_model().await;
    assert_eq!(got.text(), text);
    assert_eq!(counted(&lab.usages()[0]), said());
    lab.stop().await;
}

#[tokio::test]
async fn events_are_passed_at_once_and_the_last_one_only_when_counted() {
    let gate = Arc::new(Notify::new());
    let provider = Provider::new(vec![Reply::sse(vec![
        bytes(START),
        bytes(DELTA),
        Piece::Gate(Arc::clone(&gate)),
        bytes(STOP),
    ])])
    .await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let mut stream = agent.model().await.into_body();
    // The provider is still in the middle of its answer.
    read_until(&mut stream, "message_delta\"").await;
    assert_eq!(lab.usages(), []);
    gate.notify_one();
    read_until(&mut stream, "message_stop\"").await;
    assert_eq!(
        lab.usages().len(),
        1,
        "the call is counted before the engine has its last event"
    );
    lab.woken().await;
    lab.stop().await;
}

#[tokio::test]
async fn the_key_is_swapped_and_kept_out_of_everything() {
    let echo = format!(
        "{{\"type\":\"error\",\"error\":{{\"type\":\"x\",\"message\":\"bad key {KEY}\"}}}}"
    );
    let provider = Provider::new(vec![whole(), Reply::json(401, echo)]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    agent.whole_model().await;
    let asked = provider.asked().remove(0);
    assert_eq!(asked.target, "/v1/messages?beta=true");
    assert_eq!(
        asked.body,
        r#"{"model":"claude-asked","stream":true,"messages":[]}"#
    );
    assert_eq!(asked.headers["x-api-key"], KEY);
    assert_eq!(asked.headers["anthropic-version"], "2023-06-01");
    assert_eq!(asked.headers["x-stainless-lang"], "js");
    assert_eq!(asked.headers["accept-encoding"], "identity");
    assert_eq!(
        format!("http://{}", asked.headers["host"].to_str().unwrap()),
        provider.base_url
    );
    assert!(!asked.headers.contains_key("authorization"));
    assert!(
        !format!("{:?}", asked.headers).contains("placeholder"),
        "{:?}",
        asked.headers
    );

    let refused = agent.whole_model().await;
    assert!(
        !refused.text().contains(KEY) && refused.text().contains("[key redacted]"),
        "{}",
        refused.text()
    );
    let events = agent
        .post(
            "/factory/v1/events",
            format!("{{\"text\":\"found {KEY}\"}}\nsecond\nlast"),
        )
        .await;
    assert_eq!(events.status, 204);
    let transcript = lab.transcript();
    assert!(!transcript.contains(KEY), "{transcript}");
    let lines: Vec<serde_json::Value> = transcript
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["call"]["model"], "claude-said");
    assert_eq!(lines[0]["call"]["input_tokens"], 11);
    assert_eq!(lines[1]["call"]["status"], 401);
    assert_eq!(lines[2]["line"], "{\"text\":\"found [key redacted]\"}");
    assert_eq!(lines[3]["line"], "second");
    assert_eq!(
        lines[4],
        serde_json::json!({"t": 1_700_000_000, "line": "last"})
    );
    lab.stop().await;
}

#[tokio::test]
async fn a_broken_stream_breaks_the_engines_connection_and_is_counted() {
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let table: Vec<(&str, Vec<Piece>)> = vec![
        (
            "connection cut",
            vec![bytes(START), bytes(DELTA), Piece::Cut],
        ),
        (
            "cut inside an event",
            vec![
                bytes(START),
                bytes(format!("{DELTA}event: content")),
                Piece::Cut,
            ],
        ),
        ("ended early", vec![bytes(START), bytes(DELTA)]),
        (
            "error event",
            vec![bytes(format!("{START}{DELTA}{error}{STOP}"))],
        ),
    ];
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    for (at, (name, pieces)) in table.into_iter().enumerate() {
        provider.say(vec![Reply::sse(pieces)]);
        let got = lab.agent().await.whole_model().await;
        assert!(
            got.cut,
            "{name}: the engine must see a broken connection, not {got:?}"
        );
        assert_eq!(got.text(), format!("{START}{DELTA}"), "{name}");
        assert_eq!(
            provider.asked().len(),
            at + 1,
            "{name}: nothing is tried again after the first byte"
        );
        let usages = lab.usages();
        assert_eq!(usages.len(), at + 1, "{name}");
        assert_eq!(counted(&usages[at]), cut(&said()), "{name}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn an_engine_that_leaves_is_counted_too() {
    let gate = Arc::new(Notify::new());
    let provider = Provider::new(vec![Reply::sse(vec![
        bytes(START),
        bytes(DELTA),
        Piece::Gate(gate),
        bytes(STOP),
    ])])
    .await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let mut stream = agent.model().await.into_body();
    read_until(&mut stream, "message_delta\"").await;
    drop((stream, agent));
    lab.woken().await;
    assert_eq!(counted(&lab.usages()[0]), cut(&said()));
    lab.stop().await;
}

#[tokio::test]
async fn long_silences_are_filled_with_pings_between_events() {
    let gate = Arc::new(Notify::new());
    let (half, rest) = DELTA.split_at(20);
    let provider = Provider::new(vec![Reply::sse(vec![
        bytes(format!("{START}{half}")),
        Piece::Gate(Arc::clone(&gate)),
        bytes(format!("{rest}{STOP}")),
    ])])
    .await;
    let mut lab = Lab::with_run(
        &provider.base_url,
        Timing {
            ping_every: Duration::from_millis(20),
            ..quick()
        },
    )
    .await;
    let mut agent = lab.agent().await;
    let mut stream = agent.model().await.into_body();
    let mut body = read_until(&mut stream, &format!("{START}{PING}{PING}")).await;
    gate.notify_one();
    body.extend(read_until(&mut stream, "message_stop\"}").await);
    let text = String::from_utf8(body).unwrap();
    assert_eq!(
        text.replace(PING, ""),
        format!("{START}{DELTA}{STOP}"),
        "pings stand between events only"
    );
    assert_eq!(counted(&lab.usages()[0]), said());
    lab.stop().await;
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_given_up() {
    let gate = Arc::new(Notify::new());
    let provider = Provider::new(vec![Reply::sse(vec![
        bytes(START),
        bytes(DELTA),
        Piece::Gate(gate),
    ])])
    .await;
    let timing = Timing {
        ping_every: Duration::from_millis(20),
        stream_silence: Duration::from_secs(1),
        ..quick()
    };
    let mut lab = Lab::with_run(&provider.base_url, timing).await;
    let got = lab.agent().await.whole_model().await;
    assert!(got.cut);
    assert!(got.text().contains(PING), "{}", got.text());
    assert_eq!(counted(&lab.usages()[0]), cut(&said()));

    // The same in the middle of an answer that is no stream.
    let mut half = Reply::json(200, "{\"model\":");
    half.pieces.push(Piece::Gate(Arc::new(Notify::new())));
    provider.say(vec![half]);
    let got = lab.agent().await.whole_model().await;
    assert_eq!(got.status, 503, "{got:?}");
    assert!(got.text().contains("fell silent"), "{}", got.text());
    lab.stop().await;
}

#[tokio::test]
async fn two_calls_at_once_are_independent() {
    let gate = Arc::new(Notify::new());
    let provider = Provider::new(vec![
        Reply::sse(vec![
            bytes(START),
            Piece::Gate(Arc::clone(&gate)),
            bytes(format!("{DELTA}{STOP}")),
        ]),
        whole(),
    ])
    .await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let (mut one, mut two) = (lab.agent().await, lab.agent().await);
    let held = one.model().await;
    assert_eq!(
        two.whole_model().await.text(),
        format!("{START}{DELTA}{STOP}")
    );
    gate.notify_one();
    assert_eq!(
        soon("the held one", collect(held)).await.text(),
        format!("{START}{DELTA}{STOP}")
    );
    assert_eq!(lab.usages().len(), 2);
    lab.stop().await;
}

#[tokio::test]
async fn a_used_up_budget_lets_nothing_through_and_the_kernel_is_told_once() {
    let gate = Arc::new(Notify::new());
    let provider = Provider::new(vec![
        whole(),
        Reply::sse(vec![
            bytes(START),
            Piece::Gate(Arc::clone(&gate)),
            bytes(format!("{DELTA}{STOP}")),
        ]),
    ])
    .await;
    let mut lab = Lab::new().await;
    let mut grant = lab.grant("r1-1", &provider.base_url);
    let used = said();
    let one =
        used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens;
    // Two calls use it up; the second one alone may go beyond.
    grant.models.as_mut().unwrap().budget.tokens = Some(one + 1);
    lab.grants.lock().unwrap().push(grant);
    lab.start(quick()).await;
    let (mut first, mut second) = (lab.agent().await, lab.agent().await);
    assert_eq!(first.whole_model().await.status, 200);
    let held = first.model().await;
    // Whoever comes beside it waits for what it uses.
    let mut beside = Box::pin(second.whole_model());
    assert!(futures_util::poll!(&mut beside).is_pending());
    gate.notify_one();
    assert_eq!(soon("the held one", collect(held)).await.status, 200);
    let refused = soon("the one beside it", beside).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.text().contains("is used up"), "{}", refused.text());
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(lab.agent().await.whole_model().await.status, 403);
    let told = |lab: &Lab| {
        let entries = lab.inbox("r1-1");
        let told = entries
            .iter()
            .filter(|entry| **entry == InboxEntry::OverBudget);
        (told.count(), provider.asked().len(), lab.usages().len())
    };
    assert_eq!(told(&lab), (1, 2, 2));
    // The next gateway knows it from the inbox.
    lab.stop().await;
    lab.start(quick()).await;
    assert_eq!(lab.agent().await.whole_model().await.status, 403);
    assert_eq!(told(&lab), (1, 2, 2));
    lab.stop().await;
}
