//! Doors as the state says: opened, closed, handed over; reports and the end of a run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod floods;
mod reports;
mod untrusted;

use common::{Lab, Piece, Provider, Reply, bytes, collect, quick, read_until, run_id, soon};
use factory_core::{
    inbox::{EngineExit, InboxEntry, RunEnd},
    wire::{self, GatewayStatus, Hello},
};
use factory_gateway::{Timing, client};
use factory_ledger::git::Git;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use tokio::sync::Notify;

const NOWHERE: &str = "http://127.0.0.1:1";
const START: &str = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n";
const STOP: &str = "data: {\"type\":\"message_stop\"}\n\n";

fn end() -> Vec<u8> {
    let end = RunEnd {
        exit: EngineExit::Code(0),
        last_output: format!("{}the end", "x".repeat(100 << 10)),
        stderr_tail: "é".repeat(5 << 10),
        report_problem: None,
        push_problem: None,
    };
    serde_json::to_vec(&end).unwrap()
}

/// A provider that stops in the middle of its answer until the gate opens.
async fn held_provider() -> (Provider, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let pieces = vec![bytes(START), Piece::Gate(Arc::clone(&gate)), bytes(STOP)];
    (Provider::new(vec![Reply::sse(pieces)]).await, gate)
}

/// A call to the gateway's own socket in another protocol version.
async fn foreign(lab: &Lab, path: &str) -> GatewayStatus {
    let stream = client::connect(&lab.places.gateway_sock()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let request = Request::post(path)
        .header("host", "factory")
        .header(client::PROTOCOL_HEADER, "999")
        .body(Full::<Bytes>::default())
        .unwrap();
    let exchange = async {
        sender
            .send_request(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
    };
    tokio::pin!(exchange);
    let body = tokio::select! {
        body = &mut exchange => body,
        ended = connection => {
            ended.unwrap();
            exchange.await
        }
    };
    serde_json::from_slice(&body.to_bytes()).unwrap()
}

#[tokio::test]
async fn doors_open_and_close_with_their_grants() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let status = client::wake(&lab.places).await.unwrap();
    assert_eq!(
        (status.protocol, status.pid),
        (wire::PROTOCOL, std::process::id())
    );
    assert_eq!(
        (status.ready, status.failed.len()),
        (vec![run_id("r1-1")], 0)
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = lab.places.run_socket(run_id("r1-1"));
    assert_eq!(
        (mode(&socket), mode(&lab.places.gateway_sock())),
        (0o666, 0o600)
    );

    let mut agent = lab.agent().await;
    let hello: Hello =
        serde_json::from_slice(&agent.call(Method::GET, wire::PATH_HELLO, "").await.body).unwrap();
    assert_eq!(
        hello,
        Hello {
            protocol: wire::PROTOCOL,
            run: run_id("r1-1")
        }
    );
    assert_eq!(agent.call(Method::GET, "/other", "").await.status, 404);
    assert_eq!(
        agent
            .call(Method::GET, "/git/info/refs?service=git-upload-pack", "")
            .await
            .status,
        200
    );

    let mut bad = lab.grant("r3-1", NOWHERE);
    bad.start = "0123456789012345678901234567890123456789".parse().unwrap();
    let second = lab.grant("r2-1", NOWHERE);
    *lab.grants.lock().unwrap() = vec![second, bad];
    let status = client::wake(&lab.places).await.unwrap();
    assert_eq!(status.ready, [run_id("r2-1")]);
    assert!(
        status.failed["r3-1"].contains("door.git"),
        "{:?}",
        status.failed
    );
    assert!(!socket.exists(), "the socket goes with the grant");
    assert_eq!(client::hello(&lab.places).await.unwrap(), status);
    lab.stop().await;
    assert!(!lab.places.gateway_sock().exists());
}

#[tokio::test]
async fn a_call_under_way_outlives_its_grant_and_nothing_new_is_taken() {
    let (provider, gate) = held_provider().await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let (mut agent, mut other) = (lab.agent().await, lab.agent().await);
    let mut stream = agent.model().await.into_body();
    read_until(&mut stream, "message_start").await;
    assert_eq!(
        other.call(Method::GET, wire::PATH_HELLO, "").await.status,
        200
    );
    let mut fresh = lab.agent().await;
    lab.grants.lock().unwrap().clear();
    assert_eq!(client::wake(&lab.places).await.unwrap().ready, []);
    let refused = other
        .ask(
            Request::get(wire::PATH_HELLO)
                .body(Full::<Bytes>::default())
                .unwrap(),
        )
        .await;
    assert!(
        refused.is_err(),
        "an idle connection is closed with the door"
    );
    // Connected before, asks after.
    let got = fresh.post(wire::PATH_END, end()).await;
    assert_eq!(got.status, 403, "{}", got.text());
    gate.notify_one();
    let got = soon("the rest of the stream", stream.collect())
        .await
        .unwrap()
        .to_bytes();
    assert!(got.ends_with(STOP.as_bytes()));
    assert_eq!(lab.usages().len(), 1);
    lab.stop().await;
}

#[tokio::test]
async fn after_its_end_nothing_is_accepted_from_a_run() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let mut agent = lab.agent().await;
    assert_eq!(
        agent.post(wire::PATH_EVENTS, "first\nsecond").await.status,
        204
    );
    let got = agent
        .post(wire::PATH_END, "{\"exit\": {\"code\": 0}}")
        .await;
    assert_eq!(got.status, 422, "{}", got.text());
    assert_eq!(agent.post(wire::PATH_END, end()).await.status, 204);
    let inbox = lab.inbox("r1-1");
    let [InboxEntry::End(told)] = &inbox[..] else {
        panic!("{inbox:?}")
    };
    assert_eq!(told.exit, EngineExit::Code(0));
    assert_eq!(told.last_output.len(), 64 << 10);
    assert!(told.last_output.ends_with("the end"));
    assert!(told.stderr_tail.len() <= 4 << 10 && told.stderr_tail.starts_with('é'));
    lab.woken().await;
    let kept = Git::isolated(lab.places.door_git())
        .run(["show", "refs/transcripts/r1-1:transcript.jsonl"])
        .unwrap()
        .text();
    assert_eq!(kept, lab.transcript().trim_end());
    assert_eq!(kept.lines().count(), 2);

    // The same from the gateway that knows and from one that must look it up.
    for round in ["same gateway", "next gateway"] {
        let mut agent = lab.agent().await;
        assert_eq!(
            agent.post(wire::PATH_END, end()).await.status,
            204,
            "{round}"
        );
        for path in [
            wire::PATH_EVENTS,
            wire::PATH_REPORT,
            "/git/git-receive-pack",
            "/v1/messages",
        ] {
            let got = agent.post(path, "{\"summary\": \"late\"}").await;
            assert_eq!(got.status, 403, "{round}: {path}");
            assert!(got.text().contains("r1-1 is over"), "{}", got.text());
        }
        assert_eq!(
            agent
                .call(Method::GET, "/git/info/refs?service=git-upload-pack", "")
                .await
                .status,
            403
        );
        assert_eq!(lab.inbox("r1-1").len(), 1, "{round}");
        lab.stop().await;
        lab.start(quick()).await;
    }
    lab.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_what_the_run_still_does() {
    let (provider, _gate) = held_provider().await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let (mut agent, mut init) = (lab.agent().await, lab.agent().await);
    let mut stream = agent.model().await.into_body();
    read_until(&mut stream, "message_start").await;
    // A push whose entry a crash ate: the ref is ahead of the inbox.
    let git = Git::isolated(lab.places.door_git());
    let tree = format!("{}^{{tree}}", lab.start);
    let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
    let commit = ["commit-tree", &tree, "-p", lab.start.as_str(), "-m", "two"];
    let tip = git
        .run([&identity[..], &commit[..]].concat())
        .unwrap()
        .text();
    git.run([
        "update-ref",
        "refs/namespaces/r1-1/refs/heads/factory/1-test",
        &tip,
    ])
    .unwrap();

    assert_eq!(init.post(wire::PATH_END, end()).await.status, 204);
    let inbox = lab.inbox("r1-1");
    let [
        InboxEntry::Usage(usage),
        InboxEntry::Push { old, new },
        InboxEntry::End(_),
    ] = &inbox[..]
    else {
        panic!("{inbox:?}")
    };
    assert!(usage.cut && usage.input_tokens == 5);
    assert_eq!((old, new.as_str()), (&lab.start, &*tip));
    assert!(
        soon("cut", stream.collect()).await.is_err(),
        "the engine's stream is cut"
    );
    lab.stop().await;
}

#[tokio::test]
async fn a_push_that_a_crash_left_unwritten_is_written_at_the_start() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    lab.stop().await;
    let git = Git::isolated(lab.places.door_git());
    let tree = format!("{}^{{tree}}", lab.start);
    let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
    let commit = ["commit-tree", &tree, "-p", lab.start.as_str(), "-m", "two"];
    let tip = git
        .run([&identity[..], &commit[..]].concat())
        .unwrap()
        .text();
    git.run([
        "update-ref",
        "refs/namespaces/r1-1/refs/heads/factory/1-test",
        &tip,
    ])
    .unwrap();
    for _ in 0..2 {
        lab.start(quick()).await;
        assert_eq!(
            lab.inbox("r1-1"),
            [InboxEntry::Push {
                old: lab.start.clone(),
                new: tip.parse().unwrap()
            }]
        );
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_newer_gateway_takes_over_without_cutting_a_stream() {
    let (provider, gate) = held_provider().await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let mut stream = agent.model().await.into_body();
    read_until(&mut stream, "message_start").await;
    lab.start(quick()).await;
    // The newer one serves new connections while the older one's stream goes on.
    let mut fresh = lab.agent().await;
    assert_eq!(
        fresh
            .post(wire::PATH_REPORT, "{\"summary\": \"x\"}")
            .await
            .status,
        204
    );
    gate.notify_one();
    let rest = soon("the rest of the stream", stream.collect())
        .await
        .unwrap()
        .to_bytes();
    assert!(rest.ends_with(STOP.as_bytes()));
    drop(agent);
    lab.ended().await;
    assert_eq!(
        fresh.call(Method::GET, wire::PATH_HELLO, "").await.status,
        200
    );
    assert_eq!(lab.inbox("r1-1").len(), 2);
    lab.stop().await;
}

#[tokio::test]
async fn connections_made_during_a_hand_over_are_answered() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    // In the socket's queue, not yet taken, when the gateway is told to give way.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(lab.agent().await);
    }
    client::retire(&lab.places).await.unwrap();
    for agent in &mut waiting {
        assert_eq!(
            agent.call(Method::GET, wire::PATH_HELLO, "").await.status,
            200
        );
    }
    drop(waiting);
    lab.ended().await;
    assert!(!lab.places.run_socket(run_id("r1-1")).exists());
    assert!(client::hello(&lab.places).await.is_err());
}

#[tokio::test]
async fn stopping_counts_what_it_cuts() {
    let (provider, _gate) = held_provider().await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let mut stream = agent.model().await.into_body();
    read_until(&mut stream, "message_start").await;
    lab.stop().await;
    assert!(soon("cut", stream.collect()).await.is_err());
    let usages = lab.usages();
    assert!(
        usages.len() == 1 && usages[0].cut && usages[0].input_tokens == 5,
        "{usages:?}"
    );
}

#[tokio::test]
async fn a_gateway_that_nobody_needs_ends_itself() {
    let timing = Timing {
        linger: Duration::from_millis(50),
        ..quick()
    };
    let mut lab = Lab::with_run(NOWHERE, timing).await;
    lab.kill_kernel().await;
    // A live run keeps it, whatever became of the kernel.
    let kept = tokio::time::timeout(Duration::from_millis(300), lab.gateways.join_next()).await;
    assert!(kept.is_err(), "it ended although a run lives: {kept:?}");
    assert_eq!(
        lab.agent().await.post(wire::PATH_END, end()).await.status,
        204
    );
    lab.ended().await;
}

#[tokio::test]
async fn a_kernel_keeps_an_idle_gateway() {
    let timing = Timing {
        linger: Duration::from_millis(50),
        ..quick()
    };
    let mut lab = Lab::new().await;
    lab.start(timing).await;
    let kept = tokio::time::timeout(Duration::from_millis(300), lab.gateways.join_next()).await;
    assert!(kept.is_err(), "it ended although a kernel lives: {kept:?}");
    lab.kill_kernel().await;
    lab.ended().await;
}

#[tokio::test]
async fn a_kernel_of_another_version_gives_it_no_new_runs() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let second = lab.grant("r2-1", NOWHERE);
    lab.grants.lock().unwrap().push(second);
    let status = foreign(&lab, wire::PATH_WAKE).await;
    assert_eq!(
        (status.protocol, status.ready),
        (wire::PROTOCOL, vec![run_id("r1-1")])
    );
    // A gateway of that version takes over: this one keeps its runs to their end.
    let status = foreign(&lab, client::PATH_RETIRE).await;
    assert_eq!(status.ready, [run_id("r1-1")]);
    assert!(
        client::hello(&lab.places).await.is_err(),
        "the control socket is the newer one's"
    );
    let mut agent = lab.agent().await;
    assert_eq!(
        agent.call(Method::GET, wire::PATH_HELLO, "").await.status,
        200
    );
    assert_eq!(agent.post(wire::PATH_END, end()).await.status, 204);
    drop(agent);
    lab.ended().await;
}

