//! Sockets: made so that nobody meets a half-made one, given up so that nobody
//! who had connected is turned away.

use crate::{error::GatewayError, http::Body};
use factory_ledger::sockets::SocketDir;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time that a connection has for its first request when the door closes: an
/// engine takes a connection that is closed at once for a broken provider.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(5);
/// Most connections of a socket that are served at the same time: no engine opens as many,
/// and a run that does waits for one of its own to end, to nobody else's harm.
pub(crate) const MOST_CONNECTIONS: usize = 64;
/// Pause after a connection could not be taken, as when no file handle is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
pub(crate) struct Socket {
    folder: SocketDir,
    name: String,
    listener: UnixListener,
}

impl Socket {
    /// Binds `path` with `mode`, in place of whatever is there.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, GatewayError> {
        Self::try_bind(path, mode).map_err(|source| GatewayError::Socket {
            path: path.to_owned(),
            source,
        })
    }

    fn try_bind(path: &Path, mode: u32) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (Some(folder), Some(name)) = (
            path.parent(),
            path.file_name().and_then(|name| name.to_str()),
        ) else {
            return Err("this is no path of a socket".into());
        };
        let folder = SocketDir::open(folder)?;
        let new = folder.address(&format!(".{name}.new"));
        absent(std::fs::remove_file(&new))?;
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(mode))?;
        std::fs::rename(&new, folder.address(name))?;
        Ok(Self {
            folder,
            name: name.to_owned(),
            listener,
        })
    }

    /// Removes the socket's name, then takes those who had connected by it, as many as are served.
    fn give_up(self) -> io::Result<Vec<UnixStream>> {
        absent(std::fs::remove_file(self.folder.address(&self.name)))?;
        let listener = self.listener.into_std()?;
        let mut waiting = Vec::new();
        while waiting.len() < MOST_CONNECTIONS {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    waiting.push(UnixStream::from_std(stream)?);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(waiting),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(waiting)
    }
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How the connections of a socket end.
#[derive(Clone)]
pub(crate) struct Ends {
    /// Time that each has for the header of a request.
    pub(crate) request_wait: Duration,
    /// Take no new connection; each open one ends after its present request.
    pub(crate) drain: CancellationToken,
    /// End every connection now.
    pub(crate) abort: CancellationToken,
    /// The connections.
    pub(crate) connections: TaskTracker,
}

impl Ends {
    /// Nothing ends yet.
    pub(crate) fn new(request_wait: Duration) -> Self {
        Self {
            request_wait,
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
        }
    }
}

/// Serves `socket` until it is drained, [`MOST_CONNECTIONS`] at a time; its name is gone and
/// all who had connected are being served when this returns.
pub(crate) async fn serve<F, A>(socket: Socket, ends: Ends, handler: F)
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = async {
            // Whoever connects meanwhile waits in the socket's queue, and costs no file handle.
            let turn = Arc::clone(&room).acquire_owned().await;
            (turn, socket.listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = ends.drain.cancelled() => break,
        };
        match accepted {
            (Ok(turn), Ok((stream, _))) => {
                let served = connection(stream, ends.clone(), Arc::clone(&handler), turn);
                ends.connections.spawn(served);
            }
            (Err(_), _) => break,
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let name: PathBuf = socket.folder.path().join(&socket.name);
    match socket.give_up() {
        Ok(waiting) => {
            for stream in waiting {
                let Ok(turn) = Arc::clone(&room).try_acquire_owned() else {
                    tracing::info!(socket = %name.display(), "more had connected than are served");
                    break;
                };
                let served = connection(stream, ends.clone(), Arc::clone(&handler), turn);
                ends.connections.spawn(served);
            }
        }
        Err(error) => {
            tracing::warn!(socket = %name.display(), %error, "a socket was not given up in order")
        }
    }
}

async fn connection<F, A>(
    stream: UnixStream,
    ends: Ends,
    handler: Arc<F>,
    _turn: OwnedSemaphorePermit,
) where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = service_fn(move |request| {
        first.cancel();
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // Whoever sends a header piece by piece, without an end, gives its place back.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ends.request_wait)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let closing = async {
        ends.drain.cancelled().await;
        if tokio::time::timeout(FIRST_REQUEST_WAIT, asked.cancelled())
            .await
            .is_err()
        {
            tracing::debug!("a connection without a request is closed");
        }
    };
    tokio::pin!(closing);
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = ends.abort.cancelled() => return,
            () = &mut closing, if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // A stream that we cut ends here as well.
        tracing::debug!(error = crate::error::chain(&error), "a connection broke");
    }
}
