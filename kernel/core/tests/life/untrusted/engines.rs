//! What engines write: their events, their last words.

use super::{corpus_text, hostile};
use factory_core::{
    engine::{self, ENGINES, EngineKind, Verdict},
    inbox::{EngineExit, RunEnd},
    model::Run,
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value};

const KEYS: &[&str] = &[
    "type",
    "subtype",
    "message",
    "content",
    "text",
    "item",
    "error",
    "name",
    "input",
    "command",
    "role",
    "commands",
    "exit_status",
    "result",
    "aggregated_output",
    "changes",
    "path",
    "is_error",
    "exit_code",
    "returncode",
    "output",
    "model",
    "terminal_reason",
    "permission_denials",
    "errors",
    "num_turns",
    "total_cost_usd",
    "api_calls",
    "cost_usd",
    "thread_id",
];
const WORDS: &[&str] = &[
    "assistant",
    "user",
    "system",
    "init",
    "api_retry",
    "result",
    "text",
    "tool_use",
    "tool_result",
    "item.started",
    "item.completed",
    "agent_message",
    "command_execution",
    "file_change",
    "error",
    "turn.completed",
    "turn.failed",
    "thread.started",
    "mini.message",
    "mini.result",
    "tool",
    "Submitted",
    "LimitsExceeded",
    "completed",
    "reasoning",
];

/// JSON of the words that engines use.
fn event() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => select(WORDS).prop_map(Value::from),
        2 => hostile().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let object = vec((select(KEYS), inner.clone()), 0..6).prop_map(|fields| {
            let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v));
            Value::Object(fields.collect::<Map<_, _>>())
        });
        prop_oneof![3 => object, 1 => vec(inner, 0..4).prop_map(Value::from)]
    })
}

/// Events are shown within a bound, and last words give a verdict with one.
fn holds(event: &str, run: &Run) {
    let size = event.len();
    if let Ok(value) = serde_json::from_str::<Value>(event) {
        let shown: usize = engine::show(&value).iter().map(String::len).sum();
        // Lines of an answer are indented, each by its heading.
        assert!(shown <= 2000 + 12 * size, "{shown} of {size}");
    }
    for kind in ENGINES.iter().map(|engine| EngineKind::Known(engine)) {
        let run = Run {
            engine: kind,
            ..run.clone()
        };
        for exit in [EngineExit::Code(0), EngineExit::Signal(9)] {
            let end = RunEnd {
                exit,
                last_output: event.to_owned(),
                stderr_tail: String::new(),
                report_problem: None,
                push_problem: None,
            };
            match engine::verdict(&run, &end) {
                Verdict::Finished => assert!(event.starts_with('{'), "{event}"),
                Verdict::Failed { why } | Verdict::Refused { why } => {
                    assert!(!why.is_empty() && why.len() <= 2000 + 12 * size, "{why}");
                }
            }
        }
    }
}

#[test]
fn nasty_events() {
    let (run, _) = super::brief::run_and_issue();
    for (name, text) in corpus_text("engine") {
        println!("{name}");
        for line in text.lines() {
            holds(line, &run);
        }
    }
}

proptest! {
    #[test]
    fn events_and_last_words_are_bounded(event in event(), text in hostile()) {
        let (run, _) = super::brief::run_and_issue();
        holds(&event.to_string(), &run);
        holds(&text, &run);
    }
}
