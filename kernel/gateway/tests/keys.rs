//! Keys that change while the gateway runs, and keys that a command gives.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

mod common;

use common::{Agent, KEY_ENV, Lab, Provider, Reply, bytes, quick, soon, whole};
use factory_gateway::Timing;
use futures_util::future::join_all;
use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

const OLD: &str = "sk-the-old-key-0123456789";
const NEW: &str = "sk-the-new-key-0123456789";

/// Writes a file of the user's alone, as an editor does: a new one in its place.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A gateway with one granted run, whose keys stand in a file.
async fn lab(provider: &Provider, keys: &str, timing: Timing) -> Lab {
    let mut lab = Lab::new().await;
    write(&lab.keys_env(), keys);
    let grant = lab.grant("r1-1", &provider.base_url);
    lab.grants.lock().unwrap().push(grant);
    lab.start(timing).await;
    lab
}

fn line(key: &str) -> String {
    format!("{KEY_ENV}={key}\n")
}

/// The keys with which a provider was called.
fn used(provider: &Provider) -> Vec<String> {
    let asked = provider.asked().into_iter();
    asked
        .map(|asked| asked.headers["x-api-key"].to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_changed_file_is_taken_up_by_the_next_call() {
    let provider = Provider::new(vec![whole()]).await;
    provider.accept(OLD);
    let mut lab = lab(&provider, &line(OLD), quick()).await;
    let mut agent = lab.agent().await;
    assert_eq!(agent.whole_model().await.status, 200);
    write(&lab.keys_env(), &line(NEW));
    provider.accept(NEW);
    assert_eq!(agent.whole_model().await.status, 200);
    assert_eq!(used(&provider), [OLD, NEW]);
    assert_eq!(lab.usages().len(), 2);
    // What an old key was is not said either.
    agent
        .post("/factory/v1/events", format!("{OLD} {NEW}\n"))
        .await;
    let transcript = lab.transcript();
    assert!(
        transcript.contains("[key redacted] [key redacted]"),
        "{transcript}"
    );
    lab.stop().await;
}

#[tokio::test]
async fn a_call_whose_key_changes_on_the_way_is_made_again_and_counted_once() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let mut refusal = Reply::json(401, "");
    refusal.pieces = vec![common::Piece::Gate(Arc::clone(&gate)), bytes("{}")];
    let provider = Provider::new(vec![refusal, whole()]).await;
    let mut lab = lab(&provider, &line(OLD), quick()).await;
    let mut agent = lab.agent().await;
    let (answered, ()) = tokio::join!(agent.whole_model(), async {
        while provider.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        write(&lab.keys_env(), &line(NEW));
        gate.notify_one();
    });
    assert_eq!(answered.status, 200);
    assert_eq!(used(&provider), [OLD, NEW]);
    let statuses: Vec<_> = lab.usages().iter().map(|usage| usage.status).collect();
    assert_eq!(statuses, [200]);
    lab.stop().await;
}

#[tokio::test]
async fn a_file_that_is_gone_or_wrong_changes_nothing() {
    let provider = Provider::new(vec![whole()]).await;
    provider.accept(OLD);
    let mut lab = lab(&provider, &line(OLD), quick()).await;
    let mut agent = lab.agent().await;
    assert_eq!(agent.whole_model().await.status, 200);
    write(&lab.keys_env(), "");
    assert_eq!(agent.whole_model().await.status, 200);
    write(&lab.keys_env(), "half a li");
    assert_eq!(agent.whole_model().await.status, 200);
    write(&lab.keys_env(), &line(NEW));
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(lab.keys_env(), open).unwrap();
    assert_eq!(agent.whole_model().await.status, 200);
    std::fs::remove_file(lab.keys_env()).unwrap();
    assert_eq!(agent.whole_model().await.status, 200);
    assert_eq!(used(&provider), [OLD; 5]);
    lab.stop().await;
}

#[tokio::test]
async fn a_key_that_stays_wrong_is_refused_once() {
    let provider = Provider::new(vec![whole()]).await;
    provider.accept(NEW);
    let mut lab = lab(&provider, &line(OLD), quick()).await;
    let refused = lab.agent().await.whole_model().await;
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(used(&provider), [OLD]);
    assert_eq!(lab.usages()[0].status, 401);
    lab.stop().await;
}

#[tokio::test]
async fn a_name_that_nobody_gave_is_refused_with_the_place_for_it() {
    let provider = Provider::new(vec![whole()]).await;
    let mut lab = lab(&provider, "OTHER_API_KEY=sk-other-0123456789\n", quick()).await;
    let refused = lab.agent().await.whole_model().await.text();
    assert!(
        refused.contains(KEY_ENV) && refused.contains("keys.env"),
        "{refused}"
    );
    assert!(used(&provider).is_empty());
    lab.stop().await;
}

/// A command that says what stands in a file, and counts how often it was asked.
fn told(lab: &Path) -> String {
    let lab = lab.display();
    format!("FACTORY_KEY_COMMAND='echo \"$FACTORY_KEY_NAME\" >>{lab}/asked; cat {lab}/secret'\n")
}

#[tokio::test]
async fn a_command_is_asked_for_what_is_needed_and_again_after_a_refusal() {
    let provider = Provider::new(vec![whole()]).await;
    provider.accept(OLD);
    let timing = Timing {
        key_pause: Duration::from_millis(10),
        ..quick()
    };
    let mut lab = lab(&provider, "", timing).await;
    let dir = lab.dir.path().to_owned();
    write(&lab.keys_env(), &told(&dir));
    write(&dir.join("secret"), OLD);
    let mut agent = lab.agent().await;
    for _ in 0..2 {
        assert_eq!(agent.whole_model().await.status, 200);
    }
    let asked = || std::fs::read_to_string(dir.join("asked")).unwrap();
    assert_eq!(asked(), format!("{KEY_ENV}\n"), "once is enough");
    provider.accept(NEW);
    write(&dir.join("secret"), NEW);
    // All that are refused at the same time share one question.
    let mut agents: Vec<Agent> = Vec::new();
    for _ in 0..4 {
        agents.push(lab.agent().await);
    }
    let calls = agents.iter_mut().map(|agent| agent.whole_model());
    for answered in soon("answers", join_all(calls)).await {
        assert_eq!(answered.status, 200);
    }
    assert_eq!(asked(), format!("{KEY_ENV}\n").repeat(2));
    assert_eq!(lab.usages().len(), 6, "each call is counted once");
    lab.stop().await;
}

#[tokio::test]
async fn all_whose_key_stays_wrong_share_one_question() {
    const CALLS: usize = 4;
    let gates: Vec<_> = (0..CALLS)
        .map(|_| Arc::new(tokio::sync::Notify::new()))
        .collect();
    let held = |gate: &Arc<tokio::sync::Notify>| {
        let mut refusal = Reply::json(401, "");
        refusal.pieces = vec![common::Piece::Gate(Arc::clone(gate)), bytes("{}")];
        refusal
    };
    let provider = Provider::new(gates.iter().map(held).collect()).await;
    let timing = Timing {
        key_pause: Duration::from_millis(10),
        ..quick()
    };
    let mut lab = lab(&provider, "", timing).await;
    let dir = lab.dir.path().to_owned();
    write(&lab.keys_env(), &told(&dir));
    write(&dir.join("secret"), OLD);
    let mut agents: Vec<Agent> = Vec::new();
    for _ in 0..CALLS {
        agents.push(lab.agent().await);
    }
    let calls = agents.iter_mut().map(|agent| agent.whole_model());
    // Nobody is refused before all have asked.
    let (answered, ()) = tokio::join!(soon("answers", join_all(calls)), async {
        while provider.asked().len() < CALLS {
            tokio::task::yield_now().await;
        }
        gates.iter().for_each(|gate| gate.notify_one());
    });
    assert!(answered.iter().all(|answered| answered.status == 403));
    let asked = std::fs::read_to_string(dir.join("asked")).unwrap();
    assert_eq!(asked, format!("{KEY_ENV}\n").repeat(2));
    assert_eq!(used(&provider), [OLD; CALLS]);
    lab.stop().await;
}

#[tokio::test]
async fn a_command_that_hangs_holds_up_nobody_else() {
    let provider = Provider::new(vec![whole()]).await;
    let timing = Timing {
        key_wait: Duration::from_secs(300),
        ..quick()
    };
    let keys = "FACTORY_KEY_COMMAND='exec sleep 1000'\nOTHER_API_KEY=sk-other-0123456789\n";
    let mut lab = lab(&provider, keys, timing).await;
    let mut other = lab.grant("r2-1", &provider.base_url);
    other.models.as_mut().unwrap().key_env = "OTHER_API_KEY".into();
    lab.grants.lock().unwrap().push(other);
    factory_gateway::client::wake(&lab.places).await.unwrap();
    let mut stuck = lab.agent().await;
    let mut other = Agent::connect(&lab.places, "r2-1").await;
    tokio::select! {
        stuck = stuck.model() => panic!("{stuck:?}"),
        answered = other.whole_model() => assert_eq!(answered.status, 200),
    }
    // The run's END does not wait for it either, and the command goes with the call.
    lab.stop().await;
}

#[tokio::test]
async fn what_a_command_says_of_its_failure_stays_on_this_machine() {
    let provider = Provider::new(vec![whole()]).await;
    let keys = "FACTORY_KEY_COMMAND='echo locked by me >&2; exit 4'\n";
    let mut lab = lab(&provider, keys, quick()).await;
    let refused = lab.agent().await.whole_model().await;
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let text = refused.text();
    assert!(
        text.contains("exit status: 4") && text.contains("factory doctor"),
        "{text}"
    );
    assert!(!text.contains("locked"), "{text}");
    lab.stop().await;
}