#[tokio::test]
async fn a_run_that_an_older_version_still_serves_is_left_to_it() {
    let mut lab = Lab::new().await;
    let folder = lab.places.run_dir(run_id("r1-1"));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = lab.places.run_socket(run_id("r1-1"));
    let older = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = older.accept().await.unwrap();
            let service = hyper::service::service_fn(|_| async {
                let hello = "{\"protocol\": 999, \"run\": \"r1-1\"}";
                Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::<Bytes>::from(hello)))
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(stream, service)
                    .await,
            );
        }
    });
    let grant = lab.grant("r1-1", NOWHERE);
    lab.grants.lock().unwrap().push(grant);
    lab.start(quick()).await;
    assert_eq!(
        client::hello(&lab.places).await.unwrap().ready,
        [run_id("r1-1")]
    );
    let hello = lab
        .agent()
        .await
        .call(Method::GET, wire::PATH_HELLO, "")
        .await
        .text();
    assert!(hello.contains("999"), "the older gateway answers: {hello}");
    // It ended, leaving its socket behind: now the run is ours.
    tasks.shutdown().await;
    assert_eq!(
        client::wake(&lab.places).await.unwrap().ready,
        [run_id("r1-1")]
    );
    let hello = lab
        .agent()
        .await
        .call(Method::GET, wire::PATH_HELLO, "")
        .await
        .text();
    assert!(!hello.contains("999"), "{hello}");
    lab.stop().await;
}

