//! `kernel.sock`: wakes the kernel, and tells commands when the state moved.

use crate::failure::{Class, Failure};
use factory_core::wire::PATH_WAKE;
use factory_gateway::http::{Body, empty, full};
use factory_ledger::{places::Places, sockets::SocketDir};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// GET with `?after=<oid>`: answers with the state's head once it is another one.
pub const PATH_CHANGES: &str = "/factory/v1/changes";
/// POST: begin no new work and end when what runs has ended.
pub const PATH_DRAIN: &str = "/factory/v1/drain";
/// POST: end the agents as well; what they have so far is kept.
pub const PATH_STOP: &str = "/factory/v1/stop";

/// GET: what is held up and why, a JSON list of lines.
pub const PATH_HELD_UP: &str = "/factory/v1/held-up";

/// What reaches the kernel over its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Something moved: look.
    Look,
    /// Begin no new work.
    Drain,
    /// End the agents as well.
    Stop,
}

/// The kernel's socket. Nothing durable passes through it.
pub struct Server {
    listener: UnixListener,
    connections: JoinSet<()>,
    wakes: mpsc::Sender<Call>,
    head: watch::Receiver<String>,
    held_up: watch::Receiver<String>,
    path: PathBuf,
    _dir: SocketDir,
}

/// Who connects later is told at once that nobody listens.
impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the kernel's socket was gone already");
        }
    }
}

impl Server {
    /// Binds the socket; the kernel's lock is held, so what is there is left over.
    pub fn bind(
        places: &Places,
        wakes: mpsc::Sender<Call>,
        head: watch::Receiver<String>,
        held_up: watch::Receiver<String>,
    ) -> Result<Self, Failure> {
        let path = places.kernel_sock();
        let (dir, name) = split(&path)?;
        let dir = SocketDir::open(dir)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let listener = UnixListener::bind(dir.address(name))?;
        Ok(Self {
            listener,
            connections: JoinSet::new(),
            wakes,
            head,
            held_up,
            path,
            _dir: dir,
        })
    }

    /// Serves until something breaks; that is its only return.
    pub async fn run(&mut self) -> Failure {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (wakes, head) = (self.wakes.clone(), self.head.clone());
                        let held_up = self.held_up.clone();
                        self.connections.spawn(serve(stream, wakes, head, held_up));
                    }
                    Err(error) => return Failure::of(Class::Internal, error),
                },
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => {}
            }
        }
    }
}

fn split(path: &Path) -> Result<(&Path, &str), Failure> {
    path.parent()
        .zip(path.file_name().and_then(|name| name.to_str()))
        .ok_or_else(|| {
            Failure::new(
                Class::Internal,
                format!("{} is no socket path", path.display()),
            )
        })
}

async fn serve(
    stream: UnixStream,
    wakes: mpsc::Sender<Call>,
    head: watch::Receiver<String>,
    held_up: watch::Receiver<String>,
) {
    let service =
        service_fn(move |request| answer(request, wakes.clone(), head.clone(), held_up.clone()));
    if let Err(error) = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(%error, "a connection to the kernel's socket broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    wakes: mpsc::Sender<Call>,
    mut head: watch::Receiver<String>,
    held_up: watch::Receiver<String>,
) -> Result<Response<Body>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        // A look that is already waiting is as good as two.
        (&Method::POST, PATH_WAKE) => match wakes.try_send(Call::Look) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => empty(StatusCode::NO_CONTENT),
            Err(mpsc::error::TrySendError::Closed(_)) => empty(StatusCode::SERVICE_UNAVAILABLE),
        },
        (&Method::POST, PATH_DRAIN) => ordered(&wakes, Call::Drain).await,
        (&Method::POST, PATH_STOP) => ordered(&wakes, Call::Stop).await,
        (&Method::GET, PATH_HELD_UP) => Response::new(full(held_up.borrow().clone())),
        (&Method::GET, PATH_CHANGES) => {
            let after = request
                .uri()
                .query()
                .and_then(|q| q.strip_prefix("after="))
                .unwrap_or_default()
                .to_owned();
            match head.wait_for(|head| *head != after).await {
                Ok(head) => Response::new(full(head.clone())),
                Err(_) => empty(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
        _ => empty(StatusCode::NOT_FOUND),
    })
}

/// An order must not be dropped: it waits for its turn.
async fn ordered(wakes: &mpsc::Sender<Call>, call: Call) -> Response<Body> {
    match wakes.send(call).await {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(_) => empty(StatusCode::SERVICE_UNAVAILABLE),
    }
}
