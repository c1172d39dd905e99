//! A whole gateway in a temporary repository, a model provider, and an agent's side of
//! the socket.
#![expect(dead_code, reason = "each test binary uses its part")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod provider;

pub use provider::{Piece, Provider, Reply, bytes};

use bytes::Bytes;
use factory_core::{
    budget::{Limit, Prices},
    grant::{Grant, ModelGrant, Role, WireApi},
    ids::{Epoch, Oid, RunId},
    inbox::{InboxEntry, Usage},
};
use factory_gateway::{GatewayError, GatewayOptions, Keys, Redactor, Timing, client};
use factory_ledger::{
    base::BaseRepo, git::Git, inbox::Inbox, places::Places, state::StateRepo, user::UserRepo,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming,
    client::conn::http1 as client_http1, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinSet};

pub const KEY: &str = "sk-the-real-key-0123456789";
pub const KEY_ENV: &str = "TEST_MODEL_API_KEY";

/// Bounds every wait of a test: what hangs fails.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened within 60 s"),
    }
}

/// Short waits, so that no test sleeps long.
pub fn quick() -> Timing {
    Timing {
        first_backoff: Duration::from_millis(10),
        ..Timing::default()
    }
}

pub fn run_id(text: &str) -> RunId {
    text.parse().unwrap()
}

/// A repository with one commit, and everything a gateway needs below it.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub places: Places,
    pub start: Oid,
    pub grants: Arc<Mutex<Vec<Grant>>>,
    pub gateways: JoinSet<Result<(), GatewayError>>,
    wakes: mpsc::UnboundedReceiver<()>,
    kernel: JoinSet<()>,
}

impl Lab {
    pub async fn new() -> Self {
        Self::below(tempfile::tempdir().unwrap(), Path::new("repo")).await
    }

