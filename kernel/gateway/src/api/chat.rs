//! OpenAI's chat completions API.

use super::{Kind, Meter, lenient};
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
    #[serde(default, deserialize_with = "lenient")]
    prompt_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    completion_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default, deserialize_with = "lenient")]
    cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient")]
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
    told: bool,
}

impl Meter for Chat {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn is_told(&self) -> bool {
        self.told
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
            ..Self::default()
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
        let output = counts.completion_tokens.unwrap_or(0);
        let rest = counts.total_tokens.map(|all| all.saturating_sub(output));
        let input = counts.prompt_tokens.or(rest).unwrap_or(0);
        self.usage.input_tokens = input.saturating_sub(read.saturating_add(written));
        self.usage.output_tokens = output;
        self.told = output > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_counts_take_nothing_from_the_others() {
        for (usage, input, output) in [
            (
                r#"{"prompt_tokens":1000,"completion_tokens":null}"#,
                1000,
                0,
            ),
            (
                r#"{"prompt_tokens":1000.0,"completion_tokens":7.0}"#,
                1000,
                7,
            ),
            (r#"{"prompt_tokens":-3,"completion_tokens":7}"#, 0, 7),
            (r#"{"total_tokens":50}"#, 50, 0),
            (r#"{"total_tokens":50,"completion_tokens":20}"#, 30, 20),
            (r#"{"prompt_tokens":"9","completion_tokens":2}"#, 0, 2),
        ] {
            let mut meter = Chat::new("m".into());
            meter.body(format!(r#"{{"usage":{usage}}}"#).as_bytes());
            let found = (meter.usage.input_tokens, meter.usage.output_tokens);
            assert_eq!(found, (input, output), "{usage}");
        }
    }

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
