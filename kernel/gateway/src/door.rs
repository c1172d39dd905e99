//! One run's door: what its grant allows, request by request.

use crate::{
    error::GatewayError,
    failpoint, git,
    http::{self, Body},
    keys::Keys,
    models,
    spending::Spending,
    stores::Stores,
};
use bytes::Bytes;
use factory_core::{
    grant::{Grant, Provider},
    ids::{Oid, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    report,
    wire::{self, Hello},
};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most bytes of a report that are read.
const REPORT_LIMIT: usize = 64 << 10;
/// Most reports of one run that are taken; the last one counts.
const REPORTS: usize = 32;
/// Most bytes of an END that are read; its texts are bounded further.
const END_LIMIT: usize = 256 << 10;
/// Most bytes that are kept of why something failed.
const PROBLEM_LIMIT: usize = 8 << 10;

/// One run's door. Shared by all connections of the run.
pub struct RunDoor {
    run: RunId,
    grant: RwLock<Arc<Grant>>,
    stores: Arc<Stores>,
    /// Held by whoever moves the run's refs or writes about it: one push at a
    /// time, and none beside the run's END.
    pub pushes: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    ending: AtomicBool,
    ended: AtomicBool,
    /// Reports that were taken.
    reports: AtomicUsize,
    /// Held by whoever reads a report: it is searched for secrets, one at a time, beside the
    /// connections of others.
    reading: tokio::sync::Mutex<()>,
    /// What the run's model calls may have in memory.
    pub(crate) bodies: models::Bodies,
    pub(crate) git: git::Turns,
    pub(crate) known: Mutex<git::Known>,
    pub(crate) calls: TaskTracker,
    pub(crate) cut_calls: CancellationToken,
    /// Providers whose account has nothing left to pay with, and what they said. The
    /// run does not ask them again.
    exhausted: Mutex<Vec<(Provider, String)>>,
    pub(crate) spending: Arc<Spending>,
    /// The newest call, where the provider was away; nothing was used, so it is not counted
    /// before it is known to be the last.
    pub(crate) away: Mutex<Option<Usage>>,
}

impl RunDoor {
    /// Opens the door of a granted run: its refs in `door.git`, its inbox, and
    /// the entries that a crash left unwritten. Blocks on Git.
    pub fn open(stores: Arc<Stores>, grant: Grant) -> Result<Arc<Self>, GatewayError> {
        let run = grant.run;
        failpoint::step("open-run", || {
            stores.door.open_run(
                run,
                &grant.start,
                grant.resume.as_ref(),
                grant.branch.as_deref(),
            )
        })
        .map_err(|source| GatewayError::Door { source })?;
        let entries = stores
            .inbox
            .read_after(run, None)
            .map_err(|source| GatewayError::Inbox { source })?;
        let ended = entries
            .iter()
            .any(|(_, entry)| matches!(entry, InboxEntry::End(_)));
        let reports = entries
            .iter()
            .filter(|(_, entry)| matches!(entry, InboxEntry::Report { .. }))
            .count();
        let spending = Arc::new(Spending::of(grant.models.as_ref(), &entries));
        let door = Self {
            run,
            spending,
            away: Mutex::default(),
            grant: RwLock::new(Arc::new(grant)),
            stores,
            pushes: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            ending: AtomicBool::new(ended),
            ended: AtomicBool::new(ended),
            reports: AtomicUsize::new(reports),
            reading: tokio::sync::Mutex::default(),
            bodies: models::Bodies::default(),
            git: git::Turns::default(),
            known: Mutex::default(),
            calls: TaskTracker::new(),
            cut_calls: CancellationToken::new(),
            exhausted: Mutex::default(),
        };
        if !ended {
            git::catch_up(&door)?;
        }
        Ok(Arc::new(door))
    }

    /// The run behind this door.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// What the run may do.
    pub fn grant(&self) -> Arc<Grant> {
        Arc::clone(&self.grant.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over a grant that was written again, as a new kernel does with its epoch.
    pub(crate) fn regrant(&self, grant: Grant) {
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grant);
    }

    /// What all doors share.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// Whether anything is still accepted: the grant is live and no END was told.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && !self.ending.load(Ordering::Acquire)
    }

    /// The grant is gone: every later request is refused.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the run's END is durable.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What a provider said that has nothing left to pay with.
    pub(crate) fn exhausted(&self, provider: &Provider) -> Option<String> {
        let all = self
            .exhausted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all = all.iter();
        all.find_map(|(one, said)| (one == provider).then(|| said.clone()))
    }

    /// Remembers that a provider has nothing left to pay with.
    pub(crate) fn exhaust(&self, provider: &Provider, said: &str) {
        let said = self.stores.keys.redact(said);
        tracing::info!(run = %self.run, base_url = provider.base_url, said, "a provider has no credit left");
        self.exhausted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((provider.clone(), said));
    }

    /// Writes to the run's inbox (durable when this returns) and wakes the kernel.
    pub async fn append(&self, entry: InboxEntry) -> Result<Oid, GatewayError> {
        let (stores, run) = (Arc::clone(&self.stores), self.run);
        blocking(move || stores.append(run, &entry)).await
    }
}

/// Runs what blocks on disk or Git beside the connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GatewayError> + Send + 'static,
) -> Result<T, GatewayError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| GatewayError::Worker { source })?
}

