//! Codex CLI, headless (`codex exec`), version 0.163.0.

use super::{Engine, EngineImage, Verdict, describe_exit, shown_call, shown_result, str_of};
use crate::{
    grant::WireApi,
    inbox::RunEnd,
    model::{Purpose, Run},
    text,
    wire::{DOOR_PORT, EngineLaunch, STATE_DIR},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Known to this release without a code-mode host, and to both APIs of its vendor.
const MODEL: &str = "gpt-5.5";

pub(super) static ENGINE: Engine = Engine {
    name: "codex",
    api: WireApi::Responses,
    model: MODEL,
    resumes: true,
    looks_only: true,
    image: EngineImage {
        requirements: &["openai-codex-cli-bin==0.163.0"],
        packages: &[],
        // Its programs are static.
        lacks: "",
        fetch: include_str!("../../../../agent-images/recipes/fetch-codex.sh"),
        probe: &["codex", "--version"],
        version: "0.163.0",
    },
    launch,
    verdict,
    show,
};

fn launch(run: &Run, system: &str) -> EngineLaunch {
    let home = format!("{STATE_DIR}/codex");
    let sessions = format!("{home}/sessions");
    let arguments = |first: &[&str]| -> Vec<String> {
        let rest = [
            "--json",
            "--dangerously-bypass-approvals-and-sandbox",
            "--skip-git-repo-check",
            "-",
        ];
        let all = ["codex", "exec"].into_iter().chain(first.iter().copied());
        all.chain(rest).map(str::to_owned).collect()
    };
    // The home holds one session at most, so its name need not be known.
    let resume = arguments(&["resume", "--last"]);
    let env = [
        ("CODEX_HOME", home.clone()),
        // The door puts the real key in; the engine insists on having one.
        ("FACTORY_API_KEY", "placeholder".to_owned()),
    ];
    EngineLaunch {
        argv: if super::resumes_session(run) {
            resume.clone()
        } else {
            arguments(&[])
        },
        resume_argv: Some(resume),
        env: env.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        files: BTreeMap::from([(format!("{home}/config.toml"), config(run, system))]),
        session_file: Some(format!("{sessions}/*")),
        dirs: vec![sessions],
    }
}

/// `config.toml`. Without `plugins = false` it looks for public hosts at its start,
/// and its exit waits for the resolver.
fn config(run: &Run, system: &str) -> String {
    let (model, system) = (quoted(&run.model), quoted(system));
    // What a change says in such a file is not for who judges it. Its own sandbox needs
    // namespaces, which no agent gets.
    let (documents, shell) = match run.purpose {
        Purpose::Review | Purpose::Verify => {
            ("project_doc_max_bytes = 0\n", "shell_tool = false\n")
        }
        _ => ("", ""),
    };
    format!(
        r#"model = {model}
model_provider = "factory"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
web_search = "disabled"
{documents}developer_instructions = {system}
[model_providers.factory]
name = "factory"
base_url = "http://127.0.0.1:{DOOR_PORT}/v1"
wire_api = "responses"
env_key = "FACTORY_API_KEY"
request_max_retries = 8
stream_max_retries = 10
stream_idle_timeout_ms = 300000
[mcp_servers.factory]
command = "/usr/local/bin/factory-agent"
args = ["mcp"]
[features]
plugins = false
apps = false
multi_agent = false
goals = false
image_generation = false
{shell}[analytics]
enabled = false
[feedback]
enabled = false
"#
    )
}

/// A basic string of TOML. JSON's escapes are TOML's, which wants one more.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn verdict(end: &RunEnd) -> Verdict {
    let last = serde_json::from_str::<Value>(&end.last_output).unwrap_or_default();
    match str_of(&last, "type") {
        "turn.completed" => Verdict::Finished,
        "turn.failed" => Verdict::Failed {
            why: format!("codex ended with an error: {}", error_of(&last)),
        },
        _ => Verdict::Failed {
            why: format!("codex broke off without a result ({})", describe_exit(end)),
        },
    }
}

