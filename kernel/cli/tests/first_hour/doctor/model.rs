//! Keys of models, and the addresses where these are called.

use super::{Row, answer, look_at, request_path};
use crate::lab::{KEY, Lab};
use std::{fs, path::Path};

#[test]
fn keys_and_addresses_of_models() {
    let rows: &[Row] = &[
        (
            "no key",
            |_, _| vec![("ANTHROPIC_API_KEY", String::new())],
            "missing",
            "model key",
            "ANTHROPIC_API_KEY is not set",
            "export ANTHROPIC_API_KEY=",
            6,
        ),
        (
            "no key for codex",
            |lab, dir| engine_at(lab, dir, "codex", "http://127.0.0.1:9"),
            "missing",
            "model key",
            "OPENAI_API_KEY is not set",
            "export OPENAI_API_KEY=",
            6,
        ),
        (
            "no key for mini",
            |lab, dir| engine_at(lab, dir, "mini", "http://127.0.0.1:9"),
            "missing",
            "model key",
            "OPENAI_API_KEY is not set",
            "export OPENAI_API_KEY=",
            6,
        ),
        (
            "two keys",
            |_, _| vec![("ANTHROPIC_API_KEY", format!("{0}\n{0}", KEY.1))],
            "missing",
            "model key",
            "holds a line break",
            "export ANTHROPIC_API_KEY=",
            6,
        ),
        (
            "a key in quotation marks",
            |_, _| vec![("ANTHROPIC_API_KEY", format!("\"{}\"", KEY.1))],
            "missing",
            "model key",
            "in quotation marks",
            "export ANTHROPIC_API_KEY=",
            6,
        ),
        (
            "another vendor's key",
            |_, _| vec![("ANTHROPIC_API_KEY", "sk-proj-x".to_owned())],
            "warning",
            "model key",
            "does not begin with sk-ant-",
            "models.anthropic.base_url",
            6,
        ),
        (
            "another vendor's key for codex",
            |lab, dir| {
                fs::write(dir.join("factory.yaml"), "engine: codex\n").unwrap();
                lab.git(dir, &["commit", "--quiet", "--all", "-m", "Another engine"]);
                vec![("OPENAI_API_KEY", "pk-x".to_owned())]
            },
            "warning",
            "model key",
            "does not begin with sk-",
            "models.openai.base_url",
            6,
        ),
        (
            "the second of several keys in quotation marks",
            |lab, dir| {
                let text = "engine: codex\nmodels: {openai: [{key_env: A_API_KEY}, {key_env: B_API_KEY}]}\n";
                fs::write(dir.join("factory.yaml"), text).unwrap();
                lab.git(dir, &["commit", "--quiet", "--all", "-m", "Keys"]);
                vec![
                    ("A_API_KEY", "sk-a".to_owned()),
                    ("B_API_KEY", "'sk-b'".to_owned()),
                ]
            },
            "missing",
            "model key",
            "B_API_KEY is in quotation marks",
            "export B_API_KEY=",
            6,
        ),
        (
            "nothing where models are called",
            |lab, dir| model_at(lab, dir, "http://127.0.0.1:9"),
            "warning",
            "model address",
            "http://127.0.0.1:9 cannot be reached",
            "curl -v",
            6,
        ),
        (
            "something else where models are called",
            |lab, dir| model_at(lab, dir, &serve("404 Not Found")),
            "warning",
            "model address",
            "does not know /v1/messages",
            "the address before /v1",
            6,
        ),
        (
            "nothing where codex calls models",
            |lab, dir| engine_at(lab, dir, "codex", "http://127.0.0.1:9"),
            "warning",
            "model address",
            "http://127.0.0.1:9 cannot be reached",
            "curl -v",
            6,
        ),
        (
            "something else where codex calls models",
            |lab, dir| engine_at(lab, dir, "codex", &serve("404 Not Found")),
            "warning",
            "model address",
            "does not know /responses",
            "the address with its /v1",
            6,
        ),
        (
            "something else where models of openai are called",
            |lab, dir| {
                let address = serve("404 Not Found");
                let text = format!(
                    "engine: mini\nmodels: {{openai: [{{base_url: \"http://127.0.0.1:9\"}}, {{base_url: \"{address}\"}}]}}\n"
                );
                fs::write(dir.join("factory.yaml"), text).unwrap();
                lab.git(dir, &["commit", "--quiet", "--all", "-m", "Address"]);
                vec![]
            },
            "warning",
            "model address",
            "does not know /chat/completions",
            "the address with its /v1",
            6,
        ),
        (
            "a provider that is away",
            |lab, dir| model_at(lab, dir, &serve("503 Service Unavailable")),
            "warning",
            "model address",
            "status 503",
            "try again later",
            6,
        ),
        (
            "a provider that wants a key",
            |lab, dir| model_at(lab, dir, &serve("401 Unauthorized")),
            "ok",
            "model address",
            "answers",
            "",
            6,
        ),
    ];
    look_at(rows);
}

/// A configuration whose models are at `address`.
fn model_at(lab: &Lab, dir: &Path, address: &str) -> Vec<(&'static str, String)> {
    let text = format!("models: {{anthropic: {{base_url: \"{address}\"}}}}\n");
    fs::write(dir.join("factory.yaml"), text).unwrap();
    lab.git(
        dir,
        &["commit", "--quiet", "--all", "-m", "Another provider"],
    );
    vec![]
}

/// A configuration with an engine whose models are at `address`.
fn engine_at(lab: &Lab, dir: &Path, engine: &str, address: &str) -> Vec<(&'static str, String)> {
    let text = format!("engine: {engine}\nmodels: {{openai: {{base_url: \"{address}\"}}}}\n");
    fs::write(dir.join("factory.yaml"), text).unwrap();
    lab.git(dir, &["commit", "--quiet", "--all", "-m", "Another engine"]);
    vec![]
}

/// Something on this machine that answers everything so.
fn serve(status: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            request_path(&mut stream);
            answer(&mut stream, status, "{}");
        }
    });
    address
}
