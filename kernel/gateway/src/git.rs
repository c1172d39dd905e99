//! The Git endpoint of a run's door: smart HTTP (protocol version 0) for plain
//! `git` clients, and the rules of a push.
//!
//! A push is spooled, read, unpacked and inspected in a quarantine; then its pack is
//! taken over as it is, and the ref moved. The answer waits until the inbox entry
//! is durable, so what an agent was told is never lost; what a crash left
//! unwritten is found again by [`catch_up`]. (`receive-pack` would do the first half of that
//! again, in six processes more.)

mod body;
mod child;
mod content;
mod inspect;
mod objects;
mod pkt;
mod quarantine;
mod record;
mod refusal;
mod rules;
mod unpacked;
#[cfg(test)]
mod untrusted;

pub(crate) use record::Known;
pub use refusal::PushRefusal;
pub(crate) use rules::ReadRules;

use crate::door::{RunDoor, blocking};
use crate::error::{GatewayError, chain};
use crate::failpoint::Gateway;
use crate::http::{self, Body};
use child::ChildError;
use factory_core::wire::{self, CHECKPOINT_REF};
use factory_ledger::door::Exchange;
use hyper::body::Incoming as Sent;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use inspect::{InspectError, Target};
use pkt::{PushRequest, RefUpdate};
use quarantine::Quarantine;
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most bytes of one push.
pub const MAX_PUSH_BYTES: u64 = 512 << 20;
/// Most bytes of a checkpoint's pack.
pub const MAX_CHECKPOINT_BYTES: u64 = 64 << 20;
/// Most bytes of one round of a fetch's negotiation, decoded.
const MAX_FETCH_BYTES: u64 = 16 << 20;
/// How many fetches of one run are served at the same time; more wait.
const FETCHES_PER_RUN: usize = 4;

/// How many requests of one run may take processes and disk at the same time.
#[derive(Debug)]
pub(crate) struct Turns {
    fetches: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            fetches: Arc::new(Semaphore::new(FETCHES_PER_RUN)),
            uploads: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Why a Git request got no good answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request was refused")]
    Refused(#[source] PushRefusal),
    #[error("nobody waits for the answer any more")]
    Stopped,
    #[error("the request body could not be taken")]
    Body(#[source] body::SpoolError),
    #[error("a git process failed")]
    Child(#[source] ChildError),
    #[error("the gateway's own state could not be used")]
    Gateway(#[source] GatewayError),
    #[error("a file of the request could not be used; is the disk full?")]
    File(#[source] std::io::Error),
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Refused(refusal) => Self::Refused(refusal),
            InspectError::Stopped => Self::Stopped,
            InspectError::Failed(source) => Self::Child(source),
            InspectError::Unread(source) => Self::Gateway(GatewayError::Door { source }),
            InspectError::Worker(source) => Self::Gateway(GatewayError::Worker { source }),
            InspectError::Spool(source) => Self::File(source),
        }
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        match error {
            ChildError::Stopped => Self::Stopped,
            other => Self::Child(other),
        }
    }
}

/// What a request asks for.
enum Ask {
    /// The refs that can be fetched,
    Fetchable,
    /// and those that can be pushed.
    Pushable,
    Fetch,
    Push,
}

/// Answers one request below [`wire::PATH_GIT`] of the run behind `door`.
pub async fn handle(door: &Arc<RunDoor>, request: Request<Sent>) -> Response<Body> {
    let ask = match ask(&request) {
        Ok(ask) => ask,
        Err((status, why)) => return text(status, why),
    };
    let answered = match ask {
        Ask::Fetchable => fetchable(door).await,
        Ask::Pushable => pushable(door).await,
        Ask::Fetch => fetch(door, request).await,
        Ask::Push => push(door, request).await,
    };
    answered.unwrap_or_else(|failure| failed(door, &failure))
}

/// Writes the inbox entry that a crash (or a failing disk) left unwritten: the
/// run's branch or checkpoint is ahead of what the inbox knows. Called when a door opens, and
/// before a push or the run's END, with [`RunDoor::pushes`] held. Blocks.
///
/// # Errors
/// When `door.git` or the inbox cannot be used; nothing is half done then, and
/// the next call tries again.
pub fn catch_up(door: &RunDoor) -> Result<(), GatewayError> {
    record::known_tips(door).map(|_| ())
}

fn ask(request: &Request<Sent>) -> Result<Ask, (StatusCode, String)> {
    let path = request
        .uri()
        .path()
        .strip_prefix(wire::PATH_GIT)
        .unwrap_or_default();
    let wanted = match (path, request.uri().query()) {
        ("/info/refs", Some("service=git-upload-pack")) => Ask::Fetchable,
        ("/info/refs", Some("service=git-receive-pack")) => Ask::Pushable,
        ("/info/refs", _) => {
            return Err((
                StatusCode::FORBIDDEN,
                "only Git's smart HTTP is served here; use a plain git client".to_owned(),
            ));
        }
        ("/git-upload-pack", None) => Ask::Fetch,
        ("/git-receive-pack", None) => Ask::Push,
        _ => {
            return Err((
                StatusCode::NOT_FOUND,
                format!("there is one repository here, at {}", wire::PATH_GIT),
            ));
        }
    };
    let (method, content) = match wanted {
        Ask::Fetchable | Ask::Pushable => (Method::GET, None),
        Ask::Fetch => (Method::POST, Some("application/x-git-upload-pack-request")),
        Ask::Push => (Method::POST, Some("application/x-git-receive-pack-request")),
    };
    if *request.method() != method {
        return Err((StatusCode::METHOD_NOT_ALLOWED, format!("use {method} here")));
    }
    if let Some(content) = content
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_none_or(|given| given != content)
    {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("send Content-Type: {content}"),
        ));
    }
    Ok(wanted)
}

async fn fetchable(door: &Arc<RunDoor>) -> Result<Response<Body>, Failure> {
    let Ok(_turn) = door.git.fetches.acquire().await else {
        return Err(Failure::Stopped);
    };
    let command = serve_command(door, Exchange::Advertise);
    let ended = child::run(command, Stdio::null(), Some(&door.cut_calls)).await?;
    if !ended.status.success() {
        tracing::error!(run = %door.run(), said = ?child::lines(&ended.stderr), "git did not list the run's refs");
        let why = "the door's repository did not answer; try again".to_owned();
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, why));
    }
    let mut answer = Vec::with_capacity(ended.stdout.len() + 64);
    pkt::packet(b"# service=git-upload-pack\n", &mut answer);
    answer.extend_from_slice(b"0000");
    answer.extend_from_slice(&ended.stdout);
    Ok(git_answer(
        "application/x-git-upload-pack-advertisement".to_owned(),
        http::full(answer),
    ))
}

