//! The wire APIs, as far as the gateway looks into them: what is called, what an
//! answer counts, what fills a silence, and what an error looks like.

mod chat;
mod host;
mod messages;
mod responses;

use crate::sse::Event;
use bytes::Bytes;
use factory_core::{grant::WireApi, inbox::Usage};
use hyper::{StatusCode, header::HeaderName};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// What the gateway must know about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message begins.
    Start,
    /// The last event of a whole answer.
    Stop,
    /// The provider gave up in the middle; never relayed.
    Error,
    /// Anything else, comments and blank lines included.
    Other,
}

/// Counts one answer. Status, time and `cut` are the caller's.
pub trait Meter: Send + Sync {
    /// What was counted so far.
    fn usage(&self) -> &Usage;
    /// True once the provider has said what the call used, or that it failed.
    fn is_told(&self) -> bool;
    /// Counts an event of a stream and says what it is.
    fn event(&mut self, event: &Event) -> Kind;
    /// Counts an answer that is no stream.
    fn body(&mut self, body: &[u8]);
    /// What may be sent between two events of a stream so that its engine goes on
    /// waiting; none where nothing can be said yet.
    fn keep_alive(&self) -> Option<Vec<u8>>;
}

/// Why a call is answered with an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The run may not do this; trying again does not help.
    Refused,
    /// There is nothing at this path.
    NotFound,
    /// The request is longer than is read.
    TooLarge,
    /// The request is none.
    Invalid,
    /// The provider wants fewer calls.
    Busy,
    /// The provider is away.
    Away,
    /// The gateway itself failed.
    Gateway,
}

/// Codes and types of errors by which a provider says that the account behind a key
/// has nothing left to pay with.
const NO_CREDIT: [&str; 4] = [
    "billing_error",
    "insufficient_quota",
    "billing_not_active",
    "billing_hard_limit_reached",
];
/// Words that say the same: the Messages API gives them the status 400 and the type of
/// any other bad request.
const NO_CREDIT_WORDS: &str = "credit balance is too low";

/// All APIs that doors serve.
pub(crate) const ALL: [WireApi; 3] = [
    WireApi::Messages,
    WireApi::Responses,
    WireApi::ChatCompletions,
];

/// The API that is called at `path` of a door.
pub fn at_path(path: &str) -> Option<WireApi> {
    ALL.into_iter().find(|api| door_path(*api) == path)
}

/// The one path of a door at which `api` is called.
pub fn door_path(api: WireApi) -> &'static str {
    match api {
        WireApi::Messages => "/v1/messages",
        WireApi::Responses => "/v1/responses",
        WireApi::ChatCompletions => "/v1/chat/completions",
    }
}

/// The path below a provider's `base_url`, which holds the version where that is
/// the custom of its vendor.
pub fn provider_path(api: WireApi) -> &'static str {
    match api {
        WireApi::Messages => "/v1/messages",
        WireApi::Responses => "/responses",
        WireApi::ChatCompletions => "/chat/completions",
    }
}

/// The header that carries a key, and its value.
pub fn key_header(api: WireApi, key: &str) -> (HeaderName, String) {
    match api {
        WireApi::Messages => (HeaderName::from_static("x-api-key"), key.to_owned()),
        WireApi::Responses | WireApi::ChatCompletions => {
            (hyper::header::AUTHORIZATION, format!("Bearer {key}"))
        }
    }
}

/// A request as the provider gets it.
pub fn request(api: WireApi, body: Bytes) -> Bytes {
    let body = host::without_kernel(body);
    match api {
        WireApi::Messages | WireApi::Responses => body,
        WireApi::ChatCompletions => chat::with_usage(body),
    }
}

/// The counter for an answer to a request for `model`.
pub fn meter(api: WireApi, model: String) -> Box<dyn Meter> {
    match api {
        WireApi::Messages => Box::new(messages::Messages::new(model)),
        WireApi::Responses => Box::new(responses::Responses::new(model)),
        WireApi::ChatCompletions => Box::new(chat::Chat::new(model)),
    }
}

/// The status that the engines of `api` take as final: the one that speaks Messages
/// tries all but 403 again, the others all but 400.
fn final_status(api: WireApi) -> StatusCode {
    match api {
        WireApi::Messages => StatusCode::FORBIDDEN,
        WireApi::Responses | WireApi::ChatCompletions => StatusCode::BAD_REQUEST,
    }
}

/// Status and body of an error of ours.
pub fn error(api: WireApi, trouble: Trouble, message: &str) -> (StatusCode, Vec<u8>) {
    let (status, kind) = match trouble {
        Trouble::Refused => (final_status(api), "permission_error"),
        Trouble::NotFound => (StatusCode::NOT_FOUND, "not_found_error"),
        Trouble::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
        Trouble::Invalid => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        Trouble::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        Trouble::Away => (StatusCode::SERVICE_UNAVAILABLE, "overloaded_error"),
        Trouble::Gateway => (StatusCode::SERVICE_UNAVAILABLE, "api_error"),
    };
    let body = match api {
        WireApi::Messages => messages::error_body(kind, message),
        WireApi::Responses | WireApi::ChatCompletions => {
            json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
                .to_string()
                .into_bytes()
        }
    };
    (status, body)
}

