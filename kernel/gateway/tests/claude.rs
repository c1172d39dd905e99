//! The real Claude Code CLI behind a door. Runs where `FACTORY_CLAUDE_CLI`
//! names the program; the end-to-end tests run it in containers everywhere.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Lab, Piece, Provider, Reply, bytes, quick, run_id};
use serde_json::json;
use std::{process::Stdio, time::Duration};
use tokio::time::Instant;

/// A whole answer that says one word.
fn answer() -> Vec<Piece> {
    let events = [
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
            "model": "claude-sonnet-4-5", "content": [], "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": 7, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "pong"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": 3}}),
        json!({"type": "message_stop"}),
    ];
    let framed = |event: &serde_json::Value| {
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap()
        )
    };
    events.iter().map(|event| bytes(framed(event))).collect()
}

fn whole_body() -> Reply {
    let body = json!({"id": "msg_2", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "pong"}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 7, "output_tokens": 3}});
    Reply::json(200, body.to_string())
}

/// The CLI's last event, and how long it took.
async fn claude(cli: &str, lab: &Lab) -> (serde_json::Value, Duration) {
    let home = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let child = tokio::process::Command::new(cli)
        .args([
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ])
        .args([
            "--model",
            "claude-sonnet-4-5",
            "--setting-sources",
            "",
            "--strict-mcp-config",
            "ping",
        ])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("IS_SANDBOX", "1")
        .env("CLAUDE_CONFIG_DIR", home.path().join("claude"))
        .env("ANTHROPIC_BASE_URL", "http://gateway")
        .env(
            "ANTHROPIC_UNIX_SOCKET",
            lab.places.run_socket(run_id("r1-1")),
        )
        .env("ANTHROPIC_API_KEY", "placeholder")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("CLAUDE_CODE_RETRY_WATCHDOG", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = common::soon("end of the CLI", child).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no events: {}", String::from_utf8_lossy(&output.stderr)));
    (serde_json::from_str(last).unwrap(), started.elapsed())
}

#[tokio::test]
async fn claude_finishes_through_the_door_whatever_the_provider_does() {
    let Ok(cli) = std::env::var("FACTORY_CLAUDE_CLI") else {
        println!(
            "skipped: claude_finishes_through_the_door_whatever_the_provider_does: FACTORY_CLAUDE_CLI is not set"
        );
        return;
    };
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let cut = [&answer()[..3], &[Piece::Cut]].concat();
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let error = [
        &answer()[..1],
        &[bytes(format!("event: error\ndata: {error}\n\n"))],
    ]
    .concat();
    for (name, replies, calls) in [
        ("plain", vec![Reply::sse(answer())], 1),
        ("answered without a stream", vec![whole_body()], 2),
        (
            "529 once",
            vec![Reply::json(529, "{}"), Reply::sse(answer())],
            1,
        ),
        ("cut once", vec![Reply::sse(cut), Reply::sse(answer())], 2),
        (
            "error event once",
            vec![Reply::sse(error), Reply::sse(answer())],
            2,
        ),
    ] {
        provider.say(replies);
        let before = lab.usages().len();
        let (last, took) = claude(&cli, &lab).await;
        println!(
            "{name}: {took:?}, {} calls counted",
            lab.usages().len() - before
        );
        assert_eq!(
            (last["is_error"].as_bool(), last["result"].as_str()),
            (Some(false), Some("pong")),
            "{name}: {last}"
        );
        assert_eq!(last["terminal_reason"], "completed", "{name}");
        assert_eq!(lab.usages().len() - before, calls, "{name}");
    }
    // What is final ends it at once, and not after minutes of retries.
    let refusal = json!({"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}});
    provider.say(vec![Reply::json(401, refusal.to_string())]);
    let (last, took) = claude(&cli, &lab).await;
    println!("401: {took:?}");
    assert_eq!(last["is_error"].as_bool(), Some(true), "{last}");
    assert_eq!(last["api_error_status"], 403, "{last}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(lab.usages().last().unwrap().status, 401);
    lab.stop().await;
}