async fn pushable(door: &Arc<RunDoor>) -> Result<Response<Body>, Failure> {
    let Some(branch) = door.grant().branch.as_deref().map(inspect::branch_ref) else {
        return Err(Failure::Refused(PushRefusal::NoBranch));
    };
    // Waited for before anything is held that the run's END waits for.
    let Ok(_turn) = door.git.fetches.acquire().await else {
        return Err(Failure::Stopped);
    };
    let work = Arc::clone(door);
    let answer = tracked(door, async move {
        let _one = work.pushes.lock().await;
        if !work.is_open() {
            return Err(Failure::Refused(PushRefusal::Ended));
        }
        // Here git shows what the answer says; of a pack it would not be told why.
        if work.stores().places.lacks_room(0) {
            return Err(Failure::Refused(PushRefusal::NoRoom));
        }
        let known = Arc::clone(&work);
        blocking(move || {
            // A client that finds nothing to push stops after this answer
            // and tells its agent "Everything up-to-date": so what the
            // answer shows is in the inbox first.
            let tips = record::known_tips(&known)?;
            let shared = known.stores().door.shared();
            let shared = shared.map_err(|source| GatewayError::Door { source })?;
            let own = [
                (branch.as_str(), tips.branch.as_ref()),
                (CHECKPOINT_REF, tips.checkpoint.as_ref()),
            ];
            let own: Vec<_> = own
                .into_iter()
                .filter_map(|(name, tip)| Some((name, tip?)))
                .collect();
            Ok(pkt::advertisement(&own, &shared))
        })
        .await
        .map_err(Failure::Gateway)
    });
    Ok(git_answer(
        "application/x-git-receive-pack-advertisement".to_owned(),
        http::full(answer.await?),
    ))
}

async fn fetch(door: &Arc<RunDoor>, request: Request<Sent>) -> Result<Response<Body>, Failure> {
    let Ok(turn) = Arc::clone(&door.git.fetches).acquire_owned().await else {
        return Err(Failure::Stopped);
    };
    let mut spool = spool(door, request, MAX_FETCH_BYTES).await?;
    if spool.over {
        return Ok(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "this negotiation is too long; clone afresh".to_owned(),
        ));
    }
    spool.file.seek(SeekFrom::Start(0)).map_err(Failure::File)?;
    let command = serve_command(door, Exchange::Request);
    let mut command = tokio::process::Command::from(command);
    // What a client may know of an error is in the answer itself.
    command
        .stdin(Stdio::from(spool.file))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| {
        Failure::Child(ChildError::Start {
            program: "git".to_owned(),
            source,
        })
    })?;
    let Some(output) = child.stdout.take() else {
        return Err(Failure::Stopped);
    };
    Ok(git_answer(
        "application/x-git-upload-pack-result".to_owned(),
        body::stream(child, output, turn),
    ))
}

