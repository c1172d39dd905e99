//! A model provider that says what a test tells it to.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// A piece of a scripted stream.
#[derive(Clone)]
pub enum Piece {
    Bytes(Bytes),
    /// Wait until the test lets it go on.
    Gate(Arc<Notify>),
    /// Break the connection.
    Cut,
}

pub fn bytes(text: impl Into<Bytes>) -> Piece {
    Piece::Bytes(text.into())
}

/// One scripted answer.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub pieces: Vec<Piece>,
}

impl Reply {
    pub fn sse(pieces: Vec<Piece>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream; charset=utf-8".into())],
            pieces,
        }
    }

    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".into())],
            pieces: vec![bytes(body)],
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What the provider was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A model provider on loopback that answers what it is told, in order; the
/// last answer is repeated.
pub struct Provider {
    pub base_url: String,
    script: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Where given, the only key that is accepted.
    accepted: Arc<Mutex<Option<String>>>,
    _tasks: JoinSet<()>,
}

impl Provider {
    pub async fn new(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(VecDeque::from(replies)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(Mutex::new(None));
        let (told, heard, known) = (
            Arc::clone(&script),
            Arc::clone(&asked),
            Arc::clone(&accepted),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (told, heard) = (Arc::clone(&told), Arc::clone(&heard));
                let known = Arc::clone(&known);
                let service = service_fn(move |request: Request<Incoming>| {
                    let known: Option<String> = known.lock().unwrap().clone();
                    let told = match known {
                        Some(key) if request.headers()["x-api-key"] != key => {
                            Arc::new(Mutex::new([Reply::json(401, "{}")].into()))
                        }
                        _ => Arc::clone(&told),
                    };
                    answer(told, Arc::clone(&heard), request)
                });
                connections.spawn(async move {
                    drop(
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Self {
            base_url,
            script,
            asked,
            accepted,
            _tasks: tasks,
        }
    }

    pub fn say(&self, replies: Vec<Reply>) {
        *self.script.lock().unwrap() = replies.into();
    }

    /// From now on every other key is refused with 401.
    pub fn accept(&self, key: &str) {
        *self.accepted.lock().unwrap() = Some(key.to_owned());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    script: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, std::io::Error>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    asked.lock().unwrap().push(Asked {
        target: head.uri.to_string(),
        headers: head.headers,
        body,
    });
    let reply = {
        let mut script = script.lock().unwrap();
        if script.len() > 1 {
            script.pop_front()
        } else {
            script.front().cloned()
        }
    };
    let reply = reply.unwrap();
    let frames = stream::iter(reply.pieces).filter_map(async |piece| match piece {
        Piece::Bytes(bytes) => Some(Ok(Frame::data(bytes))),
        Piece::Gate(gate) => {
            gate.notified().await;
            None
        }
        Piece::Cut => {
            // hyper writes what it has while the body waits, and drops it when the body fails.
            tokio::task::yield_now().await;
            Some(Err(std::io::Error::other("cut")))
        }
    });
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    Ok(response
        .body(BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames))))
        .unwrap())
}