/// More tokens than any answer has: what is said beyond is not believed.
const MOST_TOKENS: u64 = 1 << 40;
/// Bytes of text that make a token, about.
pub const BYTES_OF_A_TOKEN: u64 = 4;
/// Bytes of names and other things around the text in an event of a stream.
const AROUND: u64 = 256;

/// Tokens of an event whose text nobody counts: one, or more for a long text.
pub fn tokens_of(data: &[u8]) -> u64 {
    fn text(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64,
            Value::Array(all) => all.iter().map(text).sum(),
            Value::Object(all) => all.values().map(text).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }
    if data.len() as u64 <= AROUND {
        return u64::from(!data.is_empty());
    }
    let all = serde_json::from_slice(data).map_or(data.len() as u64, |value| text(&value));
    (all.saturating_sub(AROUND) / BYTES_OF_A_TOKEN).max(1)
}

/// A count as providers write it; none for what is none, so that the rest is read all the
/// same.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<Value>::deserialize(d)?.unwrap_or_default();
    let whole = |n: f64| (n.is_finite() && n >= 0.0).then_some(n as u64);
    let count = value.as_u64().or_else(|| value.as_f64().and_then(whole));
    Ok(count.map(|count| count.min(MOST_TOKENS)))
}

/// The model named in a request.
pub fn requested_model(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Request {
        model: Option<String>,
    }
    serde_json::from_slice::<Request>(body)
        .ok()
        .and_then(|request| request.model)
        .unwrap_or_default()
}

/// The message of an error answer; the text itself where it has none.
pub fn error_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        message: String,
    }
    match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => answer.error.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(),
    }
}

/// What a provider says whose account has nothing left to pay with; none where an error
/// answer, or an event of a stream, says anything else.
pub fn no_credit(data: &[u8]) -> Option<String> {
    let data: Value = serde_json::from_slice(data).ok()?;
    let places = ["/error", "/response/error", ""];
    let mut errors = places.iter().filter_map(|place| data.pointer(place));
    errors.find_map(|error| {
        let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let message = text("message");
        let named = ["code", "type"].map(text);
        let says = named.iter().any(|name| NO_CREDIT.contains(name));
        (says || message.contains(NO_CREDIT_WORDS)).then(|| message.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_credit_is_told_from_a_busy_provider() {
        for (data, words) in [
            (
                r#"{"type":"error","error":{"type":"billing_error","message":"Pay."}}"#,
                Some("Pay."),
            ),
            (
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#,
                Some("Your credit balance is too low to access the API."),
            ),
            (
                r#"{"error":{"message":"Quota.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
                Some("Quota."),
            ),
            (
                r#"{"error":{"message":"Inactive.","type":"requests","code":"billing_not_active"}}"#,
                Some("Inactive."),
            ),
            (
                r#"{"type":"error","sequence_number":2,"code":"insufficient_quota","message":"Quota."}"#,
                Some("Quota."),
            ),
            (
                r#"{"type":"response.failed","response":{"error":{"code":"insufficient_quota","message":"Quota."}}}"#,
                Some("Quota."),
            ),
            (r#"{"error":{"type":"insufficient_quota"}}"#, Some("")),
            (
                r#"{"error":{"message":"Slow down.","type":"requests","code":"rate_limit_exceeded"}}"#,
                None,
            ),
            (
                r#"{"type":"response.completed","response":{"error":null}}"#,
                None,
            ),
            ("<html>", None),
        ] {
            assert_eq!(no_credit(data.as_bytes()).as_deref(), words, "{data}");
        }
    }

    #[test]
    fn a_long_text_in_an_event_is_more_than_a_token() {
        let event = |text: usize| format!(r#"{{"id":"x","delta":"{}"}}"#, "y".repeat(text));
        assert_eq!(tokens_of(b""), 0);
        assert_eq!(tokens_of(event(9).as_bytes()), 1);
        assert_eq!(tokens_of(event(300).as_bytes()), 11);
        assert!((24_000..26_000).contains(&tokens_of(event(100_000).as_bytes())));
        assert!(tokens_of(&[b'z'; 4096]) > 900, "no JSON");
    }

    #[test]
    fn error_answers_are_read_and_written() {
        for api in ALL {
            let (_, body) = error(api, Trouble::Away, "say \"why\"");
            assert_eq!(error_message(&body), "say \"why\"");
        }
        assert_eq!(error_message(b"<html>"), "<html>");
    }
}
