//! A model provider that follows a [`Scenario`]: the Messages, Responses and chat
//! completions APIs on loopback, streaming and not, with every request recorded.

pub use crate::record::{Outcome, Recorded};

use crate::anthropic::{self, Message, Request, Usage};
use crate::plan::{Reply, plan};
use crate::record::Record;
use crate::scenario::{Fault, HANG, Scenario};
use bytes::Bytes;
use factory_core::grant::WireApi;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Events after which an answer is held or ends in an error. Of Messages: message
/// start, ping, start and first piece of the first block. No block is whole yet, so an
/// engine keeps nothing of it.
const MIDDLE: usize = 4;

/// What a provider cannot do.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The loopback address cannot be listened on.
    #[error("cannot listen on 127.0.0.1:{port}; choose another port, or 0 for any")]
    Listen {
        /// The port asked for.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The scenario waits nowhere under this name.
    #[error("nothing in the scenario waits for `{name}`; known names: {known}")]
    NoSuchWait {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
}

/// A running provider. Dropping it ends it and cuts its connections.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Provider {
    /// Listens on a port of the system's choice and answers from `scenario`.
    ///
    /// # Errors
    /// Loopback cannot be listened on.
    pub async fn start(scenario: Scenario) -> Result<Self, ProviderError> {
        Self::start_on(0, scenario).await
    }

    /// As [`Provider::start`], on a given port of 127.0.0.1.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start_on(port: u16, scenario: Scenario) -> Result<Self, ProviderError> {
        let listen = |source| ProviderError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let waits = scenario
            .waits()
            .map(|name| (name.to_owned(), Arc::new(Wait::default())))
            .collect();
        let shared = Arc::new(Shared {
            scenario,
            waits,
            started: Instant::now(),
            record: Mutex::new(Record::default()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            tasks,
        })
    }

    /// What an engine or gateway is given as base URL: `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.record().requests.clone()
    }

    /// Tokens of all whole answers so far.
    pub fn usage(&self) -> Usage {
        let mut total = Usage::default();
        for request in &self.shared.record().requests {
            match &request.outcome {
                Outcome::Answer { usage, .. } | Outcome::SideRequest { usage } => total += *usage,
                Outcome::Fault { .. } | Outcome::Refused { .. } => {}
            }
        }
        total
    }

    /// Returns as soon as an answer is held (or was once held) under `name`.
    ///
    /// # Errors
    /// The scenario has no such name.
    pub async fn reached(&self, name: &str) -> Result<(), ProviderError> {
        self.shared.wait(name)?.reached.cancelled().await;
        Ok(())
    }

    /// Lets every answer held under `name` go on, those to come as well.
    ///
    /// # Errors
    /// The scenario has no such name.
    pub fn release(&self, name: &str) -> Result<(), ProviderError> {
        self.shared.wait(name)?.released.cancel();
        Ok(())
    }

    /// Ends the provider and its connections, and waits until they are gone.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Two latches; a cancelled token is a set latch.
#[derive(Debug, Default)]
struct Wait {
    reached: CancellationToken,
    released: CancellationToken,
}

impl Wait {
    async fn pass(&self) {
        self.reached.cancel();
        self.released.cancelled().await;
    }
}

