//! An engine's side: calls of a model, over a door or straight, by the same HTTP client.

use super::model;
use factory_ledger::sockets::SocketDir;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

/// What clients take for a key. A door asks for none.
pub const KEY: &str = "sk-placeholder-7f3a9c51e2d84b60a1";

/// Where calls go.
#[derive(Debug, Clone)]
pub enum Way {
    /// To an address.
    Tcp(SocketAddr),
    /// To the socket of a run's door.
    Door(PathBuf),
}

/// One connection.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
    connection: JoinSet<()>,
}

/// How an answer came.
pub struct Heard {
    /// Its first byte, after the call,
    pub first: Duration,
    /// and its last one.
    pub last: Duration,
}

impl Client {
    /// Connects.
    pub async fn new(way: &Way) -> Self {
        let mut connection = JoinSet::new();
        // It ends with the other side or with this value; a call then says what is wrong.
        let (sender, host) = match way {
            Way::Tcp(address) => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                connection.spawn(async move { drop(driver.await) });
                (sender, address.to_string())
            }
            Way::Door(path) => {
                let folder = SocketDir::open(path.parent().unwrap()).unwrap();
                let address = folder.address(path.file_name().unwrap().to_str().unwrap());
                let stream = UnixStream::connect(address).await.unwrap();
                let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                connection.spawn(async move { drop(driver.await) });
                (sender, "127.0.0.1:8377".to_owned())
            }
        };
        Self {
            sender,
            host,
            connection,
        }
    }

    /// Asks for so many tokens and hears all of them: none is missing, nothing is added.
    pub async fn call(&mut self, tokens: u64) -> Heard {
        let (began, mut body) = self.ask(tokens).await;
        let (mut first, mut bytes) = (None, 0);
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.unwrap().data_ref() {
                first.get_or_insert_with(|| began.elapsed());
                bytes += data.len() as u64;
            }
        }
        let last = began.elapsed();
        assert_eq!(bytes, model::length(tokens), "an answer was changed");
        Heard {
            first: first.unwrap(),
            last,
        }
    }

    /// Asks for so many tokens and reads none of them; the connection is kept in the value.
    pub async fn ask(&mut self, tokens: u64) -> (Instant, hyper::body::Incoming) {
        assert!(!self.connection.is_empty());
        self.sender.ready().await.unwrap();
        let body = serde_json::json!({
            "model": "claude-sonnet-4-5",
            "max_tokens": tokens,
            "stream": true,
            "messages": [{"role": "user", "content": "Say something."}],
        });
        let request = Request::post("/v1/messages")
            .header("host", &self.host)
            .header("content-type", "application/json")
            .header("x-api-key", KEY)
            .header("anthropic-version", "2023-06-01")
            .body(Full::from(body.to_string()))
            .unwrap();
        let began = Instant::now();
        let response = self.sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        (began, response.into_body())
    }
}