/// What a failed turn says: a text that may be the provider's JSON.
fn error_of(event: &Value) -> String {
    let message = event.get("error").map_or_else(
        || str_of(event, "message"),
        |error| str_of(error, "message"),
    );
    let inner = serde_json::from_str::<Value>(message).unwrap_or_default();
    match inner.get("error").map(|error| str_of(error, "message")) {
        Some(words) if !words.is_empty() => words.to_owned(),
        _ => message.to_owned(),
    }
}

fn show(event: &Value) -> Option<Vec<String>> {
    let lines = match str_of(event, "type") {
        "thread.started" => vec![format!("started as {}", str_of(event, "thread_id"))],
        "turn.started" | "item.updated" => Vec::new(),
        "turn.completed" => vec!["ended".to_owned()],
        "turn.failed" => vec!["ended with an error".to_owned(), error_of(event)],
        "error" if event.get("message").is_some() => {
            vec![format!("trouble: {}", text::one_line(&error_of(event)))]
        }
        kind @ ("item.started" | "item.completed") => {
            let item = event.get("item")?;
            let done = kind == "item.completed";
            match str_of(item, "type") {
                "agent_message" | "reasoning" if done => vec![str_of(item, "text").to_owned()],
                "error" if done => vec![format!("note: {}", str_of(item, "message"))],
                "command_execution" if done => {
                    let failed = item.get("exit_code").and_then(Value::as_i64) != Some(0);
                    vec![shown_result(failed, str_of(item, "aggregated_output"))]
                }
                "command_execution" => vec![shown_call("shell", str_of(item, "command"))],
                "file_change" if done => {
                    let changes = item.get("changes").and_then(Value::as_array);
                    let paths = changes.into_iter().flatten().map(|one| str_of(one, "path"));
                    vec![shown_call("change", &paths.collect::<Vec<_>>().join(" "))]
                }
                _ if done => vec![text::trimmed(&item.to_string(), super::LINE_LIMIT)],
                _ => Vec::new(),
            }
        }
        _ => return None,
    };
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::EngineExit;

    #[test]
    fn the_last_event_decides() {
        let end = |last_output: &str, code| RunEnd {
            exit: EngineExit::Code(code),
            last_output: last_output.to_owned(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        };
        let done = r#"{"type":"turn.completed","usage":{"input_tokens":1}}"#;
        assert_eq!(verdict(&end(done, 0)), Verdict::Finished);
        let full = r#"{"type":"turn.failed","error":{"message":"{\"error\": {\"message\": \"Your input exceeds the window.\"}}"}}"#;
        assert_eq!(
            verdict(&end(full, 1)),
            Verdict::Failed {
                why: "codex ended with an error: Your input exceeds the window.".to_owned()
            }
        );
        for other in ["", "no json", r#"{"type":"item.completed","item":{}}"#] {
            let verdict = verdict(&end(other, 0));
            assert!(matches!(verdict, Verdict::Failed { .. }), "{other}");
        }
    }

    #[test]
    fn every_text_is_one_string_of_toml() {
        assert_eq!(
            quoted("say \"hi\"\n\\ \u{1b}\u{7f}ä"),
            r#""say \"hi\"\n\\ \u001b\u007fä""#
        );
    }

    #[test]
    fn its_events_read_like_a_diary() {
        let shown = |text: &str| show(&serde_json::from_str(text).unwrap());
        let call = r#"{"type":"item.started","item":{"type":"command_execution","command":"sh\ntest.sh"}}"#;
        assert_eq!(shown(call).unwrap(), ["> shell sh test.sh"]);
        let result = r#"{"type":"item.completed","item":{"type":"command_execution","aggregated_output":"no\nway","exit_code":1}}"#;
        assert_eq!(shown(result).unwrap(), ["  failed: no\n          way"]);
        let said = r#"{"type":"item.completed","item":{"type":"agent_message","text":"Done."}}"#;
        assert_eq!(shown(said).unwrap(), ["Done."]);
        assert_eq!(shown(r#"{"type":"turn.started"}"#), Some(Vec::new()));
        assert_eq!(shown(r#"{"type":"assistant"}"#), None);
    }
}
