//! Calls over a unix socket: what kernel, gateway and commands say to each other.

use crate::error::chain;
use bytes::Bytes;
use factory_core::wire::{self, GatewayStatus};
use factory_ledger::{places::Places, sockets::SocketDir};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// Control socket of the gateway: POST makes it stop listening, finish what is
/// under way and end; a newer gateway takes over. 200 with [`GatewayStatus`].
pub const PATH_RETIRE: &str = "/factory/v1/retire";
/// Control socket of the gateway: POST makes it end now, in order. 204.
pub const PATH_STOP: &str = "/factory/v1/stop";
/// Header in which a caller names its [`wire::PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "factory-protocol";

/// Most bytes of an answer.
const ANSWER_LIMIT: usize = 4 << 20;
/// Opening a door takes a few git processes; a wake opens all that are new.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Why a call over a socket had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens: the process is not there (yet).
    #[error("nobody answers on {socket}; is `factory start` running?", socket = socket.display())]
    Away {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke, or no answer came in time.
    #[error("{socket} gave no answer; look into its process's log", socket = socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered that it could not.
    #[error("{socket} answered {status}: {text}", socket = socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// Tells the gateway that the state moved; it opens and closes doors before it answers.
pub async fn wake(places: &Places) -> Result<GatewayStatus, CallError> {
    status(places, Method::POST, wire::PATH_WAKE).await
}

/// Asks the gateway what it serves.
pub async fn hello(places: &Places) -> Result<GatewayStatus, CallError> {
    status(places, Method::GET, wire::PATH_HELLO).await
}

/// Makes the gateway give way to a newer one; its lock is free when this returns.
pub async fn retire(places: &Places) -> Result<GatewayStatus, CallError> {
    status(places, Method::POST, PATH_RETIRE).await
}

/// Makes the gateway end in order.
pub async fn stop(places: &Places) -> Result<(), CallError> {
    call(&places.gateway_sock(), Method::POST, PATH_STOP)
        .await
        .map(drop)
}

async fn status(places: &Places, method: Method, path: &str) -> Result<GatewayStatus, CallError> {
    let socket = places.gateway_sock();
    let text = call(&socket, method, path).await?;
    serde_json::from_slice(&text).map_err(|source| CallError::Broken {
        socket,
        source: source.into(),
    })
}

/// One call without a body to `socket`; the body of a good answer.
pub async fn call(socket: &Path, method: Method, path: &str) -> Result<Bytes, CallError> {
    let away = |source| CallError::Away {
        socket: socket.to_owned(),
        source,
    };
    let broken = |source| CallError::Broken {
        socket: socket.to_owned(),
        source,
    };
    let stream = connect(socket).await.map_err(away)?;
    let asked = tokio::time::timeout(ANSWER_WAIT, ask(stream, method, path)).await;
    let (status, text) = asked.map_err(|late| broken(late.into()))?.map_err(broken)?;
    if status.is_success() {
        Ok(text)
    } else {
        let text = String::from_utf8_lossy(&text).into_owned();
        Err(CallError::Refused {
            socket: socket.to_owned(),
            status: status.as_u16(),
            text,
        })
    }
}

/// Connects to a socket, however long its path is.
pub async fn connect(
    socket: &Path,
) -> Result<UnixStream, Box<dyn std::error::Error + Send + Sync>> {
    let (Some(folder), Some(name)) = (
        socket.parent(),
        socket.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err("this is no path of a socket".into());
    };
    let folder = SocketDir::open(folder)?;
    Ok(UnixStream::connect(folder.address(name)).await?)
}

async fn ask(
    stream: UnixStream,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "factory")
        .header(PROTOCOL_HEADER, wire::PROTOCOL)
        .body(Full::<Bytes>::default())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(error = chain(&error), "a connection between processes broke");
            }
            // What had arrived before the connection ended is still to be had.
            exchange.await
        }
    }
}
