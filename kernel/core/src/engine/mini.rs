//! mini-swe-agent, version 2.4.6, driven by `mini.py`.

use super::{Engine, EngineImage, Verdict, describe_exit, shown_call, shown_result, str_of};
use crate::{
    grant::WireApi,
    inbox::RunEnd,
    model::Run,
    wire::{DOOR_PORT, EngineLaunch, RUN_DIR, STATE_DIR},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Says each message as JSON, and how it ended: its own program says neither.
const DRIVER: &str = include_str!("mini.py");
/// Model calls after which it stops by itself.
const MAX_STEPS: u32 = 300;
/// Seconds that one of its commands may take; of itself it allows thirty.
const COMMAND_SECONDS: u32 = 540;

pub(super) static ENGINE: Engine = Engine {
    name: "mini",
    api: WireApi::ChatCompletions,
    model: "gpt-5.5",
    resumes: false,
    looks_only: false,
    image: EngineImage {
        requirements: &[
            "mini-swe-agent==2.4.6",
            "litellm==1.106.2",
            // Without it every model call fails, though nothing requires it.
            "mcp==2.3.0",
        ],
        packages: &["python3"],
        lacks: "python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
                echo 'python 3.10 or newer'\n",
        fetch: include_str!("../../../../agent-images/recipes/fetch-mini.sh"),
        probe: &["mini", "--help"],
        version: "2.4.6",
    },
    launch,
    verdict,
    show,
};

fn launch(run: &Run, _system: &str) -> EngineLaunch {
    let home = format!("{STATE_DIR}/mini");
    let driver = format!("{home}/drive.py");
    // Without a limit in money there is none for it: 0.
    let cap = run.grant.models.as_ref().and_then(|m| m.engines_own_cap());
    let cap = cap.map_or(0, |usd| usd.0);
    let settings = json!({
        "system_file": format!("{RUN_DIR}/system.md"),
        "model": format!("openai/{}", run.model),
        "api_base": format!("http://127.0.0.1:{DOOR_PORT}/v1"),
        "command_seconds": COMMAND_SECONDS,
        "step_limit": MAX_STEPS,
        "cost_limit": cap as f64 / 1000.0,
    });
    let env = [
        ("MSWEA_CONFIGURED", "true"),
        ("MSWEA_GLOBAL_CONFIG_DIR", &home),
        ("MSWEA_SILENT_STARTUP", "1"),
        // Its price list would come from the network.
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        // The door puts the real key in; the engine insists on having one.
        ("OPENAI_API_KEY", "placeholder"),
    ];
    EngineLaunch {
        argv: vec![
            "/opt/mini/bin/python".to_owned(),
            driver.clone(),
            settings.to_string(),
        ],
        resume_argv: None,
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        files: BTreeMap::from([(driver, DRIVER.to_owned())]),
        session_file: None,
        dirs: vec![home.clone()],
    }
}

fn verdict(end: &RunEnd) -> Verdict {
    let last = serde_json::from_str::<Value>(&end.last_output).unwrap_or_default();
    match (str_of(&last, "type"), str_of(&last, "exit_status")) {
        ("mini.result", "Submitted") => Verdict::Finished,
        ("mini.result", "LimitsExceeded") => Verdict::Failed {
            why: format!(
                "mini stopped at its limit of {MAX_STEPS} model calls or at the run's budget ({} calls)",
                last.get("api_calls").unwrap_or(&Value::Null)
            ),
        },
        ("mini.result", status) => Verdict::Failed {
            why: format!("mini ended with {status}: {}", str_of(&last, "result")),
        },
        _ => Verdict::Failed {
            why: format!("mini broke off without a result ({})", describe_exit(end)),
        },
    }
}

fn show(event: &Value) -> Option<Vec<String>> {
    let text = str_of(event, "text");
    let lines = match (str_of(event, "type"), str_of(event, "role")) {
        ("mini.message", "tool") => {
            // Its own JSON around the output and the exit code.
            let result = serde_json::from_str::<Value>(text).unwrap_or_default();
            let failed = result.get("returncode").and_then(Value::as_i64) != Some(0);
            let output = result.get("output").and_then(Value::as_str);
            vec![shown_result(failed, output.unwrap_or(text))]
        }
        // The task, which `run show` knows, and the end, which follows.
        ("mini.message", "user" | "exit") => Vec::new(),
        ("mini.message", _) => {
            let said = (!text.is_empty()).then(|| text.to_owned());
            let commands = event.get("commands").and_then(Value::as_array);
            let commands = commands.into_iter().flatten().filter_map(Value::as_str);
            let called = commands.map(|command| shown_call("bash", command));
            said.into_iter().chain(called).collect()
        }
        ("mini.result", _) => {
            let number = |key| event.get(key).and_then(Value::as_f64).unwrap_or_default();
            let mut lines = vec![format!(
                "ended ({}) after {} model calls, {:.2} USD at list price",
                str_of(event, "exit_status"),
                number("api_calls"),
                number("cost_usd"),
            )];
            let words = str_of(event, "result");
            lines.extend((!words.is_empty()).then(|| words.to_owned()));
            lines
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
    fn only_what_was_submitted_is_finished() {
        let end = |status: &str, code| {
            RunEnd {
            exit: EngineExit::Code(code),
            last_output: json!({"type": "mini.result", "exit_status": status, "result": "words", "api_calls": 3})
                .to_string(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        }
        };
        assert_eq!(verdict(&end("Submitted", 0)), Verdict::Finished);
        // Its own program exits with 0 there.
        for (status, why) in [
            ("LimitsExceeded", "at its limit"),
            ("BadRequestError", "BadRequestError: words"),
        ] {
            match verdict(&end(status, 0)) {
                Verdict::Failed { why: said } => assert!(said.contains(why), "{said}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn its_messages_read_like_a_diary() {
        let said = json!({"type": "mini.message", "role": "assistant", "text": "Look.", "commands": ["ls\n-l"]});
        assert_eq!(show(&said).unwrap(), ["Look.", "> bash ls -l"]);
        let result = json!({"type": "mini.message", "role": "tool", "text": "{\"returncode\": 0, \"output\": \"a\\nb\"}"});
        assert_eq!(show(&result).unwrap(), ["  = a\n    b"]);
        let end = json!({"type": "mini.result", "exit_status": "Submitted", "api_calls": 4, "cost_usd": 0.013});
        assert_eq!(
            show(&end).unwrap(),
            ["ended (Submitted) after 4 model calls, 0.01 USD at list price"]
        );
    }
}
