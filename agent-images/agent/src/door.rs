//! HTTP to the gateway over the run's socket, holding while the gateway is away.

use bytes::Bytes;
use factory_core::wire::{Hello, PATH_HELLO, PROTOCOL};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{net::UnixStream, time::Instant};

/// How long connections and events wait for a gateway that is away.
pub const HOLD: Duration = Duration::from_secs(600);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// No answer of the gateway to the agent itself is longer.
const MAX_ANSWER: usize = 64 * 1024;

/// Why the gateway gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Nobody listens.
    #[error("no gateway answers on {}", socket.display())]
    Away {
        /// The run's socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The exchange broke.
    #[error("{path}: the exchange with the gateway broke")]
    Broke {
        /// What was asked for.
        path: String,
        /// Where it broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{path}: no answer from the gateway in {} s", ANSWER.as_secs())]
    Slow {
        /// What was asked for.
        path: String,
    },
    /// The gateway answered that it cannot.
    #[error("{path}: the gateway answers {status}")]
    Unable {
        /// What was asked for.
        path: String,
        /// A 5xx status.
        status: StatusCode,
    },
}

/// The gateway cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// No answer.
    #[error("the door is closed")]
    Away(#[source] DoorError),
    /// An answer that is none.
    #[error("the gateway answers hello with {status}: {said}")]
    Strange {
        /// Its status.
        status: StatusCode,
        /// The beginning of its body.
        said: String,
    },
    /// Another version.
    #[error(
        "the gateway speaks protocol {found}, this agent {PROTOCOL}; run `factory image build`"
    )]
    Protocol {
        /// The gateway's.
        found: u32,
    },
}

/// An answer below 500.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, at most 64 KiB.
    pub body: Bytes,
}

/// The gateway, as this run reaches it.
#[derive(Debug, Clone)]
pub struct Door {
    socket: Arc<Path>,
}

/// Waits that double from 20 ms to 1 s.
#[derive(Debug)]
pub struct BackOff(Duration);

impl BackOff {
    /// From the shortest wait.
    pub fn new() -> Self {
        Self(Duration::from_millis(20))
    }

    /// The next wait.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(1));
    }
}

impl Door {
    /// Through this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The run's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One try.
    async fn once(&self, method: &Method, path: &str, body: Bytes) -> Result<Answer, DoorError> {
        let stream =
            UnixStream::connect(&*self.socket)
                .await
                .map_err(|source| DoorError::Away {
                    socket: self.socket.to_path_buf(),
                    source,
                })?;
        let exchange = async {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "factory")
                .header(header::CONNECTION, "close")
                .body(Full::new(body))?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let mut connection = pin!(connection);
            let mut answer = pin!(async {
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), MAX_ANSWER)
                    .collect()
                    .await?
                    .to_bytes();
                Ok(Answer { status, body })
            });
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                _ = &mut connection => answer.await,
            }
        };
        let answer = match tokio::time::timeout(ANSWER, exchange).await {
            Err(_) => {
                return Err(DoorError::Slow {
                    path: path.to_owned(),
                });
            }
            Ok(Err(source)) => {
                return Err(DoorError::Broke {
                    path: path.to_owned(),
                    source,
                });
            }
            Ok(Ok(answer)) => answer,
        };
        if answer.status.is_server_error() {
            return Err(DoorError::Unable {
                path: path.to_owned(),
                status: answer.status,
            });
        }
        Ok(answer)
    }

    /// Repeats until the gateway answers, for at most `limit`. Everything the
    /// agent says may be said twice.
    ///
    /// # Errors
    /// Why the last try failed.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, DoorError> {
        let until = Instant::now() + limit;
        let mut back_off = BackOff::new();
        let mut said = false;
        loop {
            match self.once(&method, path, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(e) if Instant::now() >= until => return Err(e),
                Err(e) if !said => {
                    said = true;
                    crate::log(format_args!("{}; trying again", crate::chain(&e)));
                }
                Err(_) => {}
            }
            back_off.wait().await;
        }
    }

    /// Asks the gateway who it is, waiting at most `limit` for it.
    ///
    /// # Errors
    /// It does not answer, or cannot work with this agent.
    pub async fn hello(&self, limit: Duration) -> Result<(), HelloError> {
        let answer = self.ask(Method::GET, PATH_HELLO, Bytes::new(), limit).await;
        let answer = answer.map_err(HelloError::Away)?;
        match serde_json::from_slice::<Hello>(&answer.body) {
            Ok(hello) if hello.protocol == PROTOCOL => Ok(()),
            Ok(hello) => Err(HelloError::Protocol {
                found: hello.protocol,
            }),
            Err(_) => Err(HelloError::Strange {
                status: answer.status,
                said: crate::output::text(&answer.body, 400),
            }),
        }
    }
}
