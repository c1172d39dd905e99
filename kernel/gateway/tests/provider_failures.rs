//! Providers that are away, busy or refuse, and calls that a grant does not hold.

mod common;

use common::{
    Agent, DELTA, Got, KEY_ENV, Lab, Piece, Provider, Reply, START, STOP, bytes, counted, quick,
    said, whole,
};
use factory_core::{
    grant::{Provider as Granted, WireApi},
    inbox::{EngineExit, InboxEntry, RunEnd},
    wire::PATH_END,
};
use factory_gateway::{Timing, client};
use hyper::Method;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    for (at, status) in [500, 502, 503, 529, 429].into_iter().enumerate() {
        provider.say(vec![
            Reply::json(status, "{}"),
            Reply::json(status, "{}"),
            whole(),
        ]);
        let got = agent.whole_model().await;
        assert_eq!(
            (got.status.as_u16(), got.text()),
            (200, format!("{START}{DELTA}{STOP}")),
            "{status}"
        );
        assert_eq!(provider.asked().len(), 3 * (at + 1), "{status}");
    }
    let usages = lab.usages();
    assert_eq!(
        usages.len(),
        5,
        "a call counts once, however often it was tried"
    );
    assert!(usages.iter().all(|usage| counted(usage) == said()));
    lab.stop().await;
}

#[tokio::test]
async fn retry_after_is_honoured_and_handed_on_when_long() {
    let provider = Provider::new(vec![
        Reply::json(429, "{}").with("retry-after", "0.3"),
        whole(),
    ])
    .await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    let started = Instant::now();
    assert_eq!(agent.whole_model().await.status, 200);
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );

    provider.say(vec![Reply::json(429, "{}").with("retry-after", "77")]);
    let got = agent.whole_model().await;
    assert_eq!(
        (got.status.as_u16(), got.header("retry-after")),
        (429, Some("77"))
    );
    assert!(got.text().contains("rate_limit_error"), "{}", got.text());
    assert_eq!(provider.asked().len(), 3, "a long wait is the engine's");

    provider.say(vec![Reply::json(429, "{}")]);
    let got = agent.whole_model().await;
    assert_eq!(got.status.as_u16(), 429);
    assert!(got.header("retry-after").is_some());
    assert_eq!(provider.asked().len(), 8, "tried five times in all");
    assert_eq!(
        lab.usages().len(),
        1,
        "what was not answered is not counted"
    );
    assert!(lab.transcript().contains("\"status\":429"));
    lab.stop().await;
}

