//! Anthropic's Messages API.

use super::{Kind, Meter, lenient};
use crate::sse::Event;
use factory_core::inbox::Usage;
use serde::Deserialize;
use serde_json::json;

/// A keep-alive that every client of this API knows.
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// The token counts of a message, wherever they stand. All of them are running
/// totals, and any of them may be missing.
#[derive(Debug, Default, Deserialize)]
struct Counts {
    #[serde(default, deserialize_with = "lenient")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    output_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    cache_read_input_tokens: Option<u64>,
    /// Where the provider called the model several times for one answer, the
    /// totals above leave some of them out.
    iterations: Option<Vec<Counts>>,
}

#[derive(Debug, Deserialize)]
struct Message {
    model: Option<String>,
    usage: Option<Counts>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    r#type: Option<String>,
    message: Option<serde_json::Value>,
    usage: Option<serde_json::Value>,
}

/// Counts one answer.
#[derive(Debug, Default)]
pub(super) struct Messages {
    usage: Usage,
    told: bool,
}

impl Meter for Messages {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn is_told(&self) -> bool {
        self.told
    }

    fn event(&mut self, event: &Event) -> Kind {
        let payload = serde_json::from_slice::<Payload>(&event.data).ok();
        let named = |name: &str| {
            event.name == name.as_bytes()
                || payload
                    .as_ref()
                    .is_some_and(|payload| payload.r#type.as_deref() == Some(name))
        };
        let kind = if named("error") {
            Kind::Error
        } else if named("message_start") {
            Kind::Start
        } else if named("message_stop") {
            Kind::Stop
        } else {
            Kind::Other
        };
        if let Some(payload) = payload {
            if let Some(message) = payload.message {
                self.message(message);
            }
            if let Some(counts) = payload.usage {
                self.counts(counts);
            }
        }
        kind
    }

    fn body(&mut self, body: &[u8]) {
        if let Ok(message) = serde_json::from_slice(body) {
            self.message(message);
        }
    }

    fn keep_alive(&self) -> Option<Vec<u8>> {
        Some(PING.to_vec())
    }
}

impl Messages {
    /// Counts an answer to a request for `model`.
    pub(super) fn new(model: String) -> Self {
        Self {
            usage: Usage {
                model,
                ..Usage::default()
            },
            ..Self::default()
        }
    }

    fn message(&mut self, message: serde_json::Value) {
        let Ok(message) = serde_json::from_value::<Message>(message) else {
            return;
        };
        if let Some(model) = message.model {
            self.usage.model = model;
        }
        if let Some(counts) = message.usage {
            self.add(&counts);
        }
    }

    fn counts(&mut self, counts: serde_json::Value) {
        if let Ok(counts) = serde_json::from_value::<Counts>(counts) {
            self.add(&counts);
        }
    }

    /// Totals only grow: a later event that names a smaller one, as spliced
    /// streams do, takes nothing back that was already used.
    fn add(&mut self, counts: &Counts) {
        let parts = counts.iterations.as_deref().unwrap_or_default();
        let grow = |total: &mut u64, of: fn(&Counts) -> Option<u64>| {
            let sum = parts.iter().filter_map(of).fold(0, u64::saturating_add);
            *total = (*total).max(of(counts).unwrap_or(0)).max(sum);
        };
        let usage = &mut self.usage;
        grow(&mut usage.input_tokens, |counts| counts.input_tokens);
        grow(&mut usage.output_tokens, |counts| counts.output_tokens);
        grow(&mut usage.cache_write_tokens, |counts| {
            counts.cache_creation_input_tokens
        });
        grow(&mut usage.cache_read_tokens, |counts| {
            counts.cache_read_input_tokens
        });
        self.told = usage.output_tokens > 0;
    }
}

/// An error answer.
pub(super) fn error_body(kind: &str, message: &str) -> Vec<u8> {
    json!({"type": "error", "error": {"type": kind, "message": message}})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Splitter;

    fn event(text: &str) -> Event {
        let mut splitter = Splitter::default();
        splitter.feed(text.as_bytes());
        assert_eq!(splitter.next(), Ok(None));
        splitter.finish().unwrap()
    }

    #[test]
    fn totals_are_counted_once() {
        let mut meter = Messages::default();
        for (text, kind) in [
            (
                r#"data: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":9,"output_tokens":1,"cache_read_input_tokens":null}}}"#,
                Kind::Start,
            ),
            (
                r#"data: {"type":"message_delta","usage":{"output_tokens":7,"cache_creation_input_tokens":3}}"#,
                Kind::Other,
            ),
            (
                r#"data: {"type":"message_delta","usage":"odd"}"#,
                Kind::Other,
            ),
            ("data: no json", Kind::Other),
            ("event: error\ndata: {}", Kind::Error),
            (r#"data: {"type":"error"}"#, Kind::Error),
            (r#"data: {"type":"message_stop"}"#, Kind::Stop),
        ] {
            assert_eq!(meter.event(&event(text)), kind, "{text}");
        }
        assert_eq!(
            meter.usage,
            Usage {
                model: "m".into(),
                input_tokens: 9,
                output_tokens: 7,
                cache_write_tokens: 3,
                ..Usage::default()
            }
        );
    }
}
