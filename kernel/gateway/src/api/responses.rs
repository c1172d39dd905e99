//! OpenAI's Responses API.

use super::{Kind, Meter, lenient};
use crate::sse::Event;
use factory_core::inbox::Usage;
use serde::Deserialize;
use serde_json::{Value, json};

/// What is looked at of an event.
#[derive(Debug, Deserialize)]
struct Payload {
    r#type: Option<String>,
    response: Option<Value>,
    sequence_number: Option<u64>,
}

/// What is counted of a response; input tokens include those of caches.
#[derive(Debug, Default, Deserialize)]
struct Counts {
    #[serde(default, deserialize_with = "lenient")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    output_tokens: Option<u64>,
    input_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default, deserialize_with = "lenient")]
    cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    cache_write_tokens: Option<u64>,
}

/// Counts one answer.
#[derive(Debug, Default)]
pub(super) struct Responses {
    usage: Usage,
    told: bool,
    /// The response as it was when it began, and the newest number of an event.
    begun: Option<Value>,
    number: u64,
}

impl Meter for Responses {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn is_told(&self) -> bool {
        self.told
    }

    fn event(&mut self, event: &Event) -> Kind {
        let Ok(payload) = serde_json::from_slice::<Payload>(&event.data) else {
            return Kind::Other;
        };
        if let Some(number) = payload.sequence_number {
            self.number = number;
        }
        let kind = match payload.r#type.as_deref() {
            Some("response.created") => Kind::Start,
            // A failed response is a whole answer, too: whether another try helps
            // is in its code, which the engine knows to read.
            Some("response.failed") => {
                self.told = true;
                Kind::Stop
            }
            Some("response.completed" | "response.incomplete") => Kind::Stop,
            Some("error") => Kind::Error,
            Some(_) | None => Kind::Other,
        };
        if let Some(response) = payload.response {
            self.response(&response);
            if kind == Kind::Start {
                self.begun = Some(response);
            }
        }
        kind
    }

    fn body(&mut self, body: &[u8]) {
        if let Ok(response) = serde_json::from_slice(body) {
            self.response(&response);
        }
    }

    /// A real event: comments do not count as a sign of life for Codex CLI.
    fn keep_alive(&self) -> Option<Vec<u8>> {
        let response = self.begun.as_ref()?;
        let event = json!({
            "type": "response.in_progress",
            "sequence_number": self.number,
            "response": response,
        });
        Some(format!("event: response.in_progress\ndata: {event}\n\n").into_bytes())
    }
}

impl Responses {
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

    fn response(&mut self, response: &Value) {
        if let Some(model) = response.get("model").and_then(Value::as_str) {
            self.usage.model = model.to_owned();
        }
        let counts = response.get("usage").cloned().unwrap_or_default();
        let Ok(counts) = serde_json::from_value::<Counts>(counts) else {
            return;
        };
        let details = counts.input_tokens_details.unwrap_or_default();
        let read = details.cached_tokens.unwrap_or(0);
        let written = details.cache_write_tokens.unwrap_or(0);
        self.usage.cache_read_tokens = read;
        self.usage.cache_write_tokens = written;
        let input = counts.input_tokens.unwrap_or(0);
        self.usage.input_tokens = input.saturating_sub(read.saturating_add(written));
        self.usage.output_tokens = counts.output_tokens.unwrap_or(0);
        // Real ones say 0 and 0 of an answer that a program of the provider wrote.
        self.told |= counts.output_tokens.is_some();
    }
}