#[tokio::test]
async fn sockets_work_below_deep_directories() {
    let deep: std::path::PathBuf = ["a-directory-with-a-long-name"; 6].iter().collect();
    let mut lab = Lab::below(tempfile::tempdir().unwrap(), &deep).await;
    assert!(lab.places.gateway_sock().as_os_str().len() > 108);
    let grant = lab.grant("r1-1", NOWHERE);
    lab.grants.lock().unwrap().push(grant);
    lab.start(quick()).await;
    assert_eq!(
        lab.agent()
            .await
            .call(Method::GET, wire::PATH_HELLO, "")
            .await
            .status,
        200
    );
    assert_eq!(
        lab.agent().await.post(wire::PATH_END, end()).await.status,
        204
    );
    lab.woken().await;
    lab.stop().await;
}

#[tokio::test]
async fn a_transcript_ends_at_its_bound() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let mut agent = lab.agent().await;
    let line = format!("{}\n", "y".repeat(2 << 20));
    for _ in 0..25 {
        assert_eq!(
            agent.post(wire::PATH_EVENTS, line.clone()).await.status,
            204
        );
    }
    let transcript = lab.transcript();
    assert!(transcript.len() <= (20 << 20) + 200, "{}", transcript.len());
    let lines: Vec<&str> = transcript.lines().collect();
    assert!(lines[0].contains("[line cut at 1 MiB]") && lines[0].len() < (1 << 20) + 100);
    assert!(
        lines.last().unwrap().contains("reached 20 MiB"),
        "{}",
        lines.last().unwrap()
    );
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("reached 20 MiB"))
            .count(),
        1
    );
    let held = agent
        .ask(
            Request::get(wire::PATH_HELLO)
                .body(Full::<Bytes>::default())
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(collect(held).await.status, 200);
    lab.stop().await;
}
