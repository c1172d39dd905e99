//! Reports: which are taken, and how many.

use crate::NOWHERE;
use crate::common::{Agent, Lab, quick};
use factory_core::{
    grant::Role,
    inbox::InboxEntry,
    wire::{self, Refusal},
};
use factory_gateway::client;
use hyper::StatusCode;

#[tokio::test]
async fn reports_are_checked_before_they_are_taken() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let mut agent = lab.agent().await;
    for bad in [
        "",
        "done",
        "{\"summary\": \"x\", \"verdict\": 1}",
        "{\"summary\": \" \"}",
        r#"{"summary": "x", "issues": [{"title": "a\nb", "body": "c"}]}"#,
        r#"{"summary": "x", "issues": [{"title": "a", "body": "b", "labels": []}]}"#,
    ] {
        let got = agent.post(wire::PATH_REPORT, bad).await;
        assert_eq!(got.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        let refusal: Refusal = serde_json::from_slice(&got.body).unwrap();
        assert!(refusal.error.contains("example"), "{}", refusal.error);
    }
    assert_eq!(
        agent
            .post(wire::PATH_REPORT, vec![b' '; (64 << 10) + 1])
            .await
            .status,
        413
    );
    assert_eq!(lab.inbox("r1-1"), []);
    let mut agent = lab.agent().await;
    assert_eq!(
        agent
            .post(wire::PATH_REPORT, "{ \"summary\": \"Fixed it.\" }")
            .await
            .status,
        204
    );
    assert_eq!(
        lab.inbox("r1-1"),
        [InboxEntry::Report {
            json: "{\"summary\":\"Fixed it.\"}".into()
        }]
    );
    lab.woken().await;

    let mut check = lab.grant("r1-2", NOWHERE);
    (check.role, check.branch, check.models) = (Role::Check, None, None);
    lab.grants.lock().unwrap().push(check);
    client::wake(&lab.places).await.unwrap();
    let got = Agent::connect(&lab.places, "r1-2")
        .await
        .post(wire::PATH_REPORT, "{\"summary\": \"x\"}")
        .await;
    assert_eq!(got.status, 422);
    assert!(got.text().contains("exit code"), "{}", got.text());
    lab.stop().await;
}

#[tokio::test]
async fn a_report_with_a_secret_is_refused_and_kept_nowhere() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let mut agent = lab.agent().await;
    // No token of anybody, put together here so that nobody takes this file for a leak.
    let token = format!("gh{}_{}", 'p', "aZ3kQ9xL7mB2vN8cT5rW1yH6jD4fS0gPqEuI");
    let report = format!("{{\"summary\": \"x\", \"comments\": [\"I found {token}.\"]}}");
    let got = agent.post(wire::PATH_REPORT, report).await;
    assert_eq!(got.status, StatusCode::UNPROCESSABLE_ENTITY);
    let refusal: Refusal = serde_json::from_slice(&got.body).unwrap();
    let says = "`comments[0]` holds a secret in line 1 (no secret: github-pat). Take it out";
    assert!(refusal.error.starts_with(says), "{}", refusal.error);
    assert!(!refusal.error.contains(&token), "{}", refusal.error);
    assert_eq!(lab.inbox("r1-1"), []);
    lab.stop().await;
}

#[tokio::test]
async fn a_run_hands_in_a_bounded_number_of_reports() {
    let mut lab = Lab::with_run(NOWHERE, quick()).await;
    let mut agent = lab.agent().await;
    let report = |n: usize| format!("{{\"summary\": \"report {n}\"}}");
    for n in 0..32 {
        assert_eq!(agent.post(wire::PATH_REPORT, report(n)).await.status, 204);
        // One that is wrong is asked for again, and counts nothing.
        assert_eq!(agent.post(wire::PATH_REPORT, "{}").await.status, 422);
    }
    for _ in 0..2 {
        let got = agent.post(wire::PATH_REPORT, report(99)).await;
        assert_eq!(got.status, 429, "{}", got.text());
        let refusal: Refusal = serde_json::from_slice(&got.body).unwrap();
        assert!(refusal.error.contains("32 reports"), "{}", refusal.error);
    }
    let reports = lab.inbox("r1-1").into_iter();
    let reports = reports.filter(|entry| matches!(entry, InboxEntry::Report { .. }));
    assert_eq!(reports.count(), 32);
    lab.stop().await;
    // The next gateway knows it.
    lab.start(quick()).await;
    let got = lab.agent().await.post(wire::PATH_REPORT, report(99)).await;
    assert_eq!(got.status, 429, "{}", got.text());
    lab.stop().await;
}