async fn push(door: &Arc<RunDoor>, request: Request<Sent>) -> Result<Response<Body>, Failure> {
    let Ok(_turn) = door.git.uploads.acquire().await else {
        return Err(Failure::Stopped);
    };
    let mut spool = spool(door, request, MAX_PUSH_BYTES).await?;
    let (push, spool) = tokio::task::spawn_blocking(move || {
        pkt::read_request(&mut spool.file).map(|push| (push, spool))
    })
    .await
    .map_err(|source| Failure::Gateway(GatewayError::Worker { source }))?
    .map_err(Failure::File)?;
    if push.commands.is_empty() && push.problem.is_none() {
        // git asks with a lone flush whether a large push may come.
        return Ok(push_answer(Vec::new()));
    }
    let push = Arc::new(push);
    let length = spool.file.metadata().map_err(Failure::File)?.len();
    // Stopped with the run's other calls at its end, and when the client goes away.
    let stop = door.cut_calls.child_token();
    let _stop_with_client = stop.clone().drop_guard();
    let accepted = tracked(
        door,
        accept(Arc::clone(door), Arc::clone(&push), spool, stop),
    )
    .await;
    let accepted = accepted.map_err(|failure| match failure {
        Failure::Stopped if !door.is_open() => Failure::Refused(PushRefusal::Ended),
        // git says in words only that it could not write.
        Failure::Child(_)
        | Failure::Gateway(_)
        | Failure::File(_)
        | Failure::Refused(PushRefusal::Fsck { .. } | PushRefusal::Unreadable { .. })
            if door.stores().places.lacks_room(length) =>
        {
            tracing::error!(run = %door.run(), error = chain(&failure), "no room for a push");
            Failure::Refused(PushRefusal::NoRoom)
        }
        other => other,
    });
    let (reason, explanation, status) = match &accepted {
        Ok(_) => return accepted.map(push_answer),
        Err(Failure::Refused(refusal)) => {
            tracing::info!(run = %door.run(), %refusal, "a push was refused");
            (
                refusal.reason(),
                pkt::explanation(&push, refusal),
                StatusCode::BAD_REQUEST,
            )
        }
        Err(failure) => {
            tracing::error!(run = %door.run(), error = chain(failure), "a push was not taken");
            let explanation = "factory could not take this push; it is not the commits' fault.\n  do:   push again\n";
            (
                "internal error",
                explanation.to_owned(),
                StatusCode::SERVICE_UNAVAILABLE,
            )
        }
    };
    Ok(match pkt::refusal(&push, reason, &explanation) {
        Some(answer) => push_answer(answer),
        None => text(status, explanation),
    })
}

/// Inspects a spooled push and carries it out. Runs to its end once
/// it is judged, whoever waits for it.
async fn accept(
    door: Arc<RunDoor>,
    push: Arc<PushRequest>,
    spool: body::Spool,
    stop: CancellationToken,
) -> Result<Vec<u8>, Failure> {
    let _one = door.pushes.lock().await;
    if !door.is_open() {
        return Err(Failure::Refused(PushRefusal::Ended));
    }
    let work = Arc::clone(&door);
    let before = blocking(move || record::known_tips(&work))
        .await
        .map_err(Failure::Gateway)?;
    let grant = door.grant();
    if inspect::is_repeated(&grant, &push, &before) {
        return Ok(pkt::acceptance(&push, "").unwrap_or_default());
    }
    let judged = inspect::judge_commands(&grant, &push, &before).map_err(Failure::Refused)?;
    let (limit, unrecorded) = match judged.target {
        Target::Branch { .. } => (MAX_PUSH_BYTES, "gateway-push-unrecorded"),
        Target::Checkpoint => (MAX_CHECKPOINT_BYTES, "gateway-checkpoint-unrecorded"),
    };
    let length = spool.file.metadata().map_err(Failure::File)?.len();
    if spool.over || length.saturating_sub(judged.pack.offset) > limit {
        return Err(Failure::Refused(PushRefusal::TooLarge { limit }));
    }
    let quarantine = Quarantine::create(
        &push_folder(&door),
        door.run(),
        &door.stores().places.door_git(),
    );
    let quarantine = Arc::new(quarantine.map_err(Failure::File)?);
    let pack = judged.pack;
    let (file, token) = (spool.file.try_clone().map_err(Failure::File)?, stop.clone());
    let measured = move || unpacked::measure(file, pack, &|| token.is_cancelled());
    let measured = tokio::task::spawn_blocking(measured).await;
    let unpacked =
        measured.map_err(|source| Failure::Gateway(GatewayError::Worker { source }))??;
    inspect::index(&quarantine, &spool.file, pack, &stop).await?;
    let update = judged.update.clone();
    let brought = objects::Push {
        door: Arc::clone(&door),
        target: judged.target.clone(),
        new: update.new.clone(),
        tips: before.clone(),
        bases: unpacked.bases,
        quarantine: Arc::clone(&quarantine),
    };
    let (incoming, told) = objects::judge(brought, &stop).await?;
    if stop.is_cancelled() {
        return Err(Failure::Stopped);
    }
    let work = Arc::clone(&door);
    // From here on it runs to its end, and so does what it holds on to.
    tokio::task::spawn_blocking(move || {
        let (stores, run) = (work.stores(), work.run());
        let door = |source| Failure::Gateway(GatewayError::Door { source });
        Gateway.before("receive");
        let settled = incoming.settle();
        drop(quarantine);
        let RefUpdate { old, new, name } = &update;
        let moved = settled.and_then(|()| stores.door.move_ref(run, name, old, new));
        // Here the ref may have moved and the inbox does not know it yet: what a
        // crash leaves at this point is written by the next `catch_up`.
        Gateway.at(unrecorded);
        record::known_tips(&work).map_err(Failure::Gateway)?;
        moved.map_err(door)
    })
    .await
    .map_err(|source| Failure::Gateway(GatewayError::Worker { source }))??;
    Ok(pkt::acceptance(&push, &told).unwrap_or_default())
}