/// Answers one request of the run behind `door`.
pub async fn handle(door: Arc<RunDoor>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    if method == Method::POST && path == wire::PATH_END {
        return end(door, request).await;
    }
    if !door.is_open() {
        let why = format!(
            "run {} is over: nothing is accepted from it any more. End the agent.",
            door.run
        );
        http::drain(request).await;
        return if models::is_model_path(&path) {
            models::refused_at(&path, &why)
        } else {
            http::refuse(StatusCode::FORBIDDEN, why)
        };
    }
    match (method, path.as_str()) {
        (Method::GET, wire::PATH_HELLO) => http::json(
            StatusCode::OK,
            &Hello {
                protocol: wire::PROTOCOL,
                run: door.run,
            },
        ),
        (Method::POST, wire::PATH_EVENTS) => events(&door, request).await,
        (Method::POST, wire::PATH_REPORT) => report(&door, request).await,
        (_, path)
            if path
                .strip_prefix(wire::PATH_GIT)
                .is_some_and(|rest| rest.starts_with('/')) =>
        {
            git::handle(&door, request).await
        }
        (method, path) if models::is_model_path(path) => {
            models::handle(door, &method, request).await
        }
        (method, path) => {
            http::drain(request).await;
            let why = format!(
                "this door has no `{method} {path}`: it serves {}, models and the factory's own calls",
                wire::PATH_GIT
            );
            http::refuse(StatusCode::NOT_FOUND, why)
        }
    }
}

async fn events(door: &Arc<RunDoor>, request: Request<Incoming>) -> Response<Body> {
    let mut writer = door.stores.transcripts.lines(door.run);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        if let Ok(bytes) = frame.into_data() {
            writer.feed(&bytes, (door.stores.clock)(), &door.stores.keys);
        }
    }
    writer.finish((door.stores.clock)(), &door.stores.keys);
    http::empty(StatusCode::NO_CONTENT)
}

async fn report(door: &Arc<RunDoor>, request: Request<Incoming>) -> Response<Body> {
    let bytes = match collect(request, REPORT_LIMIT).await {
        Ok(bytes) => bytes,
        Err(refusal) => return *refusal,
    };
    let role = door.grant().role;
    let read = {
        let _one = door.reading.lock().await;
        blocking(move || Ok(report::validate(role, &bytes))).await
    };
    let json = match read {
        Ok(Ok(json)) => json,
        Ok(Err(problem)) => {
            return http::refuse(StatusCode::UNPROCESSABLE_ENTITY, problem.to_string());
        }
        Err(error) => return not_durable(door, &error),
    };
    // The run's END waits for this report, or comes before it.
    let _under_way = door.calls.token();
    if !door.is_open() {
        return http::refuse(StatusCode::FORBIDDEN, format!("run {} is over", door.run));
    }
    if door.reports.fetch_add(1, Ordering::AcqRel) >= REPORTS {
        door.reports.fetch_sub(1, Ordering::AcqRel);
        let why = format!(
            "run {} handed in {REPORTS} reports already, and the last of them counts; end the agent",
            door.run
        );
        return http::refuse(StatusCode::TOO_MANY_REQUESTS, why);
    }
    let json = door.stores.keys.redact(&json);
    let written = door.append(InboxEntry::Report { json }).await;
    if written.is_err() {
        door.reports.fetch_sub(1, Ordering::AcqRel);
    }
    answer_when_durable(door, written)
}

