//! A client of the Messages API, and a checker for its published schema.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A file of `contracts` or of the folders beside it, where this machine has it:
/// `$FACTORY_CONTRACTS`, or `../shared/contracts` of the project.
pub fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/contracts");
    let contracts = std::env::var_os("FACTORY_CONTRACTS").map_or_else(beside, PathBuf::from);
    let path = contracts.join("..").join(name);
    path.exists().then_some(path)
}

/// One connection to a provider.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    _tasks: JoinSet<()>,
}

impl Client {
    pub async fn connect(base_url: &str) -> Self {
        let stream = TcpStream::connect(base_url.strip_prefix("http://").unwrap())
            .await
            .unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                println!("connection: {error}");
            }
        });
        Self {
            sender,
            _tasks: tasks,
        }
    }

    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub async fn post(&mut self, body: &Value) -> Response<Incoming> {
        self.send(request("POST", "/v1/messages?beta=true", body))
            .await
            .unwrap()
    }
}

/// Status, headers and what arrived of the body; an error where it was cut.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub cut: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The events of a stream.
    pub fn events(&self) -> Vec<Value> {
        events(&self.text)
    }
}

/// The data of each event of a stream; its name must be the data's type.
pub fn events(text: &str) -> Vec<Value> {
    let whole = text
        .split_terminator("\n\n")
        .filter(|event| !event.is_empty());
    whole
        .map(|event| {
            let (name, data) = event
                .strip_prefix("event: ")
                .unwrap()
                .split_once("\ndata: ")
                .unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["type"], name);
            data
        })
        .collect()
}

pub fn request(method: &str, path: &str, body: &Value) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("x-api-key", "placeholder")
        .header("anthropic-version", "2023-06-01")
        .body(Full::from(body.to_string()))
        .unwrap()
}

/// Reads the whole answer.
pub async fn read(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut cut = false;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => cut = true,
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        text,
        cut,
    }
}

/// Asks once, on a connection of its own.
pub async fn ask(base_url: &str, body: &Value) -> Answer {
    let mut client = Client::connect(base_url).await;
    let response = client.post(body).await;
    read(response).await
}

/// A request as the CLI makes it, with the messages given after the prompt.
pub fn body(prompt: &str, messages: &[Value], stream: bool) -> Value {
    let mut all = vec![json!({"role": "user", "content": [
        {"type": "text", "text": "<system-reminder>\nToday\n</system-reminder>"},
        {"type": "text", "text": prompt},
    ]})];
    all.extend_from_slice(messages);
    json!({
        "model": "claude-sonnet-4-5",
        "max_tokens": 32000,
        "stream": stream,
        "system": [{"type": "text", "text": "You are an agent."}],
        "tools": [{"name": "Bash", "input_schema": {"type": "object"}}],
        "messages": all,
    })
}

/// `count` turns, each with a tool call and its result.
pub fn turns(count: usize) -> Vec<Value> {
    let turn = |index: usize| {
        let id = format!("toolu_{index}");
        [
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "Bash", "input": {}}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "ok"}]}),
        ]
    };
    (0..count).flat_map(turn).collect()
}

/// Checks `value` against a schema of the description `root`.
pub fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let object = schema
        .as_object()
        .ok_or_else(|| format!("{at}: the schema is no object"))?;
    // OpenAPI 3.0's way to say that null is a value too; the published file still has it.
    if value.is_null() && schema["nullable"] == true {
        return Ok(());
    }
    for (keyword, rule) in object {
        match keyword.as_str() {
            "title" | "description" | "default" | "format" | "properties" | "example"
            | "discriminator" | "deprecated" | "maximum" | "minimum" | "maxLength"
            | "minLength" | "maxItems" | "minItems" | "pattern" | "examples" | "propertyNames"
            | "x-oaiTypeLabel" | "$schema" | "maxProperties" | "nullable" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root
                    .pointer(pointer)
                    .ok_or_else(|| format!("{at}: no {rule}"))?;
                check(root, target, value, at)?;
            }
            "allOf" => {
                for one in rule.as_array().unwrap() {
                    check(root, one, value, at)?;
                }
            }
            "anyOf" | "oneOf" => {
                let tried: Vec<_> = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| check(root, one, value, at))
                    .collect();
                if !tried.iter().any(Result::is_ok) {
                    return Err(format!("{at}: fits none of {tried:?}"));
                }
            }
            "type" => {
                let fits = match rule.as_str().unwrap() {
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    return Err(format!("{at}: {value} is no {rule}"));
                }
            }
            "const" if rule != value => return Err(format!("{at}: {value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                return Err(format!("{at}: {value} not in {rule}"));
            }
            "const" | "enum" => {}
            "required" => {
                for name in rule.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        return Err(format!("{at}: lacks {name}"));
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}/{index}"))?;
                }
            }
            "additionalProperties" => assert!(rule.is_boolean() || rule.is_object()),
            other => panic!("{at}: keyword {other} is not checked"),
        }
    }
    let known = schema["properties"].as_object();
    for (name, inner) in value.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        match (
            known.and_then(|known| known.get(name)),
            &schema["additionalProperties"],
        ) {
            (Some(rule), _) => check(root, rule, inner, &at)?,
            (None, Value::Bool(false)) => return Err(format!("{at}: not allowed")),
            (None, rule @ Value::Object(_)) => check(root, rule, inner, &at)?,
            (None, _) => {}
        }
    }
    Ok(())
}
