//! What tests rely on beyond the contract: counts, lost answers, restarts.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use factory_core::container::{ContainerLimits, ContainerSpec, Owner};
use factory_core::ids::Epoch;
use factory_runtime::{ContainerState, Created, Runtime, RuntimeError, Started};
use factory_testkit::double::{DoubleRuntime, Event, Inside, Operation, When};
use std::collections::BTreeMap;

const IMAGE: &str = "sha256:of-the-double";

fn spec(k: u32) -> ContainerSpec {
    let run = format!("r1-{k}").parse().unwrap();
    ContainerSpec {
        name: ContainerSpec::name_for("0000000a", run),
        image: IMAGE.to_owned(),
        runtime: None,
        argv: vec!["/agent".to_owned()],
        env: BTreeMap::new(),
        workdir: "/".to_owned(),
        uid: 1,
        gid: 1,
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        limits: ContainerLimits {
            memory: 1 << 20,
            milli_cpus: 100,
            pids: 1,
            file_size: 1 << 30,
        },
        owner: Owner {
            home: "0000000a".to_owned(),
            run,
            epoch: Epoch(1),
        },
    }
}

/// Containers that run until they are asked to end.
fn obedient() -> DoubleRuntime {
    let double = DoubleRuntime::new(|inside: Inside| async move {
        inside.terminate.cancelled().await;
        0
    });
    double.add_image(IMAGE);
    double
}

#[tokio::test]
async fn counts_are_of_the_same_time() {
    let double = obedient();
    for k in 1..=3 {
        double.create(&spec(k)).await.unwrap();
    }
    for k in [1, 2] {
        double.start(&spec(k).name).await.unwrap();
    }
    double.stop(&spec(1).name, 60).await.unwrap();
    double.start(&spec(3).name).await.unwrap();
    double.remove(&spec(1).name).await.unwrap();
    double.create(&spec(4)).await.unwrap();
    assert_eq!(double.most_running(), 2);
    assert_eq!(double.most_existing(), 3);
    double.shut_down().await;
}

#[tokio::test]
async fn a_restarted_kernel_finds_what_ran_on() {
    let double = obedient();
    let first_kernel = double.clone();
    first_kernel.create(&spec(1)).await.unwrap();
    first_kernel.start(&spec(1).name).await.unwrap();
    drop(first_kernel);
    let found = double.create(&spec(1)).await.unwrap();
    assert!(matches!(found, Created::Existing(_)));
    let again = double.start(&spec(1).name).await.unwrap();
    assert_eq!(again, Started::AlreadyRunning);
    double.stop(&spec(1).name, 60).await.unwrap();
    assert_eq!(double.wait(&spec(1).name).await.unwrap().code, 0);
    double.shut_down().await;
}

#[tokio::test]
async fn an_error_strikes_before_or_after_and_once() {
    let double = obedient();
    let cut = || RuntimeError::Unreachable {
        socket: "/d.sock".into(),
        operation: "create",
        source: "injected".into(),
    };
    double.fail_next(Operation::Create, When::Before, cut());
    double.fail_next(Operation::Create, When::After, cut());
    let name = spec(1).name;
    double.create(&spec(1)).await.unwrap_err();
    assert_eq!(double.inspect(&name).await.unwrap(), None);
    double.create(&spec(1)).await.unwrap_err();
    let status = double.inspect(&name).await.unwrap().unwrap();
    assert_eq!(status.state, ContainerState::Created);
    let found = double.create(&spec(1)).await.unwrap();
    assert_eq!(found, Created::Existing(status));
}

#[tokio::test]
async fn a_panicking_behaviour_ends_its_container_only() {
    let double = DoubleRuntime::new(|inside: Inside| async move {
        assert!(inside.spec.owner.run.k != 1, "as this test wants it");
        7
    });
    double.add_image(IMAGE);
    for (k, code) in [(1, 101), (2, 7)] {
        double.create(&spec(k)).await.unwrap();
        double.start(&spec(k).name).await.unwrap();
        assert_eq!(double.wait(&spec(k).name).await.unwrap().code, code);
    }
}

#[tokio::test]
async fn a_test_can_wait_for_what_happens() {
    let double = obedient();
    let name = spec(1).name;
    let started = Event::Started(name.clone());
    let (kernel, test) = (double.clone(), double.clone());
    let drive = async {
        kernel.create(&spec(1)).await.unwrap();
        kernel.start(&name).await.unwrap();
    };
    let watch = async {
        test.until(|events| events.contains(&started)).await;
        test.kill(&name).await.unwrap();
    };
    tokio::join!(watch, drive);
    let ended = Event::Ended {
        name: name.clone(),
        code: 137,
    };
    assert_eq!(double.events().last(), Some(&ended));
    // The engine's clock is the test's.
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    double.set_now(at);
    double.create(&spec(2)).await.unwrap();
    double.start(&spec(2).name).await.unwrap();
    double.kill(&spec(2).name).await.unwrap();
    let exit = double.wait(&spec(2).name).await.unwrap();
    assert_eq!(exit.started, at);
    double.shut_down().await;
}
