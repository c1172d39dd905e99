//! Claude Code, headless (`claude -p`), version 2.1.329.

use super::{Engine, EngineImage, Verdict, describe_exit, shown_call, shown_result, str_of};
use crate::{
    grant::WireApi,
    inbox::RunEnd,
    model::{Purpose, Run},
    wire::{DOOR_PORT, EngineLaunch, RUN_DIR, STATE_DIR},
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Turns after which the engine stops by itself: it has no loop guard of its own.
const MAX_TURNS: u32 = 300;

pub(super) static ENGINE: Engine = Engine {
    name: "claude",
    api: WireApi::Messages,
    model: "claude-sonnet-4-5",
    resumes: true,
    looks_only: true,
    image: EngineImage {
        requirements: &["claude-agent-sdk==0.2.186"],
        packages: &[],
        lacks: "test -e /lib64/ld-linux-x86-64.so.2 || echo glibc\n\
                command -v bash >/dev/null || echo bash\n",
        fetch: include_str!("../../../../agent-images/recipes/fetch-claude.sh"),
        probe: &["claude", "--version"],
        version: "2.1.329",
    },
    launch,
    verdict,
    show,
};

fn launch(run: &Run, _system: &str) -> EngineLaunch {
    let session = run.session.as_str();
    let cap = run.grant.models.as_ref().and_then(|m| m.engines_own_cap());
    let cap = cap.map(|usd| ["--max-budget-usd".to_owned(), usd.to_string()]);
    let home = format!("{STATE_DIR}/claude");
    let tools = match run.purpose {
        Purpose::Review | Purpose::Verify => "Read,Glob,Grep",
        _ => "Bash,Edit,Read,Write",
    };
    let mcp_config = format!("{home}/mcp.json");
    let common = |first: [&str; 2]| -> Vec<String> {
        let words = [
            "claude",
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
            "--model",
            &run.model,
            first[0],
            first[1],
            "--tools",
            tools,
            "--append-system-prompt-file",
            &format!("{RUN_DIR}/system.md"),
            "--setting-sources",
            "",
            "--strict-mcp-config",
            "--disable-slash-commands",
            // Without it the model is asked for trailers in every commit message.
            "--settings",
            r#"{"attribution":{"commit":"","pr":""}}"#,
            "--mcp-config",
            &mcp_config,
            "--max-turns",
            &MAX_TURNS.to_string(),
        ]
        .map(str::to_owned);
        words
            .into_iter()
            .chain(cap.iter().flatten().cloned())
            .collect()
    };
    let env = [
        (
            "ANTHROPIC_BASE_URL",
            format!("http://127.0.0.1:{DOOR_PORT}"),
        ),
        // The door puts the real key in; the engine insists on having one.
        ("ANTHROPIC_API_KEY", "placeholder".to_owned()),
        ("CLAUDE_CONFIG_DIR", home.clone()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("DISABLE_TELEMETRY", "1".to_owned()),
        ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        ("CLAUDE_CODE_RETRY_WATCHDOG", "1".to_owned()),
    ];
    EngineLaunch {
        argv: if super::resumes_session(run) {
            common(["--resume", session])
        } else {
            common(["--session-id", session])
        },
        resume_argv: Some(common(["--resume", session])),
        env: env.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        session_file: Some(format!("{home}/projects/-workspace/{session}.jsonl")),
        files: BTreeMap::from([(mcp_config, MCP_SERVERS.to_owned())]),
        dirs: vec![home],
    }
}

/// The one MCP server that it has: the report as a tool.
const MCP_SERVERS: &str =
    r#"{"mcpServers":{"factory":{"command":"/usr/local/bin/factory-agent","args":["mcp"]}}}"#;

/// The last event of the stream. More fields exist; these decide.
#[derive(Deserialize)]
struct Last {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    is_error: bool,
    #[serde(default)]
    terminal_reason: Option<String>,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    permission_denials: Vec<serde_json::Value>,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

fn verdict(end: &RunEnd) -> Verdict {
    // An array of the fields' values would do as well.
    let last = serde_json::from_str::<Value>(&end.last_output)
        .ok()
        .filter(Value::is_object)
        .and_then(|last| serde_json::from_value::<Last>(last).ok())
        .filter(|last| last.kind == "result");
    let Some(last) = last else {
        return Verdict::Failed {
            why: format!("claude broke off without a result ({})", describe_exit(end)),
        };
    };
    let reason = last.terminal_reason.unwrap_or_default();
    if !last.permission_denials.is_empty() {
        return Verdict::Failed {
            why: "claude was denied the use of its tools".to_owned(),
        };
    }
    if !last.is_error && matches!(reason.as_str(), "completed" | "") {
        return Verdict::Finished;
    }
    let words = last.result.filter(|r| !r.is_empty()).unwrap_or_else(|| {
        last.errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    });
    Verdict::Failed {
        why: format!("claude ended with {reason}: {words}"),
    }
}

/// An event of `--output-format stream-json`.
fn show(event: &Value) -> Option<Vec<String>> {
    let kind = str_of(event, "type");
    let lines = match (kind, str_of(event, "subtype")) {
        ("system", "init") => vec![format!("started with {}", str_of(event, "model"))],
        ("system", "api_retry") => {
            let number = |key| event.get(key).and_then(Value::as_u64).unwrap_or_default();
            vec![format!(
                "the model call failed (status {}); try {} of {} follows",
                number("error_status"),
                number("attempt"),
                number("max_retries"),
            )]
        }
        ("system", "permission_denied") => vec!["a tool call was denied".to_owned()],
        ("system", _) => Vec::new(),
        ("assistant" | "user", _) => contents(event.get("message")),
        ("result", _) => result(event),
        _ => return None,
    };
    Some(lines)
}

fn contents(message: Option<&Value>) -> Vec<String> {
    match message.and_then(|message| message.get("content")) {
        Some(Value::Array(blocks)) => blocks.iter().filter_map(block).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(_) | None => Vec::new(),
    }
}

fn block(block: &Value) -> Option<String> {
    match str_of(block, "type") {
        "text" => Some(str_of(block, "text").to_owned()),
        "tool_use" => Some(tool_call(block)),
        "tool_result" => {
            let failed = block.get("is_error").and_then(Value::as_bool) == Some(true);
            let words = match block.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => {
                    let texts: Vec<&str> = parts.iter().map(|part| str_of(part, "text")).collect();
                    texts.join("\n")
                }
                Some(_) | None => String::new(),
            };
            Some(shown_result(failed, &words))
        }
        _ => None,
    }
}

/// A tool by its name and what it is about: its command, or its file.
fn tool_call(block: &Value) -> String {
    let input = block.get("input").unwrap_or(&Value::Null);
    let about = ["command", "file_path", "path", "pattern"]
        .into_iter()
        .map(|key| str_of(input, key))
        .find(|about| !about.is_empty());
    let about = match about {
        Some(about) => about.to_owned(),
        None => input.to_string(),
    };
    shown_call(str_of(block, "name"), &about)
}

fn result(event: &Value) -> Vec<String> {
    let turns = event.get("num_turns").and_then(Value::as_u64);
    let failed = event.get("is_error").and_then(Value::as_bool) == Some(true);
    let mut head = if failed {
        let reason = [str_of(event, "terminal_reason"), str_of(event, "subtype")];
        let reason = reason.into_iter().find(|reason| !reason.is_empty());
        format!("ended with an error ({})", reason.unwrap_or("unknown"))
    } else {
        "ended".to_owned()
    };
    if let Some(turns) = turns {
        let s = if turns == 1 { "" } else { "s" };
        head.push_str(&format!(" after {turns} turn{s}"));
    }
    if let Some(cost) = event.get("total_cost_usd").and_then(Value::as_f64) {
        head.push_str(&format!(", {cost:.2} USD at list price"));
    }
    // The last message said the same before, unless the run failed.
    let words = str_of(event, "result");
    if failed && !words.is_empty() {
        vec![head, words.to_owned()]
    } else {
        vec![head]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::EngineExit;

    fn end(last_output: &str, code: i32) -> RunEnd {
        RunEnd {
            exit: EngineExit::Code(code),
            last_output: last_output.to_owned(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        }
    }

    #[test]
    fn the_last_event_decides_not_the_exit_code() {
        let result = |error: bool, reason: &str| {
            format!(
                r#"{{"type":"result","subtype":"success","is_error":{error},"terminal_reason":"{reason}","result":"words"}}"#
            )
        };
        assert_eq!(
            verdict(&end(&result(false, "completed"), 0)),
            Verdict::Finished
        );
        for (text, code) in [
            (result(true, "api_error"), 1),
            (result(true, "aborted_tools"), 0),
            (result(false, "max_turns"), 0),
            (r#"{"type":"assistant"}"#.to_owned(), 0),
            (String::new(), 143),
            (
                r#"{"type":"result","permission_denials":[{}]}"#.to_owned(),
                0,
            ),
        ] {
            assert!(
                matches!(verdict(&end(&text, code)), Verdict::Failed { .. }),
                "{text}"
            );
        }
    }
}