/// Runs `work` to its end, even when the client goes away meanwhile; the run's
/// END waits for it.
async fn tracked<T: Send + 'static>(
    door: &RunDoor,
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    door.calls
        .spawn(work)
        .await
        .map_err(|source| Failure::Gateway(GatewayError::Worker { source }))?
}

fn push_folder(door: &RunDoor) -> PathBuf {
    door.stores().places.cache().join("push")
}

async fn spool(door: &RunDoor, request: Request<Sent>, limit: u64) -> Result<body::Spool, Failure> {
    let gzip = is_gzip(request.headers());
    body::spool(request.into_body(), gzip, limit, &push_folder(door))
        .await
        .map_err(Failure::Body)
}

fn is_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| encoding == "gzip" || encoding == "x-gzip")
}

fn serve_command(door: &RunDoor, exchange: Exchange) -> Command {
    door.stores().door.serve_command(door.run(), exchange)
}

fn push_answer(answer: Vec<u8>) -> Response<Body> {
    git_answer(
        "application/x-git-receive-pack-result".to_owned(),
        http::full(answer),
    )
}

fn git_answer(content_type: String, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Ok(value) = header::HeaderValue::from_str(&content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    never_cached(headers);
    response
}

/// An answer that git shows as `remote: …`.
fn text(status: StatusCode, why: String) -> Response<Body> {
    let mut response = Response::new(http::full(why + "\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    never_cached(headers);
    response
}

fn never_cached(headers: &mut HeaderMap) {
    let always = [
        (
            header::CACHE_CONTROL,
            "no-cache, max-age=0, must-revalidate",
        ),
        (header::PRAGMA, "no-cache"),
        (header::EXPIRES, "Fri, 01 Jan 1980 00:00:00 GMT"),
    ];
    for (name, value) in always {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
}

fn failed(door: &RunDoor, failure: &Failure) -> Response<Body> {
    let (status, why) = match failure {
        Failure::Refused(refusal @ PushRefusal::NoRoom) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{refusal}; {}", refusal.advice()),
        ),
        Failure::Refused(refusal) => (
            StatusCode::FORBIDDEN,
            format!("{refusal}; {}", refusal.advice()),
        ),
        Failure::Body(body::SpoolError::Endless) => (StatusCode::PAYLOAD_TOO_LARGE, chain(failure)),
        Failure::Body(body::SpoolError::NotGzip(_) | body::SpoolError::Broken(_)) => {
            (StatusCode::BAD_REQUEST, chain(failure))
        }
        Failure::Stopped
        | Failure::Body(body::SpoolError::Disk(_))
        | Failure::Child(_)
        | Failure::Gateway(_)
        | Failure::File(_) => {
            tracing::error!(run = %door.run(), error = chain(failure), "a Git request failed");
            let why = match door.stores().places.lacks_room(0) {
                true => format!("{}; {}", PushRefusal::NoRoom, PushRefusal::NoRoom.advice()),
                false => "the factory could not answer this; try again".to_owned(),
            };
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
    };
    text(status, why)
}
