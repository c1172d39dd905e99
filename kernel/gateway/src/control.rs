//! The gateway's own socket: kernel and commands wake it, a newer gateway
//! makes it give way.

use crate::{
    client::{self, PATH_RETIRE, PATH_STOP, PROTOCOL_HEADER},
    error::{GatewayError, chain},
    http::{self, Body},
    server::Gateway,
    stores::Clock,
};
use factory_core::wire;
use factory_ledger::{
    lock::{KernelLock, LockError},
    places::Places,
};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How often an older gateway is asked to give way: another new one may be faster.
const TRIES: usize = 3;
/// Time that an older gateway has to give way, or to get ready to be asked.
const GIVE_WAY_WAIT: Duration = Duration::from_secs(20);

/// Answers kernel, commands and newer gateways. Who may connect is decided by
/// the socket's mode: this user only.
pub(crate) async fn handle(gateway: Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    let named = request
        .headers()
        .get(PROTOCOL_HEADER)
        .and_then(|value| value.to_str().ok());
    let protocol = named
        .and_then(|text| text.parse().ok())
        .unwrap_or(wire::PROTOCOL);
    match (request.method(), request.uri().path()) {
        (&Method::POST, wire::PATH_WAKE) => match gateway.refresh(protocol).await {
            Ok(status) => http::json(StatusCode::OK, &status),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the grants could not be read");
                http::refuse(StatusCode::SERVICE_UNAVAILABLE, error)
            }
        },
        (&Method::GET, wire::PATH_HELLO) => http::json(StatusCode::OK, &gateway.status().await),
        (&Method::POST, PATH_RETIRE) => http::json(StatusCode::OK, &gateway.retire(protocol).await),
        (&Method::POST, PATH_STOP) => {
            gateway.end.cancel();
            http::empty(StatusCode::NO_CONTENT)
        }
        (method, path) => http::refuse(
            StatusCode::NOT_FOUND,
            format!("the gateway has no `{method} {path}`"),
        ),
    }
}

/// Takes the gateway's lock; whoever holds it is asked to give way.
pub(crate) async fn take_lock(places: &Places, clock: &Clock) -> Result<KernelLock, GatewayError> {
    let path = places.gateway_lock();
    for _ in 0..TRIES {
        match KernelLock::acquire(&path, std::process::id(), clock()) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Busy { .. }) => {}
            Err(source) => return Err(GatewayError::Lock { source }),
        }
        match client::retire(places).await {
            Ok(_) => {}
            // It is just starting, or just ending: either way the lock says when.
            Err(error) => {
                tracing::info!(
                    error = chain(&error),
                    "the older gateway was not told to give way"
                );
                let released = tokio::time::timeout(GIVE_WAY_WAIT, released(path.clone())).await;
                if released.is_err() {
                    tracing::warn!("the older gateway keeps its lock");
                }
            }
        }
    }
    Err(GatewayError::Busy { lock: path })
}

/// Returns when the lock at `path` was free for a moment.
async fn released(path: PathBuf) {
    let (free, freed) = oneshot::channel();
    // A thread of its own and not one of the runtime's: it ends with the
    // process, even while it waits for a lock that is never free.
    std::thread::spawn(move || {
        let waited = File::open(&path).and_then(|file| file.lock());
        if free.send(waited.is_ok()).is_err() {
            tracing::debug!("the lock came free too late");
        }
    });
    if !freed.await.unwrap_or(false) {
        tracing::warn!("the gateway's lock could not be waited for");
    }
}
