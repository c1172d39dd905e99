//! The models endpoint of a door: the engine's calls go to the provider with
//! the real key, and every call is counted before the engine has its last byte.

mod ask;
mod count;

use crate::{
    api::{self, Kind, Meter, Trouble},
    door::RunDoor,
    http::{self, Body},
    relay::{Relay, stream_body},
    spending::{self, Ticket},
    sse::{self, Splitter},
    upstream,
};
use bytes::Bytes;
use factory_core::{
    grant::{ModelGrant, Provider, WireApi},
    inbox::InboxEntry,
};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
};
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

/// Most bytes of a request.
const BODY_LIMIT: usize = 32 << 20;
/// Kibibytes of requests that one run may have in memory; further ones wait.
const BODIES_KIB: u32 = 64 << 10;
/// What an engine waits when the provider is away and named no time.
const AWAY_RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");
/// Pieces of a stream that wait for a slow engine.
const QUEUE: usize = 16;
/// Bytes of a stream that are gathered before they go to the engine.
const BATCH: usize = 4 << 10;

/// Why a call is not taken any further after the run's END.
const OVER: &str = "the run is over: nothing is accepted from it any more";

/// How much of a run's requests is in memory. A run that sends more than there is room for
/// waits, whatever it announces; other runs have room of their own.
pub(crate) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_KIB as usize)))
    }
}

impl Bodies {
    /// Room for a body of `announced` bytes, or of any length; kept while it is held. None
    /// only where the door is gone.
    async fn room(&self, announced: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let most = BODY_LIMIT as u64;
        let kib = announced.unwrap_or(most).min(most).div_ceil(1024);
        let kib = u32::try_from(kib).unwrap_or(BODIES_KIB);
        Arc::clone(&self.0).acquire_many_owned(kib).await.ok()
    }
}

