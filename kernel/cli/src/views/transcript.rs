//! Transcripts as people read them: the engine's events, and one line per model call.

use super::count;
use crate::clock;
use factory_core::{engine, inbox::Usage, text};
use serde::Deserialize;
use serde_json::Value;

/// Longest line of an engine we do not know that is shown, in bytes.
const LINE_LIMIT: usize = 4000;

/// One line of a transcript, as the gateway writes it.
#[derive(Deserialize)]
struct Entry {
    /// Unix seconds.
    t: i64,
    /// A line that the engine wrote.
    line: Option<String>,
    /// A model call.
    call: Option<Usage>,
    /// Why nothing follows.
    cut: Option<String>,
}

/// One line of a transcript for people; empty for what says nothing to them.
pub fn show(raw: &str) -> String {
    let Ok(entry) = serde_json::from_str::<Entry>(raw) else {
        // Half a line, or a newer program's: better shown than hidden.
        return format!("{raw}\n");
    };
    let mut lines = Vec::new();
    if let Some(text) = &entry.line {
        match serde_json::from_str::<Value>(text) {
            Ok(event) if event.get("type").is_some_and(Value::is_string) => {
                lines = engine::show(&event);
            }
            Ok(_) | Err(_) => lines.push(text::trimmed(text, LINE_LIMIT)),
        }
    }
    if let Some(usage) = &entry.call {
        lines.push(call(usage));
    }
    if let Some(why) = entry.cut {
        lines.push(format!("[{why}]"));
    }
    let time = time_of_day(entry.t);
    let mut out = String::new();
    for (k, line) in lines.iter().flat_map(|text| text.lines()).enumerate() {
        let time = if k == 0 { time.as_str() } else { "" };
        out.push_str(format!("{time:8}  {line}").trim_end());
        out.push('\n');
    }
    out
}

fn time_of_day(seconds: i64) -> String {
    let whole = clock::show(seconds);
    match whole.split_once(' ') {
        // Every line of a transcript is of the same zone: it need not be said each time.
        Some((_, time)) => time.trim_end_matches('Z').to_owned(),
        None => whole,
    }
}

fn call(usage: &Usage) -> String {
    let input = usage.input_tokens.saturating_add(usage.cache_read_tokens);
    let input = input.saturating_add(usage.cache_write_tokens);
    let cut = if usage.cut { ", broke off" } else { "" };
    format!(
        "[model {}: status {}, {} ms, {} in, {} out{cut}]",
        usage.model,
        usage.status,
        usage.millis,
        count(input, "token"),
        count(usage.output_tokens, "token"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &Value) -> String {
        show(&serde_json::json!({"t": 1_795_226_401, "line": line.to_string()}).to_string())
    }

    #[test]
    fn claude_reads_like_a_diary() {
        let said = shown(
            &serde_json::json!({"type": "assistant", "message": {"content": [
                {"type": "text", "text": "I look\nfirst."},
                {"type": "tool_use", "name": "Bash", "input": {"command": "sh\ntest.sh"}},
            ]}}),
        );
        let lines: Vec<&str> = said.lines().map(|line| &line[10..]).collect();
        assert_eq!(lines, ["I look", "first.", "> Bash sh test.sh"], "{said}");
        assert_eq!(said.as_bytes()[2], b':', "{said}");
        let answer = shown(&serde_json::json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "content": "x".repeat(5000), "is_error": true},
        ]}}));
        assert!(
            answer.contains("failed: xxx") && answer.len() < 900,
            "{answer}"
        );
        let end = shown(&serde_json::json!({"type": "result", "is_error": true,
            "terminal_reason": "api_error", "num_turns": 1, "result": "overloaded"}));
        assert!(end.contains("(api_error) after 1 turn"), "{end}");
        assert!(end.contains("overloaded"), "{end}");
    }

    #[test]
    fn what_is_not_known_is_shown_as_it_is() {
        assert_eq!(show("no json"), "no json\n");
        assert!(show(r#"{"t":0,"line":"make: *** [x] Error 1"}"#).ends_with("Error 1\n"));
        assert!(show(r#"{"t":0,"line":"{\"type\":\"step.done\"}"}"#).contains("step.done"));
        assert!(show(r#"{"t":0,"line":"17"}"#).ends_with("17\n"));
        let call = show(
            r#"{"t":0,"call":{"model":"m","status":200,"millis":7,"input_tokens":1,"output_tokens":1,"cache_write_tokens":2,"cache_read_tokens":3,"cut":false}}"#,
        );
        assert!(
            call.contains("[model m: status 200, 7 ms, 6 tokens in, 1 token out]"),
            "{call}"
        );
    }
}