    pub async fn below(dir: tempfile::TempDir, repo: &Path) -> Self {
        let user = dir.path().join(repo);
        std::fs::create_dir_all(&user).unwrap();
        let git = Git::new(&user);
        git.run(["init", "-q", "-b", "main"]).unwrap();
        std::fs::write(user.join("file"), "one\n").unwrap();
        git.run(["add", "."]).unwrap();
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
        git.run([&identity[..], &["commit", "-q", "-m", "one"]].concat())
            .unwrap();
        let places = Places::discover(&user).unwrap();
        places.ensure_dirs().unwrap();
        StateRepo::init(&places).unwrap();
        let base = BaseRepo::init(places.base_git()).unwrap();
        let start = base
            .fetch_target(&UserRepo::open(places.common_dir()), "main")
            .unwrap();
        let (mut kernel, (wake, wakes)) = (JoinSet::new(), mpsc::unbounded_channel());
        let folder = factory_ledger::sockets::SocketDir::open(places.root()).unwrap();
        let listener = UnixListener::bind(folder.address("kernel.sock")).unwrap();
        kernel.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(|_| {
                    wake.send(()).unwrap();
                    async {
                        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                });
                let served = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(served);
            }
        });
        Self {
            dir,
            places,
            start,
            grants: Arc::default(),
            gateways: JoinSet::new(),
            wakes,
            kernel,
        }
    }

    /// The kernel is gone: nobody listens on its socket.
    pub async fn kill_kernel(&mut self) {
        self.kernel.shutdown().await;
        std::fs::remove_file(self.places.kernel_sock()).unwrap();
    }

    pub fn grant(&self, run: &str, base_url: &str) -> Grant {
        Grant {
            run: run_id(run),
            epoch: Epoch(1),
            role: Role::Code,
            start: self.start.clone(),
            resume: None,
            branch: Some("factory/1-test".into()),
            models: Some(ModelGrant {
                api: WireApi::Messages,
                base_url: base_url.into(),
                key_env: KEY_ENV.into(),
                fallbacks: Vec::new(),
                budget: Limit::default(),
                model: String::new(),
                prices: Prices::new(),
            }),
            rules: None,
            wall_seconds: 600,
        }
    }

    /// The file of the user's keys. Where it is there, no other key is given.
    pub fn keys_env(&self) -> PathBuf {
        self.dir.path().join("keys.env")
    }

    /// Starts a gateway; returns when its control socket answers.
    pub async fn start(&mut self, timing: Timing) {
        let (reading, mut read) = mpsc::unbounded_channel();
        let grants = Arc::clone(&self.grants);
        let place = self.keys_env();
        let given = match place.exists() {
            true => BTreeMap::new(),
            false => BTreeMap::from([(KEY_ENV.to_owned(), KEY.to_owned().into())]),
        };
        let options = GatewayOptions {
            places: self.places.clone(),
            keys: Keys::new(given, Some(place), Redactor::default()),
            clock: Arc::new(|| 1_700_000_000),
            grants: Arc::new(move || {
                // The control socket is bound before the grants are first read.
                reading.send(()).ok();
                Ok(grants.lock().unwrap().clone())
            }),
            timing,
        };
        self.gateways.spawn(factory_gateway::run(options));
        tokio::select! {
            _ = soon("start of the gateway", read.recv()) => {}
            Some(ended) = self.gateways.join_next() => panic!("a gateway ended: {ended:?}"),
        }
        soon("first wake", client::wake(&self.places))
            .await
            .unwrap();
    }

    /// A gateway with one granted run that talks to `base_url`.
    pub async fn with_run(base_url: &str, timing: Timing) -> Self {
        let mut lab = Self::new().await;
        let grant = lab.grant("r1-1", base_url);
        lab.grants.lock().unwrap().push(grant);
        lab.start(timing).await;
        lab
    }

    pub async fn agent(&self) -> Agent {
        Agent::connect(&self.places, "r1-1").await
    }

    pub fn inbox(&self, run: &str) -> Vec<InboxEntry> {
        let entries = Inbox::open(&self.places)
            .unwrap()
            .read_after(run_id(run), None)
            .unwrap();
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    pub fn usages(&self) -> Vec<Usage> {
        let usage = |entry| {
            if let InboxEntry::Usage(usage) = entry {
                Some(usage)
            } else {
                None
            }
        };
        self.inbox("r1-1").into_iter().filter_map(usage).collect()
    }

    /// Waits until the kernel was woken after an inbox entry.
    pub async fn woken(&mut self) {
        soon("wake of the kernel", self.wakes.recv()).await.unwrap();
    }

    pub fn transcript(&self) -> String {
        std::fs::read_to_string(self.places.transcript(run_id("r1-1"))).unwrap_or_default()
    }

    /// Ends the gateway in order.
    pub async fn stop(&mut self) {
        soon("stop", client::stop(&self.places)).await.unwrap();
        self.ended().await;
    }

    /// Waits for a gateway to end.
    pub async fn ended(&mut self) {
        soon("end of the gateway", self.gateways.join_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// What an agent's side of the socket got.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The connection broke before the body's end.
    pub cut: bool,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// One connection of an agent.
pub struct Agent {
    sender: client_http1::SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Agent {
    pub async fn connect(places: &Places, run: &str) -> Self {
        let stream = client::connect(&places.run_socket(run_id(run)))
            .await
            .unwrap();
        let (sender, connection) = client_http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A cut connection is what some tests look for in the body.
            drop(connection.await);
        });
        Self {
            sender,
            _connection: tasks,
        }
    }

    pub async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        soon("connection", self.sender.ready()).await?;
        soon("answer", self.sender.send_request(request)).await
    }

    pub async fn call(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Got {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "gateway");
        collect(
            self.ask(request.body(Full::new(body.into())).unwrap())
                .await
                .unwrap(),
        )
        .await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Got {
        self.call(Method::POST, path, body).await
    }

    /// Calls a model as claude does.
    pub async fn model(&mut self) -> Response<Incoming> {
        self.ask(model_request()).await.unwrap()
    }

    pub async fn whole_model(&mut self) -> Got {
        let response = self.model().await;
        collect(response).await
    }
}

/// A call over one of the APIs of openai, as their engines make it.
pub fn openai_request(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", "127.0.0.1:8377")
        .header("content-type", "application/json")
        .header("authorization", "Bearer factory-placeholder")
        .header("session-id", "s-1")
        .header("x-codex-window-id", "w-1")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

pub fn model_request() -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri("/v1/messages?beta=true")
        .header("host", "127.0.0.1:8377")
        .header("content-type", "application/json")
        .header("x-api-key", "factory-placeholder")
        .header("authorization", "Bearer factory-placeholder")
        .header("anthropic-version", "2023-06-01")
        .header("x-stainless-lang", "js")
        .header("accept-encoding", "gzip, br")
        .body(Full::from(
            r#"{"model":"claude-asked","stream":true,"messages":[]}"#,
        ))
        .unwrap()
}

pub async fn collect(response: Response<Incoming>) -> Got {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut cut) = (Vec::new(), false);
    while let Some(frame) = soon("body", incoming.frame()).await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => cut = true,
        }
    }
    Got {
        status: head.status,
        headers: head.headers,
        body,
        cut,
    }
}

/// Reads from a stream until `text` has come.
pub async fn read_until(incoming: &mut Incoming, text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    while !String::from_utf8_lossy(&body).contains(text) {
        let frame = soon(text, incoming.frame())
            .await
            .expect("more of the stream")
            .unwrap();
        body.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    body
}

pub const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-said\",\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n";
pub const DELTA: &str =
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":6}}\n\n";
pub const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
pub const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// A whole answer.
pub fn whole() -> Reply {
    Reply::sse(vec![bytes(format!("{START}{DELTA}{STOP}"))])
}

/// A usage without its time.
pub fn counted(usage: &Usage) -> Usage {
    Usage {
        millis: 0,
        ..usage.clone()
    }
}

/// What [`START`] and [`DELTA`] say.
pub fn said() -> Usage {
    Usage {
        model: "claude-said".into(),
        status: 200,
        input_tokens: 11,
        output_tokens: 6,
        ..Usage::default()
    }
}

/// The folder of recorded exchanges of Anthropic; none where this machine has none.
pub fn contracts(test: &str) -> Option<PathBuf> {
    contracts_of("anthropic", test)
}

/// As [`contracts`], of any vendor.
pub fn contracts_of(vendor: &str, test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FACTORY_CONTRACTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/contracts"),
        PathBuf::from,
    );
    let folder = root.join(vendor);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {test}: no recorded exchanges; name their folder in FACTORY_CONTRACTS");
    None
}

/// The files of `folder` whose name ends with `end`, by name.
pub fn files(folder: &Path, end: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}
