//! The door: held while the gateway is away; the subcommands.

use crate::lab::{BRANCH, Lab, sh};
use factory_core::inbox::EngineExit;
use hyper::StatusCode;

#[tokio::test]
async fn nothing_is_lost_while_the_gateway_is_away() {
    let Some(mut lab) = Lab::new("away") else {
        return;
    };
    lab.engine(
        "echo before; until [ -e ../go ]; do sleep 0.02; done
         exec 3<>/dev/tcp/127.0.0.1/8377
         printf 'GET /factory/v1/hello HTTP/1.1\\r\\nHost: door\\r\\nConnection: close\\r\\n\\r\\n' >&3
         seq 1000; touch ../asked; cat <&3; exec 3<&-; echo
         echo work > work.txt; git add .; git commit -qm work; git push -q && echo pushed",
        None,
    );
    let started = lab.start();
    lab.gateway.event("before").await;
    lab.gateway.stop().await;
    std::fs::write(lab.path("go"), "").unwrap();
    sh(
        &lab.path("."),
        "timeout 20 sh -c 'until [ -e asked ]; do sleep 0.02; done'; sleep 0.5",
    );
    lab.gateway.start();
    assert_eq!(started.done().await.code, 0);
    let end = lab.gateway.end();
    assert_eq!(
        (end.exit, end.last_output.as_str()),
        (EngineExit::Code(0), "pushed")
    );
    let events = lab.gateway.events();
    let numbers: Vec<u32> = events.lines().filter_map(|l| l.parse().ok()).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    assert!(
        events.contains("HTTP/1.1 200 OK") && events.contains("\"run\":\"r7-1\""),
        "{events}"
    );
    assert_eq!(lab.origin(&format!("log -1 --format=%s {BRANCH}")), "work");
}

#[tokio::test]
async fn a_client_that_gave_up_is_not_forwarded() {
    let Some(mut lab) = Lab::new("gave up") else {
        return;
    };
    lab.engine(
        "echo before; until [ -e ../go ]; do sleep 0.02; done
         exec 3<>/dev/tcp/127.0.0.1/8377
         printf 'GET /gave/up HTTP/1.1\\r\\nHost: door\\r\\n\\r\\n' >&3
         exec 3<&-; sleep 1.2; touch ../asked; until [ -e ../end ]; do sleep 0.02; done
         sleep 1.5",
        None,
    );
    let started = lab.start();
    lab.gateway.event("before").await;
    lab.gateway.stop().await;
    std::fs::write(lab.path("go"), "").unwrap();
    sh(
        &lab.path("."),
        "timeout 20 sh -c 'until [ -e asked ]; do sleep 0.02; done'",
    );
    lab.gateway.start();
    // The engine stays for longer than the longest wait between two tries.
    std::fs::write(lab.path("end"), "").unwrap();
    assert_eq!(started.done().await.code, 0);
    let seen = lab.gateway.seen.lock().unwrap();
    assert!(
        !seen.order.iter().any(|path| path == "/gave/up"),
        "{:?}",
        seen.order
    );
}

#[tokio::test]
async fn half_closed_connections_get_their_answer() {
    let Some(mut lab) = Lab::new("half-closed") else {
        return;
    };
    // Only perl, which git brings along, can half-close from a script.
    lab.engine(
        "perl -MIO::Socket::INET -e '
           my $s = IO::Socket::INET->new(\"127.0.0.1:8377\") or die; $s->autoflush(1);
           print $s \"GET /factory/v1/hello HTTP/1.0\\r\\nHost: door\\r\\n\\r\\n\"; shutdown($s, 1); print <$s>'",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert!(
        lab.gateway.events().contains("\"run\":\"r7-1\""),
        "{}",
        lab.gateway.events()
    );
}

#[tokio::test]
async fn a_refused_end_is_an_exit_code() {
    let Some(mut lab) = Lab::new("refused end") else {
        return;
    };
    lab.gateway.seen.lock().unwrap().end_status = Some(StatusCode::FORBIDDEN);
    lab.engine("true", None);
    let done = lab.run().await;
    assert_eq!(done.code, 3);
    assert!(done.log.contains("end refused (403"), "{}", done.log);
}

#[tokio::test]
async fn report_takes_json_and_says_what_is_wrong_with_anything_else() {
    let Some(lab) = Lab::new("report") else {
        return;
    };
    let good = lab.path("good.json");
    std::fs::write(&good, "{\"summary\": \"done\"}").unwrap();
    let done = lab
        .start_with(&["report", good.to_str().unwrap()])
        .done()
        .await;
    assert_eq!(done.code, 0, "{}", done.log);
    let report = lab.path("factory/out/report.json");
    assert_eq!(
        std::fs::read_to_string(&report).unwrap(),
        "{\"summary\": \"done\"}"
    );

    std::fs::write(&good, "{\"summary\": }").unwrap();
    let done = lab
        .start_with(&["report", good.to_str().unwrap()])
        .done()
        .await;
    assert_eq!(done.code, 1);
    assert!(
        done.log.contains("not JSON") && done.log.contains("line 1 column 13"),
        "{}",
        done.log
    );
    assert_eq!(
        std::fs::read_to_string(&report).unwrap(),
        "{\"summary\": \"done\"}",
        "the good one stays"
    );
}

#[tokio::test]
async fn the_probe_says_hello_commits_and_names_what_is_wrong() {
    let Some(lab) = Lab::new("probe") else { return };
    std::fs::remove_dir_all(lab.path("workspace")).unwrap();
    std::fs::create_dir(lab.path("workspace")).unwrap();
    std::fs::create_dir(lab.path("tmp")).unwrap();
    let done = lab.start_with(&["probe"]).done().await;
    // Not a hardened container: what that lacks must be told.
    assert_eq!(done.code, 1);
    let said = std::fs::read_to_string(lab.path("agent.out")).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(seen["hello"], true, "{said}");
    assert_eq!(seen["commit"].as_str().unwrap().len(), 40, "{said}");
    assert_eq!(seen["interfaces"], serde_json::json!(["lo"]), "{said}");
    assert_eq!(seen["writable"]["/workspace"], true, "{said}");
    let problems = seen["problems"].to_string();
    assert!(
        problems.contains("capabilities") && problems.contains("privileges"),
        "{said}"
    );
}
