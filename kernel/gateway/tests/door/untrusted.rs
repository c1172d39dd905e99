//! Whatever bytes come through the socket of a run, they are answered with a refusal or the
//! connection ends; nothing breaks, nothing but left calls reaches the inbox, and the next
//! one is served.

use crate::common::{Lab, quick, run_id, soon};
use factory_core::{inbox::InboxEntry, wire};
use factory_gateway::client;
use hyper::{Method, StatusCode};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};

/// Longest answer to what is refused.
const ANSWER_LIMIT: usize = 64 << 10;
/// Panics of this test's threads.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The head of a request, which may be a good one, and its body.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let paths = [
        wire::PATH_HELLO,
        wire::PATH_REPORT,
        wire::PATH_END,
        "/v1/messages",
        "/v1/responses",
        "/git/info/refs?service=git-upload-pack",
        "/git/info/refs?service=git-receive-pack",
        "/git/git-receive-pack",
        "/git/git-upload-pack",
        "/git//HEAD",
        "/%",
    ];
    let headers = [
        "host: gateway\r\n",
        "transfer-encoding: chunked\r\n",
        "content-encoding: gzip\r\n",
        "content-type: application/x-git-receive-pack-request\r\n",
        "content-type: application/x-git-upload-pack-request\r\n",
        "git-protocol: version=2\r\n",
        "expect: 100-continue\r\n",
        "connection: close\r\n",
        "x-y: \u{e9}\r\n",
    ];
    let body = prop_oneof![
        vec(any::<u8>(), 0..40),
        "[{}\\[\\]\":,a-z0-9]{0,40}".prop_map(String::into_bytes),
        Just(b"5\r\nhello\r\n0\r\n\r\n".to_vec()),
        Just(b"0000".to_vec()),
    ];
    let parts = (
        select(vec!["GET", "POST", "PUT", "HEAD", "X"]),
        select(paths.to_vec()),
        vec(select(headers.to_vec()), 0..4),
        body,
        prop_oneof![Just(0usize), 0usize..60],
    );
    parts.prop_map(|(method, path, headers, body, length)| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{}content-length: {length}\r\n\r\n",
            headers.concat()
        );
        [head.as_bytes(), &body].concat()
    })
}

/// Says the bytes to the run's door, and gives what it says until it closes.
async fn said(lab: &Lab, bytes: &[u8]) -> Vec<u8> {
    let socket = lab.places.run_socket(run_id("r1-1"));
    let (mut from, mut to) = client::connect(&socket).await.unwrap().into_split();
    let say = async {
        // It need not listen to the end.
        to.write_all(bytes).await.ok();
        to.shutdown().await.ok();
    };
    let mut answer = Vec::new();
    let hear = async {
        let mut part = [0; 4096];
        // A connection that is cut is closed too.
        while let Ok(read @ 1..) = from.read(&mut part).await {
            answer.extend_from_slice(&part[..read]);
            assert!(answer.len() < ANSWER_LIMIT, "an endless answer");
        }
    };
    soon("the end of the connection", async {
        tokio::join!(say, hear)
    })
    .await;
    answer
}

async fn holds(lab: &Lab, bytes: &[u8]) {
    let answer = said(lab, bytes).await;
    if !answer.is_empty() {
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert!(
            head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "),
            "{head:?}"
        );
        let status: u16 = head[9..12].parse().unwrap();
        // A greeting, and what may be fetched, are good answers to good requests.
        let good = [wire::PATH_HELLO.as_bytes(), b"/git/"]
            .iter()
            .any(|path| bytes.windows(path.len()).any(|window| window == *path));
        assert!(status >= 400 || good || status == 100, "{head:?}");
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

/// A gateway with one run that no byte has brought further.
fn played(play: impl FnOnce(&Runtime, &Lab)) {
    let ours = std::thread::current().id();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // All tasks of its runtime are on the test's own thread.
        if std::thread::current().id() == ours {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        hook(info);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut lab = runtime.block_on(Lab::with_run("http://127.0.0.1:1", quick()));
    play(&runtime, &lab);
    runtime.block_on(async {
        let hello = lab
            .agent()
            .await
            .call(Method::GET, wire::PATH_HELLO, "")
            .await;
        assert_eq!(hello.status, StatusCode::OK);
        // A good call of a model whose engine left before its answer is counted: the provider
        // may have worked on it.
        let is_left = |entry: &InboxEntry| matches!(entry, InboxEntry::Usage(usage) if usage.cut);
        let inbox = lab.inbox("r1-1");
        assert!(inbox.iter().all(is_left), "{inbox:?}");
        lab.stop().await;
    });
}

#[test]
fn bytes_through_the_door_are_refused_or_end_the_connection() {
    played(|runtime, lab| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/http");
        let mut seen = 0;
        for file in std::fs::read_dir(corpus).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            runtime.block_on(holds(lab, &std::fs::read(path).unwrap()));
            seen += 1;
        }
        assert!(seen > 10, "the corpus is there");
        let get = format!("GET {} HTTP/1.1\r\n", wire::PATH_HELLO);
        for more in [
            format!("x: {}\r\n", "y".repeat(1 << 20)),
            "x: y\r\n".repeat(10_000),
            "x: y\r\n".repeat(1000),
            format!("x: {}", "y".repeat(1 << 20)),
        ] {
            let bytes = format!("{get}{more}\r\n");
            let answer = runtime.block_on(said(lab, bytes.as_bytes()));
            // What does not fit is answered, or cut while it still comes.
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
        }
        let config = ProptestConfig {
            cases: ProptestConfig::default().cases / 2,
            ..ProptestConfig::with_source_file(file!())
        };
        let damaged = (
            request(),
            any::<Index>(),
            vec(any::<u8>(), 0..4),
            any::<bool>(),
        );
        let outcome = TestRunner::new(config).run(&damaged, |(mut bytes, at, put, whole)| {
            if !whole {
                let at = at.index(bytes.len());
                bytes.splice(at..(at + put.len()).min(bytes.len()), put);
            }
            runtime.block_on(holds(lab, &bytes));
            Ok(())
        });
        outcome.unwrap();
    });
}
