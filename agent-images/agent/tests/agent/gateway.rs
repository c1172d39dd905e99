//! A gateway small enough to see through: records what it is told and serves
//! Git by `git http-backend`.

use bytes::Bytes;
use factory_core::{
    inbox::RunEnd,
    wire::{Hello, PATH_END, PATH_EVENTS, PATH_GIT, PATH_HELLO, PATH_REPORT, PROTOCOL},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use tokio::{net::UnixListener, sync::watch, task::JoinSet};

/// What a gateway decides and remembers.
#[derive(Default)]
pub struct Seen {
    /// Paths in the order in which they were asked for, without Git's.
    pub order: Vec<String>,
    /// All event bytes.
    pub events: Vec<u8>,
    /// Count of event bytes, also where they are not kept.
    pub event_bytes: usize,
    /// Reports, accepted or not.
    pub reports: Vec<String>,
    /// Ends.
    pub ends: Vec<RunEnd>,
    /// Called when an end arrives, before it is answered.
    pub at_end: Option<Box<dyn FnMut() + Send>>,
    /// A report that lacks this text is refused with 422.
    pub report_needs: Option<&'static str>,
    /// Answer to an end.
    pub end_status: Option<StatusCode>,
    /// Events are counted, not kept.
    pub count_only: bool,
}

pub struct Gateway {
    pub seen: Arc<Mutex<Seen>>,
    socket: PathBuf,
    origin: PathBuf,
    serving: Option<JoinSet<()>>,
    changed: watch::Sender<usize>,
}

impl Gateway {
    pub fn new(socket: PathBuf, origin: PathBuf) -> Self {
        let mut gateway = Self {
            seen: Arc::default(),
            socket,
            origin,
            serving: None,
            changed: watch::channel(0).0,
        };
        gateway.start();
        gateway
    }

    pub fn start(&mut self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        // The agent may run as another user.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&self.socket, mode).unwrap();
        let (seen, origin, changed) =
            (self.seen.clone(), self.origin.clone(), self.changed.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, origin, changed) = (seen.clone(), origin.clone(), changed.clone());
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(&seen, &origin, &changed, request));
                    // A client that goes away is none of our concern.
                    http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), answer)
                        .await
                        .ok();
                });
            }
        });
        self.serving = Some(serving);
    }

    /// Goes away with all its connections.
    pub async fn stop(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            serving.shutdown().await;
        }
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Waits until the events hold `text`.
    pub async fn event(&self, text: &str) {
        let mut changed = self.changed.subscribe();
        let seen = async {
            while !self.events().contains(text) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(crate::lab::PATIENCE, seen)
            .await
            .expect("the event does not come");
    }

    pub fn events(&self) -> String {
        String::from_utf8(self.seen.lock().unwrap().events.clone()).unwrap()
    }

    /// The one end of the run.
    pub fn end(&self) -> RunEnd {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.ends.len(), 1, "{:?}", seen.ends);
        seen.ends[0].clone()
    }
}

async fn answer(
    seen: &Mutex<Seen>,
    origin: &Path,
    changed: &watch::Sender<usize>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let body = body.collect().await?.to_bytes();
    if let Some(below) = path.strip_prefix(PATH_GIT) {
        return Ok(git(origin, below, &head, &body));
    }
    let mut seen = seen.lock().unwrap();
    seen.order.push(path.clone());
    let (status, text) = match path.as_str() {
        PATH_HELLO => {
            let hello = Hello {
                protocol: PROTOCOL,
                run: "r7-1".parse().unwrap(),
            };
            (StatusCode::OK, serde_json::to_string(&hello).unwrap())
        }
        PATH_EVENTS => {
            seen.event_bytes += body.len();
            if !seen.count_only {
                seen.events.extend_from_slice(&body);
            }
            changed.send_modify(|n| *n += 1);
            (StatusCode::NO_CONTENT, String::new())
        }
        PATH_REPORT => {
            let report = String::from_utf8(body.to_vec()).unwrap();
            let fine = seen
                .report_needs
                .is_none_or(|needed| report.contains(needed));
            seen.reports.push(report);
            if fine {
                (StatusCode::NO_CONTENT, String::new())
            } else {
                (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    r#"{"error":"the report lacks a summary"}"#.to_owned(),
                )
            }
        }
        PATH_END => {
            seen.ends.push(serde_json::from_slice(&body).unwrap());
            if let Some(mut at_end) = seen.at_end.take() {
                at_end();
            }
            (
                seen.end_status.unwrap_or(StatusCode::NO_CONTENT),
                String::new(),
            )
        }
        other => (StatusCode::NOT_FOUND, other.to_owned()),
    };
    Ok(Response::builder()
        .status(status)
        .body(Full::from(text))
        .unwrap())
}

/// One CGI call.
fn git(
    origin: &Path,
    below: &str,
    head: &hyper::http::request::Parts,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(body).unwrap();
    stdin.rewind().unwrap();
    let header = |name| {
        head.headers
            .get(name)
            .map_or("", |v: &hyper::header::HeaderValue| v.to_str().unwrap())
    };
    let done = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_PROJECT_ROOT", origin)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", below)
        .env("REQUEST_METHOD", head.method.as_str())
        .env("QUERY_STRING", head.uri.query().unwrap_or(""))
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("REMOTE_USER", "run")
        .stdin(Stdio::from(stdin))
        .output()
        .unwrap();
    let split = done
        .stdout
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap();
    let (fields, content) = (&done.stdout[..split], done.stdout[split + 4..].to_vec());
    let mut response = Response::builder();
    for line in std::str::from_utf8(fields).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Full::from(content)).unwrap()
}