#[derive(Debug)]
struct Shared {
    scenario: Scenario,
    waits: BTreeMap<String, Arc<Wait>>,
    started: Instant,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        // A panic elsewhere leaves at worst a fault uncounted.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, name: &str) -> Result<&Arc<Wait>, ProviderError> {
        self.waits
            .get(name)
            .ok_or_else(|| ProviderError::NoSuchWait {
                name: name.to_owned(),
                known: self
                    .waits
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

/// The scripted end of a connection in the middle of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the scenario cuts the connection here")]
struct Cut;

type Body = UnsyncBoxBody<Bytes, Cut>;

/// One piece of a response's body.
enum Piece {
    Bytes(Bytes),
    Wait(Arc<Wait>),
    /// Nothing more, until the client goes.
    Silence,
    Cut,
}

fn body(pieces: Vec<Piece>) -> Body {
    let frames = stream::unfold(pieces.into_iter(), |mut pieces| async move {
        loop {
            match pieces.next()? {
                Piece::Bytes(bytes) => return Some((Ok(Frame::data(bytes)), pieces)),
                Piece::Wait(wait) => wait.pass().await,
                Piece::Silence => std::future::pending().await,
                Piece::Cut => {
                    // A pending body makes hyper flush what came before.
                    tokio::task::yield_now().await;
                    return Some((Err(Cut), pieces));
                }
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
                Err(error) => tracing::warn!(%error, "accepting a connection failed"),
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "answering a connection failed");
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Else each answer waits some 40 ms for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let service = hyper::service::service_fn(|request| respond(request, Arc::clone(&shared)));
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        // Scripted cuts and clients that go away end here.
        tracing::debug!(%error, "connection ended early");
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, incoming) = request.into_parts();
    let bytes = incoming.collect().await?.to_bytes();
    let path = head.uri.path();
    let api = anthropic::api_at(path).unwrap_or(WireApi::Messages);
    let parsed = Request::parse(path, &bytes);
    let mut recorded = None;
    loop {
        let reply = {
            let mut record = shared.record();
            let plan = plan(&shared.scenario, &head, &parsed, &mut record.faults);
            match recorded {
                None => {
                    recorded = Some(record.add(
                        &head,
                        bytes.clone(),
                        shared.started.elapsed(),
                        plan.outcome,
                    ))
                }
                // A released hang: what follows takes its place.
                Some(index) => record.requests[index].outcome = plan.outcome,
            }
            plan.reply
        };
        match reply {
            Reply::Hang => {
                if let Some(wait) = shared.waits.get(HANG) {
                    wait.pass().await;
                }
            }
            Reply::Error {
                status,
                kind,
                code,
                message,
                retry_after,
            } => {
                let body = anthropic::error_body(api, kind, code, &message);
                return Ok(error_response(status, &body, retry_after));
            }
            Reply::Message {
                message,
                stream,
                fault,
            } => {
                let wait = message
                    .answer
                    .wait
                    .as_ref()
                    .and_then(|name| shared.waits.get(name));
                return Ok(message_response(&message, stream, fault, wait));
            }
        }
    }
}

fn error_response(
    status: u16,
    body: &serde_json::Value,
    retry_after: Option<u64>,
) -> Response<Body> {
    let text = body.to_string();
    let mut response = response("application/json", vec![Piece::Bytes(text.into())]);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn message_response(
    message: &Message<'_>,
    stream: bool,
    fault: Option<&Fault>,
    wait: Option<&Arc<Wait>>,
) -> Response<Body> {
    if !stream {
        let mut text = Bytes::from(message.json().to_string());
        let mut pieces: Vec<Piece> = wait.cloned().map(Piece::Wait).into_iter().collect();
        if let Some(fault) = fault {
            text.truncate(text.len() / 2);
            pieces.extend([Piece::Bytes(text), broken(fault)]);
        } else {
            pieces.push(Piece::Bytes(text));
        }
        return response("application/json", pieces);
    }
    let frames = message.frames();
    // The last event never goes out where the scenario breaks the answer.
    let end = match fault {
        Some(Fault::CutAfterEvents(count) | Fault::SilentAfterEvents(count)) => {
            (*count).min(frames.len() - 1)
        }
        Some(_) => MIDDLE.min(frames.len() - 1),
        None => frames.len(),
    };
    let mut pieces = Vec::with_capacity(frames.len() + 1);
    for (index, frame) in frames[..end].iter().enumerate() {
        if index == MIDDLE {
            pieces.extend(wait.cloned().map(Piece::Wait));
        }
        pieces.push(Piece::Bytes(frame.clone().into()));
    }
    match fault {
        Some(Fault::ErrorEvent(kind)) => {
            let frame = anthropic::error_frame(message.api, kind, &format!("scripted {kind}"));
            pieces.push(Piece::Bytes(frame.into()));
        }
        Some(fault) => pieces.push(broken(fault)),
        None => {}
    }
    response("text/event-stream; charset=utf-8", pieces)
}

/// How an answer that does not come to its end ends.
fn broken(fault: &Fault) -> Piece {
    match fault {
        Fault::SilentAfterEvents(_) => Piece::Silence,
        Fault::CutAfterEvents(_)
        | Fault::ErrorEvent(_)
        | Fault::BadCall
        | Fault::TooLong
        | Fault::NoCredit
        | Fault::Status { .. }
        | Fault::Hang => Piece::Cut,
    }
}

fn response(content_type: &'static str, pieces: Vec<Piece>) -> Response<Body> {
    let mut response = Response::new(body(pieces));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        "request-id",
        header::HeaderValue::from_static("req_scripted"),
    );
    response
}