/// What failed for lack of an answer costs nothing, and is on record where it was the
/// run's last call: then the provider is to blame, not the agent.
#[tokio::test]
async fn the_end_of_a_run_tells_of_a_provider_that_was_away_last() {
    let end = serde_json::to_vec(&RunEnd {
        exit: EngineExit::Code(1),
        last_output: String::new(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    })
    .unwrap();
    for (status, mends, last) in [(529, false, 503), (429, false, 429), (429, true, 200)] {
        let provider = Provider::new(vec![whole()]).await;
        let mut lab = Lab::with_run(&provider.base_url, quick()).await;
        let mut agent = lab.agent().await;
        assert_eq!(agent.whole_model().await.status, 200);
        let busy = Reply::json(status, "{}").with("retry-after", "77");
        provider.say(vec![busy]);
        assert_ne!(agent.whole_model().await.status, 200);
        if mends {
            provider.say(vec![whole()]);
            assert_eq!(agent.whole_model().await.status, 200);
        }
        let counted = usize::from(mends) + 1;
        assert_eq!(lab.usages().len(), counted, "{status}");
        assert_eq!(agent.post(PATH_END, end.clone()).await.status, 204);
        let usages = lab.usages();
        let newest = usages.last().unwrap();
        assert_eq!(newest.status, last, "{status}, mends: {mends}");
        assert_eq!(usages.len(), counted + usize::from(!mends));
        assert!(mends || newest.input_tokens == 0, "{newest:?}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_provider_that_stays_away_becomes_a_503() {
    let provider = Provider::new(vec![Reply::json(529, "{}")]).await;
    let mut lab = Lab::with_run(
        &provider.base_url,
        Timing {
            header_wait: Duration::from_millis(50),
            ..quick()
        },
    )
    .await;
    let mut agent = lab.agent().await;
    let check = |got: Got, what: &str| {
        assert_eq!(got.status, 503, "{what}");
        assert!(got.header("retry-after").is_some(), "{what}");
        assert!(
            got.text().contains("overloaded_error"),
            "{what}: {}",
            got.text()
        );
    };
    check(agent.whole_model().await, "529 for ever");
    assert_eq!(provider.asked().len(), 5);
    // Nobody listens, and one that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (at, address) in [gone, silent.local_addr().unwrap()].into_iter().enumerate() {
        let run = format!("r2-{}", at + 1);
        let mut grant = lab.grant(&run, &format!("http://{address}"));
        grant.branch = None;
        lab.grants.lock().unwrap().push(grant);
        client::wake(&lab.places).await.unwrap();
        check(
            Agent::connect(&lab.places, &run).await.whole_model().await,
            &run,
        );
    }
    lab.stop().await;
}

#[tokio::test]
async fn what_is_final_ends_the_engine_at_once() {
    let message =
        r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#;
    let provider = Provider::new(vec![]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let mut agent = lab.agent().await;
    for (at, status) in [401, 403].into_iter().enumerate() {
        provider.say(vec![Reply::json(status, message)]);
        let got = agent.whole_model().await;
        assert_eq!(
            (got.status.as_u16(), got.header("x-should-retry")),
            (403, Some("false")),
            "{status}"
        );
        assert!(
            got.text().contains("invalid x-api-key") && got.text().contains("permission_error"),
            "{}",
            got.text()
        );
        assert_eq!(
            provider.asked().len(),
            at + 1,
            "{status} is not tried again"
        );
        let usage = lab.usages().remove(at);
        assert_eq!(
            (usage.status, usage.model.as_str()),
            (status, "claude-asked")
        );
    }
    // The engine understands these itself: they pass as they are.
    for status in [400, 404, 413] {
        provider.say(vec![
            Reply::json(status, message).with("request-id", "req_1"),
        ]);
        let got = agent.whole_model().await;
        assert_eq!(
            (got.status.as_u16(), got.text()),
            (status, message.to_owned())
        );
        assert_eq!(got.header("request-id"), Some("req_1"));
    }
    provider.say(vec![
        Reply::json(302, "").with("location", "http://127.0.0.1:1/"),
    ]);
    let got = agent.whole_model().await;
    assert_eq!(
        (got.status.as_u16(), got.header("x-should-retry")),
        (403, Some("false"))
    );
    assert!(got.text().contains("base_url"), "{}", got.text());
    lab.stop().await;
}

#[tokio::test]
async fn what_the_grant_does_not_hold_is_refused() {
    let provider = Provider::new(vec![whole()]).await;
    let mut lab = Lab::with_run(&provider.base_url, quick()).await;
    let changed = |run: &str, change: &dyn Fn(&mut factory_core::grant::ModelGrant)| {
        let mut grant = lab.grant(run, &provider.base_url);
        grant.branch = None;
        change(grant.models.as_mut().unwrap());
        lab.grants.lock().unwrap().push(grant);
    };
    changed("r2-1", &|models| models.key_env = "ANOTHER_KEY".into());
    changed("r2-2", &|models| models.api = WireApi::Responses);
    changed("r2-3", &|models| {
        models.base_url = "http://models.example".into()
    });
    let mut check = lab.grant("r2-4", &provider.base_url);
    check.models = None;
    lab.grants.lock().unwrap().push(check);
    client::wake(&lab.places).await.unwrap();
    for (run, text) in [
        ("r2-1", "ANOTHER_KEY was not set"),
        ("r2-2", "may not call models"),
        ("r2-3", "neither https nor on this machine"),
        ("r2-4", "may not call models"),
    ] {
        let got = Agent::connect(&lab.places, run).await.whole_model().await;
        assert_eq!(
            (got.status.as_u16(), got.header("x-should-retry")),
            (403, Some("false")),
            "{run}"
        );
        assert!(
            got.text().contains(text) && got.text().contains("\"type\":\"error\""),
            "{run}: {}",
            got.text()
        );
    }
    let InboxEntry::Usage(usage) = lab.inbox("r2-1").remove(0) else {
        panic!("no usage")
    };
    assert_eq!(
        usage.status, 401,
        "the kernel reads that the key is missing"
    );
    let mut agent = lab.agent().await;
    for (method, path) in [
        (Method::GET, "/v1/messages"),
        (Method::POST, "/v1/messages/count_tokens"),
        (Method::GET, "/v1/models"),
        (Method::POST, "/v1/messages/../files"),
    ] {
        let got = agent.call(method.clone(), path, "{}").await;
        assert_eq!(got.status, 404, "{method} {path}");
        assert!(got.text().contains("not_found_error"), "{}", got.text());
    }
    let got = agent.post("/v1/messages", vec![b'x'; (32 << 20) + 1]).await;
    assert_eq!(got.status, 413);
    assert!(
        provider.asked().is_empty(),
        "nothing reached the provider: {}",
        KEY_ENV
    );
    lab.stop().await;
}

#[tokio::test]
async fn while_a_provider_is_away_the_next_one_is_asked() {
    let broken = Provider::new(vec![Reply::json(529, "{}")]).await;
    let busy = Provider::new(vec![Reply::json(429, "{}")]).await;
    let well = Provider::new(vec![whole()]).await;
    let mut lab = Lab::with_run(&broken.base_url, quick()).await;
    let fall_back = |run: &str, others: &[&Provider]| {
        let mut grant = lab.grant(run, &broken.base_url);
        grant.branch = None;
        let others = others.iter().map(|provider| Granted {
            base_url: provider.base_url.clone(),
            key_env: KEY_ENV.into(),
        });
        grant.models.as_mut().unwrap().fallbacks = others.collect();
        lab.grants.lock().unwrap().push(grant);
    };
    fall_back("r2-1", &[&busy, &well]);
    fall_back("r2-2", &[&busy]);
    client::wake(&lab.places).await.unwrap();

    let got = Agent::connect(&lab.places, "r2-1")
        .await
        .whole_model()
        .await;
    assert_eq!(
        (got.status.as_u16(), got.text()),
        (200, format!("{START}{DELTA}{STOP}"))
    );
    assert_eq!(
        [&broken, &busy, &well].map(|provider| provider.asked().len()),
        [2, 2, 1],
        "the last one alone is asked as often as can be"
    );
    assert_eq!(lab.inbox("r2-1").len(), 1, "counted once");

    let got = Agent::connect(&lab.places, "r2-2")
        .await
        .whole_model()
        .await;
    assert_eq!(got.status, 429, "all are away: the engine waits");
    assert_eq!(busy.asked().len(), 2 + 5);

    // An answer that began is nobody else's: its stream breaks.
    broken.say(vec![Reply::sse(vec![
        common::bytes(START),
        common::Piece::Cut,
    ])]);
    let got = Agent::connect(&lab.places, "r2-1")
        .await
        .whole_model()
        .await;
    assert!(got.cut && got.text() == START, "{got:?}");
    assert_eq!(well.asked().len(), 1);
    // What is refused is refused: another provider has another account.
    broken.say(vec![Reply::json(401, "{}")]);
    let got = Agent::connect(&lab.places, "r2-1")
        .await
        .whole_model()
        .await;
    assert_eq!(got.status, 403);
    assert_eq!(well.asked().len(), 1);
    lab.stop().await;
}

/// What one provider says whose account has nothing left to pay with.
const QUOTA: &str = r#"{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;

#[tokio::test]
async fn without_credit_the_next_provider_is_asked_or_the_engine_ended() {
    let empty = Provider::new(vec![Reply::json(429, QUOTA)]).await;
    let unpaid = Provider::new(vec![Reply::json(402, "{}")]).await;
    let away = Provider::new(vec![Reply::json(529, "{}")]).await;
    let well = Provider::new(vec![whole()]).await;
    let mut lab = Lab::with_run(&empty.base_url, quick()).await;
    let fall_back = |run: &str, others: &[&Provider]| {
        let mut grant = lab.grant(run, &empty.base_url);
        grant.branch = None;
        let others = others.iter().map(|provider| Granted {
            base_url: provider.base_url.clone(),
            key_env: KEY_ENV.into(),
        });
        grant.models.as_mut().unwrap().fallbacks = others.collect();
        lab.grants.lock().unwrap().push(grant);
    };
    fall_back("r2-1", &[&unpaid, &well]);
    fall_back("r2-2", &[&unpaid]);
    fall_back("r2-3", &[&away]);
    client::wake(&lab.places).await.unwrap();
    let call = |run: &'static str| {
        let places = lab.places.clone();
        async move { Agent::connect(&places, run).await.whole_model().await }
    };
    let asked = || [&empty, &unpaid, &well].map(|provider| provider.asked().len());

    for again in 1..=2 {
        let got = call("r2-1").await;
        assert_eq!(got.text(), format!("{START}{DELTA}{STOP}"), "{got:?}");
        assert_eq!(asked(), [1, 1, again], "no empty account is tried again");
    }
    // Nobody is left who could pay.
    for _ in 0..2 {
        let got = call("r2-2").await;
        assert_eq!(
            (got.status.as_u16(), got.header("x-should-retry")),
            (403, Some("false"))
        );
        assert!(got.text().contains("402 Payment Required"), "{got:?}");
        assert_eq!(asked(), [2, 2, 2]);
    }
    for entry in lab.inbox("r2-2") {
        let InboxEntry::Usage(usage) = entry else {
            panic!("{entry:?}")
        };
        assert_eq!(usage.status, 402, "the kernel reads that a person must pay");
    }
    // One that is away may come back.
    assert_eq!(call("r2-3").await.status, 503);

    // In place of an answer: the engine asks again, and is answered by the next one.
    let error = format!("event: error\ndata: {QUOTA}\n\n");
    empty.say(vec![Reply::sse(vec![
        common::bytes(START),
        common::bytes(error),
    ])]);
    fall_back("r2-4", &[&well]);
    client::wake(&lab.places).await.unwrap();
    let got = call("r2-4").await;
    assert!(got.cut && got.text() == START, "{got:?}");
    assert_eq!(call("r2-4").await.status, 200);
    assert_eq!(empty.asked().len(), 4, "once for each run");
    let statuses = lab.inbox("r2-4").into_iter().map(|entry| match entry {
        InboxEntry::Usage(usage) => usage.status,
        other => panic!("{other:?}"),
    });
    assert_eq!(statuses.collect::<Vec<_>>(), [402, 200]);

    // In the words of one who has no status for it.
    let low = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to go on."}}"#;
    empty.say(vec![Reply::json(400, low)]);
    fall_back("r2-5", &[]);
    client::wake(&lab.places).await.unwrap();
    let got = call("r2-5").await;
    assert!(
        got.status == 403 && got.text().contains("balance is too low"),
        "{got:?}"
    );
    lab.stop().await;
}

/// An engine cannot call models for nothing by not hearing what they cost.
#[tokio::test]
async fn what_no_provider_counts_is_estimated() {
    let delta = |n: usize| bytes(DELTA.repeat(n));
    for (reply, input, output) in [
        // Cut in the middle: what was told, and what came.
        (
            Reply::sse(vec![bytes(START), delta(40), Piece::Cut]),
            11..=11,
            40..=40,
        ),
        // Whole, and not a word of what it used.
        (
            Reply::json(200, format!(r#"{{"content":"{}"}}"#, "x".repeat(4000))),
            1..=100,
            1000..=1010,
        ),
        // Nor one that could be read.
        (
            Reply::json(
                200,
                format!(r#"{{"usage":{{}},"content":"{}"}}"#, "x".repeat(4000)),
            ),
            1..=100,
            1000..=1010,
        ),
        // What is told stands.
        (
            whole(),
            said().input_tokens..=said().input_tokens,
            said().output_tokens..=said().output_tokens,
        ),
    ] {
        let provider = Provider::new(vec![reply]).await;
        let mut lab = Lab::with_run(&provider.base_url, quick()).await;
        lab.agent().await.whole_model().await;
        let usage = lab.usages().pop().unwrap();
        assert!(input.contains(&usage.input_tokens), "{usage:?}, {input:?}");
        assert!(
            output.contains(&usage.output_tokens),
            "{usage:?}, {output:?}"
        );
        lab.stop().await;
    }
}

/// An engine that does not wait for its answer has asked all the same.
#[tokio::test]
async fn a_call_that_its_engine_leaves_is_counted() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let mut lab = Lab::with_run(&address, quick()).await;
    let mut agent = lab.agent().await;
    let call = agent.whole_model();
    let taken = tokio::select! {
        taken = silent.accept() => taken.unwrap(),
        got = call => panic!("{got:?}"),
    };
    drop(agent);
    // Its inbox has the call before the gateway ends.
    lab.woken().await;
    drop(taken);
    let usage = lab.usages().pop().unwrap();
    assert!(usage.cut && usage.input_tokens > 0, "{usage:?}");
    lab.stop().await;
}