async fn end(door: Arc<RunDoor>, request: Request<Incoming>) -> Response<Body> {
    let body = collect(request, END_LIMIT).await;
    if door.has_ended() {
        return http::empty(StatusCode::NO_CONTENT);
    }
    if door.closed.load(Ordering::Acquire) {
        let why = format!("run {} has no live grant", door.run);
        return http::refuse(StatusCode::FORBIDDEN, why);
    }
    let bytes = match body {
        Ok(bytes) => bytes,
        Err(refusal) => return *refusal,
    };
    let end = match serde_json::from_slice::<RunEnd>(&bytes) {
        Ok(end) => bounded(end, &door.stores.keys),
        Err(error) => {
            return http::refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("this is no end of a run: {error}"),
            );
        }
    };
    door.ending.store(true, Ordering::Release);
    // What the run still does is over: its calls are counted before its END,
    // and a push that was accepted is written before it.
    door.cut_calls.cancel();
    door.calls.close();
    door.calls.wait().await;
    let _pushes = door.pushes.lock().await;
    if door.has_ended() {
        return http::empty(StatusCode::NO_CONTENT);
    }
    let work = Arc::clone(&door);
    let written = blocking(move || {
        git::catch_up(&work)?;
        let archived = failpoint::step("transcript", || {
            work.stores.transcripts.commit(&work.stores, work.run)
        });
        if let Err(error) = archived {
            // The transcript is for people; the run's outcome does not wait for it.
            tracing::warn!(run = %work.run, error = crate::error::chain(&error), "the transcript was not archived");
        }
        let away = work.away.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(usage) = away {
            work.stores.write(work.run, &InboxEntry::Usage(usage))?;
        }
        let oid = work.stores.write(work.run, &InboxEntry::End(end))?;
        // Before the bell: who hears it may ask whether this was the last run.
        work.ended.store(true, Ordering::Release);
        work.stores.bell.notify_one();
        Ok(oid)
    })
    .await;
    answer_when_durable(&door, written)
}

/// 204 once an entry is durable; otherwise the caller repeats its request.
fn answer_when_durable(door: &RunDoor, written: Result<Oid, GatewayError>) -> Response<Body> {
    match written {
        Ok(_) => http::empty(StatusCode::NO_CONTENT),
        Err(error) => not_durable(door, &error),
    }
}

fn not_durable(door: &RunDoor, error: &GatewayError) -> Response<Body> {
    let error = crate::error::chain(error);
    tracing::error!(run = %door.run, error, "an inbox entry was not written");
    http::refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "the gateway could not make this durable; repeat the call",
    )
}

/// The whole body, or the answer that refuses it.
async fn collect(request: Request<Incoming>, limit: usize) -> Result<Bytes, Box<Response<Body>>> {
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Box::new(http::refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("at most {} KiB are read here; send less", limit >> 10),
            )))
        }
        Err(error) => Err(Box::new(http::refuse(
            StatusCode::BAD_REQUEST,
            format!("the body broke off: {error}"),
        ))),
    }
}

/// The END with every text redacted and cut to the length that `core` states for it.
fn bounded(end: RunEnd, keys: &Keys) -> RunEnd {
    let text = |text: String, limit: usize| tail(keys.redact(&text), limit);
    let problem = |problem: Option<String>| problem.map(|problem| text(problem, PROBLEM_LIMIT));
    RunEnd {
        exit: match end.exit {
            EngineExit::NotStarted(why) => EngineExit::NotStarted(text(why, PROBLEM_LIMIT)),
            EngineExit::NoWorkspace(why) => EngineExit::NoWorkspace(text(why, PROBLEM_LIMIT)),
            exit @ (EngineExit::Code(_)
            | EngineExit::Signal(_)
            | EngineExit::Deadline
            | EngineExit::Stalled
            | EngineExit::OutOfDisk
            | EngineExit::Stopped) => exit,
        },
        last_output: text(end.last_output, 64 << 10),
        stderr_tail: text(end.stderr_tail, 4 << 10),
        report_problem: problem(end.report_problem),
        push_problem: problem(end.push_problem),
    }
}

/// The last `limit` bytes of `text`, from a character's start.
fn tail(text: String, limit: usize) -> String {
    let mut from = text.len().saturating_sub(limit);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    if from == 0 {
        text
    } else {
        text[from..].to_owned()
    }
}