/// Whether `path` belongs to a model API.
pub(crate) fn is_model_path(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// A refusal in the shape of the API at `path`, which its engines take as final.
pub(crate) fn refused_at(path: &str, message: &str) -> Response<Body> {
    refused(api::at_path(path).unwrap_or(WireApi::Messages), message)
}

fn refused(api: WireApi, message: &str) -> Response<Body> {
    let mut response = error(api, Trouble::Refused, message);
    response
        .headers_mut()
        .insert("x-should-retry", HeaderValue::from_static("false"));
    response
}

fn error(api: WireApi, trouble: Trouble, message: &str) -> Response<Body> {
    let (status, body) = api::error(api, trouble, message);
    let mut response = Response::new(http::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Answers a call of a model.
pub(crate) async fn handle(
    door: Arc<RunDoor>,
    method: &Method,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    // The run's END waits for this call from here on.
    let _under_way = door.calls.token();
    let grant = door.grant();
    let granted = grant.models.as_ref();
    let (api, post) = (api::at_path(&path), method == Method::POST);
    let Some(api) = api.filter(|_| post) else {
        http::drain(request).await;
        let own = granted.map_or(WireApi::Messages, |models| models.api);
        let what = format!(
            "`{method} {path}` is not served; models are called with `POST {}`",
            api::door_path(own)
        );
        return error(own, Trouble::NotFound, &what);
    };
    let Some(models) = granted.filter(|models| models.api == api) else {
        http::drain(request).await;
        return refused(api, "this run may not call models of this provider");
    };
    let started = Instant::now();
    let target = match request.uri().query() {
        Some(query) => format!("{}?{query}", api::provider_path(api)),
        None => api::provider_path(api).to_owned(),
    };
    let (head, body) = request.into_parts();
    let read = async {
        let room = door.bodies.room(body.size_hint().upper()).await;
        (room, Limited::new(body, BODY_LIMIT).collect().await)
    };
    let (room, body) = tokio::select! {
        read = read => read,
        () = door.cut_calls.cancelled() => return refused(api, OVER),
    };
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(problem) if problem.is::<LengthLimitError>() => {
            let what = format!("the request has more than {} MiB", BODY_LIMIT >> 20);
            return error(api, Trouble::TooLarge, &what);
        }
        Err(problem) => {
            let what = format!("the request broke off: {problem}");
            return error(api, Trouble::Invalid, &what);
        }
    };
    if !door.is_open() {
        return refused(api, OVER);
    }
    let model = api::requested_model(&body);
    let most = spending::most_of(models, &model, &body);
    let admitted = tokio::select! {
        ticket = door.spending.admit(&models.budget, most) => ticket,
        () = door.cut_calls.cancelled() => return refused(api, OVER),
    };
    let Some(ticket) = admitted else {
        return over_budget(&door, models).await;
    };
    let body = api::request(api, body);
    let mut call = ModelCall::new(Arc::clone(&door), started, api, model, ticket);
    call.asked = body.len() as u64;
    // A task of its own: an engine that goes away in the middle is counted as well.
    let (mut answer, receiver) = tokio::sync::oneshot::channel();
    let granted = models.clone();
    let work = door.calls.spawn(async move {
        let asked = tokio::select! {
            asked = ask::ask(&mut call, &granted, &target, &head.headers, body) => Some(asked),
            () = answer.closed() => None,
        };
        // The request is sent, or given up.
        drop(room);
        match asked {
            Some(Ok(answered)) => call.answer(answered, answer).await,
            Some(Err(response)) => drop(answer.send(*response)),
            None => call.left().await,
        }
    });
    match receiver.await {
        Ok(response) => response,
        Err(_) => {
            let error = work.await.err().map(|error| error.to_string());
            tracing::error!(run = %door.run(), error, "a model call was dropped");
            http::empty(StatusCode::BAD_GATEWAY)
        }
    }
}

/// The run may use nothing more. The kernel is told, and ends it with all that it has.
async fn over_budget(door: &Arc<RunDoor>, models: &ModelGrant) -> Response<Body> {
    if door.spending.is_news()
        && let Err(error) = door.append(InboxEntry::OverBudget).await
    {
        let error = crate::error::chain(&error);
        tracing::error!(run = %door.run(), error, "a used up budget was not recorded");
        door.spending.untold();
        return uncounted(models.api);
    }
    let what = format!(
        "the budget of this run ({}) is used up; the factory keeps what is there and ends it",
        models.budget
    );
    refused(models.api, &what)
}

/// One call of a model on its way, and what it used so far.
struct ModelCall {
    door: Arc<RunDoor>,
    started: Instant,
    api: WireApi,
    /// The model asked for.
    model: String,
    meter: Box<dyn Meter>,
    /// Bytes of the request.
    asked: u64,
    /// Tokens that came, about: one with each short event of a stream.
    heard: u64,
    /// Who answers.
    provider: Option<Provider>,
    /// Given back once the call is counted.
    _ticket: Ticket,
}

/// Where the answer goes once its head is known.
type Answer = tokio::sync::oneshot::Sender<Response<Body>>;

/// What became of a stream.
enum Ended {
    /// Its last event was relayed.
    Whole,
    /// It broke, or nobody listens any more.
    Cut(String),
    /// In place of an answer the provider says that there is no credit. The engine asks
    /// again, and then the next provider or nobody is asked.
    NoCredit(String),
}

impl ModelCall {
    fn new(
        door: Arc<RunDoor>,
        started: Instant,
        api: WireApi,
        model: String,
        ticket: Ticket,
    ) -> Self {
        Self {
            _ticket: ticket,
            door,
            started,
            api,
            meter: api::meter(api, model.clone()),
            model,
            asked: 0,
            heard: 0,
            provider: None,
        }
    }

    /// Ends the run's calls: the kernel reads `status`, the engine gets what is final for it.
    async fn refuse(&mut self, status: StatusCode, message: &str) -> Response<Body> {
        if !self.count(status, false).await {
            return uncounted(self.api);
        }
        refused(self.api, &self.door.stores().keys.redact(message))
    }

    /// The provider is away or busy; nothing was used, so nothing is counted.
    fn away(
        &self,
        status: StatusCode,
        retry_after: Option<HeaderValue>,
        reason: &str,
    ) -> Response<Body> {
        let trouble = if status == StatusCode::TOO_MANY_REQUESTS {
            Trouble::Busy
        } else {
            Trouble::Away
        };
        tracing::info!(run = %self.door.run(), %status, reason, "a model call was given back to the engine");
        let usage = self.usage(status, false);
        self.note(&usage);
        self.set_away(Some(usage));
        let reason = self.door.stores().keys.redact(reason);
        let mut response = error(self.api, trouble, &reason);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, retry_after.unwrap_or(AWAY_RETRY_AFTER));
        response
    }

    /// Relays what the provider answered.
    async fn answer(mut self, response: reqwest::Response, answer: Answer) {
        let status = response.status();
        if status.is_success() && is_event_stream(response.headers()) {
            return self.stream(response, answer).await;
        }
        let headers = upstream::answer_headers(response.headers());
        let whole = tokio::select! {
            whole = upstream::read_whole(response, self.door.stores().timing.stream_silence) => whole,
            () = self.door.cut_calls.cancelled() => Err(OVER.to_owned()),
        };
        let response = match whole {
            Err(reason) if status.is_success() => {
                self.heard = 1;
                if self.count(status, true).await {
                    self.away(StatusCode::SERVICE_UNAVAILABLE, None, &reason)
                } else {
                    uncounted(self.api)
                }
            }
            Err(reason) => self.away(StatusCode::SERVICE_UNAVAILABLE, None, &reason),
            Ok(body) if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let message = format!(
                    "the model provider refused the call ({status}): {}",
                    api::error_message(&body)
                );
                self.refuse(status, &message).await
            }
            Ok(_) if status.is_redirection() => {
                let message = "the model provider answered with a redirect; put its real address into models.*.base_url in factory.yaml";
                self.refuse(StatusCode::FORBIDDEN, message).await
            }
            Ok(body) => {
                if status.is_success() {
                    self.meter.body(&body);
                    self.heard = body.len() as u64 / api::BYTES_OF_A_TOKEN;
                }
                if self.count(status, false).await {
                    let body = match std::str::from_utf8(&body) {
                        // What is wrong with a request, or an echo of it.
                        Ok(text) if !status.is_success() => {
                            self.door.stores().keys.redact(text).into()
                        }
                        Ok(_) | Err(_) => body,
                    };
                    let mut response = Response::new(http::full(body));
                    *response.status_mut() = status;
                    *response.headers_mut() = headers;
                    response
                } else {
                    uncounted(self.api)
                }
            }
        };
        // An engine that is gone needs no answer.
        drop(answer.send(response));
    }

    async fn stream(mut self, provider: reqwest::Response, answer: Answer) {
        let status = provider.status();
        let (pieces, received) = mpsc::channel(QUEUE);
        let mut response = Response::new(stream_body(received));
        *response.status_mut() = status;
        *response.headers_mut() = upstream::answer_headers(provider.headers());
        if answer.send(response).is_err() {
            tracing::debug!(run = %self.door.run(), "the engine left before its answer");
        }
        let mut relay = Relay {
            pieces,
            ready: Vec::new(),
            counted: false,
        };
        let ended = self.pump(provider, &mut relay).await;
        let status = match ended {
            Ended::NoCredit(_) => StatusCode::PAYMENT_REQUIRED,
            Ended::Whole | Ended::Cut(_) => status,
        };
        if !relay.counted {
            self.count(status, true).await;
        }
        let reason = match ended {
            Ended::Whole => return,
            Ended::Cut(reason) => reason,
            Ended::NoCredit(message) => {
                if let Some(provider) = &self.provider {
                    self.door.exhaust(provider, &message);
                }
                self.door.stores().keys.redact(&message)
            }
        };
        tracing::info!(run = %self.door.run(), reason, "a model's stream was cut");
        relay.cut(&self.door, reason).await;
    }

    /// Relays whole events until the stream ends, one way or the other.
    async fn pump(&mut self, mut provider: reqwest::Response, relay: &mut Relay) -> Ended {
        let timing = self.door.stores().timing;
        let mut splitter = Splitter::default();
        let mut silent_since = Instant::now();
        let mut quiet_since = Instant::now();
        // How the stream ended, seen while what came before was gathered.
        let mut end = None;
        loop {
            let next = async {
                match end.take() {
                    Some(end) => end,
                    None => provider.chunk().await,
                }
            };
            let piece = tokio::select! {
                piece = next => piece,
                () = relay.pieces.closed() => {
                    self.heard = self.heard.max(1);
                    return Ended::Cut("the engine left".to_owned());
                }
                () = self.door.cut_calls.cancelled() => {
                    self.heard = self.heard.max(1);
                    return Ended::Cut(OVER.to_owned());
                }
                () = tokio::time::sleep_until(silent_since + timing.stream_silence) => {
                    return Ended::Cut("the provider fell silent".to_owned());
                }
                () = tokio::time::sleep_until(quiet_since + timing.ping_every) => {
                    if relay.counted {
                        // All is said; the provider merely keeps the connection.
                        return Ended::Whole;
                    }
                    // Only whole events were relayed, so this stands between two.
                    if let Some(event) = self.meter.keep_alive() {
                        relay.ready.extend_from_slice(&event);
                        relay.flush(&self.door).await;
                    }
                    quiet_since = Instant::now();
                    continue;
                }
            };
            match piece {
                Ok(Some(piece)) => {
                    silent_since = Instant::now();
                    splitter.feed(&piece);
                    end = gather(&mut provider, &mut splitter).await;
                    loop {
                        match splitter.next() {
                            Ok(Some(event)) => {
                                if let Some(ended) = self.relay_event(event, relay).await {
                                    return ended;
                                }
                            }
                            Ok(None) => break,
                            Err(endless) => return Ended::Cut(endless.to_string()),
                        }
                    }
                    if !relay.ready.is_empty() {
                        relay.flush(&self.door).await;
                        quiet_since = Instant::now();
                    }
                }
                Ok(None) => {
                    if let Some(event) = splitter.finish()
                        && let Some(ended) = self.relay_event(event, relay).await
                    {
                        return ended;
                    }
                    relay.flush(&self.door).await;
                    break;
                }
                Err(error) => {
                    if relay.counted {
                        break;
                    }
                    return Ended::Cut(crate::error::chain(&error.without_url()));
                }
            }
        }
        if relay.counted {
            Ended::Whole
        } else {
            Ended::Cut("the provider's stream ended early".to_owned())
        }
    }

    /// Queues one event; the last one of an answer only once the call is counted.
    async fn relay_event(&mut self, event: sse::Event, relay: &mut Relay) -> Option<Ended> {
        let kind = self.meter.event(&event);
        if kind == Kind::Other {
            self.heard += api::tokens_of(&event.data);
        }
        if matches!(kind, Kind::Error | Kind::Stop)
            && let Some(message) = api::no_credit(&event.data)
        {
            relay.flush(&self.door).await;
            return Some(Ended::NoCredit(message));
        }
        match kind {
            Kind::Error => {
                relay.flush(&self.door).await;
                let message = api::error_message(&event.data);
                return Some(Ended::Cut(self.door.stores().keys.redact(&message)));
            }
            Kind::Stop if !relay.counted => {
                relay.flush(&self.door).await;
                if !self.count(StatusCode::OK, false).await {
                    // Counted as cut afterwards, if the disk lets it.
                    return Some(Ended::Cut("the call could not be counted".to_owned()));
                }
                relay.counted = true;
            }
            // Some providers send several messages in one stream: each counts.
            Kind::Start if relay.counted => {
                self.meter = api::meter(self.api, self.model.clone());
                self.meter.event(&event);
                self.heard = 0;
                relay.counted = false;
            }
            Kind::Start | Kind::Stop | Kind::Other => {}
        }
        relay.ready.extend_from_slice(&event.raw);
        None
    }
}

/// Feeds what has come already, up to [`BATCH`] bytes: events that go out together cost a
/// fraction of what each costs alone. Waits for nothing. Gives the stream's end, if it was met.
async fn gather(
    provider: &mut reqwest::Response,
    splitter: &mut Splitter,
) -> Option<reqwest::Result<Option<Bytes>>> {
    while splitter.waiting() < BATCH {
        // The connection hands over one piece at a time, when it is its turn.
        tokio::task::yield_now().await;
        match provider.chunk().now_or_never()? {
            Ok(Some(piece)) => splitter.feed(&piece),
            end => return Some(end),
        }
    }
    None
}

/// The usage of a call could not be written: its answer is not given either.
fn uncounted(api: WireApi) -> Response<Body> {
    let what = "the gateway could not count this call";
    let mut response = error(api, Trouble::Gateway, what);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, AWAY_RETRY_AFTER);
    response
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("text/event-stream")
        })
}
