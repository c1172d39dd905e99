//! OpenAI's chat completions API.

use super::{Kind, Meter};
use crate::sse::Event;
use bytes::Bytes;
use factory_core::inbox::Usage;
use serde::Deserialize;
use serde_json::{Value, json};

/// The last event of a stream.
const DONE: &[u8] = b"[DONE]";
/// The API has no event for it, and its clients pass comments over.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// What is looked at of a chunk or of a whole answer.
#[derive(Debug, Deserialize)]
struct Payload {
    model: Option<String>,
    usage: Option<Counts>,
    error: Option<Value>,
}

/// Prompt tokens include those of caches, completion tokens those of reasoning.
#[derive(Debug, Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

/// A request whose stream tells what it used, which it does only when asked to.
pub(super) fn with_usage(body: Bytes) -> Bytes {
    let Ok(mut request) = serde_json::from_slice::<Value>(&body) else {
        return body;
    };
    let asked = request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    if request.get("stream") != Some(&Value::Bool(true)) || asked {
        return body;
    }
    match request
        .get_mut("stream_options")
        .and_then(Value::as_object_mut)
    {
        Some(options) => {
            options.insert("include_usage".to_owned(), true.into());
        }
        None => request["stream_options"] = json!({"include_usage": true}),
    }
    request.to_string().into()
}

/// Counts one answer.
#[derive(Debug, Default)]
pub(super) struct Chat {
    usage: Usage,
}

impl Meter for Chat {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn event(&mut self, event: &Event) -> Kind {
        if event.data.trim_ascii() == DONE {
            return Kind::Stop;
        }
        match serde_json::from_slice::<Payload>(&event.data) {
            Ok(Payload { error: Some(_), .. }) => Kind::Error,
            Ok(payload) => {
                self.count(payload);
                Kind::Other
            }
            Err(_) => Kind::Other,
        }
    }

    fn body(&mut self, body: &[u8]) {
        if let Ok(payload) = serde_json::from_slice(body) {
            self.count(payload);
        }
    }

    fn keep_alive(&self) -> Option<Vec<u8>> {
        Some(KEEP_ALIVE.to_vec())
    }
}

impl Chat {
    /// Counts an answer to a request for `model`.
    pub(super) fn new(model: String) -> Self {
        Self {
            usage: Usage {
                model,
                ..Usage::default()
            },
        }
    }

    fn count(&mut self, payload: Payload) {
        if let Some(model) = payload.model {
            self.usage.model = model;
        }
        let Some(counts) = payload.usage else { return };
        let details = counts.prompt_tokens_details.unwrap_or_default();
        let read = details.cached_tokens.unwrap_or(0);
        let written = details.cache_write_tokens.unwrap_or(0);
        self.usage.cache_read_tokens = read;
        self.usage.cache_write_tokens = written;
        self.usage.input_tokens = counts.prompt_tokens.saturating_sub(read + written);
        self.usage.output_tokens = counts.completion_tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_what_it_used() {
        let asked = |body: &str| {
            let body = with_usage(Bytes::from(body.to_owned()));
            serde_json::from_slice::<Value>(&body).unwrap()
        };
        assert_eq!(asked(r#"{"model":"m"}"#), json!({"model": "m"}));
        let wanted = json!({"stream": true, "stream_options": {"include_usage": true}});
        assert_eq!(asked(r#"{"stream":true}"#), wanted);
        let off = r#"{"stream":true,"stream_options":{"include_usage":false}}"#;
        assert_eq!(asked(off), wanted);
        assert_eq!(with_usage("no json".into()), "no json");
    }
}
