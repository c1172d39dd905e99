//! A run that sends more than anybody needs: what its door takes of it.

use crate::START;
use crate::common::{
    Agent, Lab, Piece, Provider, Reply, bytes, model_request, quick, run_id, soon,
};
use factory_core::wire;
use factory_gateway::{Timing, client};
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

const NOWHERE: &str = "http://127.0.0.1:1";
/// Connections of a run that are served at the same time.
const CONNECTIONS: usize = 64;

#[tokio::test]
async fn a_run_with_too_many_connections_waits_for_its_own() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let other = lab.grant("r2-1", NOWHERE);
    lab.grants.lock().unwrap().push(other);
    client::wake(&lab.places).await.unwrap();
    let socket = lab.places.run_socket(run_id("r1-1"));
    let mut half = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut one = client::connect(&socket).await.unwrap();
        one.write_all(b"GET /factory/v1/hello HTTP/1.1\r\nhost: door\r\nx-")
            .await
            .unwrap();
        half.push(one);
    }
    let hello = b"GET /factory/v1/hello HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\r\n";
    let mut late = client::connect(&socket).await.unwrap();
    late.write_all(hello).await.unwrap();
    // Another run is answered meanwhile; the late one is not.
    for _ in 0..3 {
        let mut agent = Agent::connect(&lab.places, "r2-1").await;
        assert_eq!(
            agent
                .call(hyper::Method::GET, wire::PATH_HELLO, "")
                .await
                .status,
            200
        );
    }
    let mut answer = [0; 12];
    let mut buffer = tokio::io::ReadBuf::new(&mut answer);
    let early = poll_fn(|context| {
        let read = std::pin::Pin::new(&mut late);
        std::task::Poll::Ready(tokio::io::AsyncRead::poll_read(read, context, &mut buffer))
    });
    assert!(early.await.is_pending(), "{buffer:?}");
    half.pop();
    let mut answer = String::new();
    soon("the late one's turn", late.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(half);
    lab.stop().await;
}

#[tokio::test]
async fn a_header_that_never_ends_gives_its_place_back() {
    let timing = Timing {
        request_wait: Duration::from_millis(300),
        ..quick()
    };
    let mut lab = Lab::with_run(NOWHERE, timing).await;
    let socket = lab.places.run_socket(run_id("r1-1"));
    let mut whole = client::connect(&socket).await.unwrap();
    let head = "POST /factory/v1/report HTTP/1.1\r\nhost: door\r\nconnection: close\r\n";
    let body = r#"{"summary": "Done."}"#;
    let length = format!("content-length: {}\r\n\r\n", body.len());
    whole.write_all(head.as_bytes()).await.unwrap();
    whole.write_all(length.as_bytes()).await.unwrap();
    let mut half = client::connect(&socket).await.unwrap();
    half.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Closed in order, or reset, since what it sent is not read to its end.
    // Far sooner than where hyper waits as long as it likes.
    let limit = Duration::from_secs(20);
    let closed = tokio::time::timeout(limit, half.read_to_string(&mut answer)).await;
    let closed = closed.expect("half a header has an end");
    assert!(closed.is_err() || answer.is_empty(), "{answer}");
    // A body has as long as it takes.
    whole.write_all(body.as_bytes()).await.unwrap();
    soon("an answer", whole.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    lab.stop().await;
}

#[tokio::test]
async fn bodies_that_are_announced_take_no_room_of_other_runs() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let other = lab.grant("r2-1", NOWHERE);
    lab.grants.lock().unwrap().push(other);
    client::wake(&lab.places).await.unwrap();
    let announce = "POST /v1/messages HTTP/1.1\r\nhost: door\r\ncontent-length: 33554432\r\n\r\n{";
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut one = client::connect(&lab.places.run_socket(run_id("r1-1")))
            .await
            .unwrap();
        one.write_all(announce.as_bytes()).await.unwrap();
        all.push(one);
    }
    // Nobody is at the other end of its provider: it is told so.
    let got = Agent::connect(&lab.places, "r2-1")
        .await
        .whole_model()
        .await;
    assert_eq!(got.status, 503, "{}", got.text());
    drop(all);
    // What broke off gave its room back.
    let got = soon("a turn", lab.agent().await.whole_model()).await;
    assert_eq!(got.status, 503, "{}", got.text());
    lab.stop().await;
}

#[tokio::test]
async fn a_request_that_was_sent_gives_its_room_back_while_it_is_answered() {
    let gate = Arc::new(Notify::new());
    let held = Reply::sse(vec![bytes(START), Piece::Gate(Arc::clone(&gate))]);
    let provider = Provider::new(vec![held]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    // Two of them have room at the same time.
    let long = format!("{{\"messages\":[\"{}\"]}}", "x".repeat(30 << 20));
    let mut under_way = Vec::new();
    for _ in 0..3 {
        let mut agent = lab.agent().await;
        let request = model_request().map(|_| http_body_util::Full::from(long.clone()));
        let answer = soon("the beginning of an answer", agent.ask(request)).await;
        under_way.push((answer.unwrap(), agent));
    }
    assert!(under_way.iter().all(|(answer, _)| answer.status() == 200));
    drop(under_way);
    lab.stop().await;
}

#[tokio::test]
async fn a_run_without_models_is_told_before_its_request_is_read() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    lab.grants.lock().unwrap()[0].models = None;
    client::wake(&lab.places).await.unwrap();
    let mut agent = client::connect(&lab.places.run_socket(run_id("r1-1")))
        .await
        .unwrap();
    let head = "POST /v1/messages HTTP/1.1\r\nhost: door\r\ncontent-length: 33554432\r\n\r\n";
    agent.write_all(head.as_bytes()).await.unwrap();
    // More than a refused request is read for, and far less than was announced.
    let piece = vec![b'x'; 2 << 20];
    let (mut from, mut to) = agent.split();
    let mut answer = [0; 12];
    let (read, _) = tokio::join!(
        soon("an answer", from.read_exact(&mut answer)),
        // The door may close before all of it is written.
        to.write_all(&piece),
    );
    read.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    lab.stop().await;
}
