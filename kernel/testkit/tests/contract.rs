//! One contract for every container engine: each case runs on Docker and on
//! the double, so that what the kernel's tests rely on is what Docker does.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use factory_core::ids::Epoch;
use factory_runtime::{ContainerState, ContainerStatus, Created, Runtime, RuntimeError, Started};
use factory_testkit::double::{DoubleRuntime, Ending, Inside};
use factory_testkit::served::{ServedRuntime, serve};
use futures_util::future::{BoxFuture, join_all};
use std::sync::Arc;
use support::{Bench, Meeting, on_docker};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Cases at a time: containers of a small machine start one after the other anyway.
const AT_ONCE: usize = 4;

type Case<R> = fn(Bench<R>) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($case:ident,)*) => {
        fn cases<R: Runtime + Clone>() -> Vec<(&'static str, Case<R>)> {
            vec![$((stringify!($case), |bench| Box::pin($case(bench)))),*]
        }
    };
}

cases! {
    create_new,
    create_again_finds_it,
    create_at_once_makes_one,
    create_other_spec_is_refused,
    create_without_image,
    create_without_mount_source,
    create_without_program,
    start_and_start_again,
    start_never_twice,
    start_absent,
    wait_tells_exit_codes,
    wait_from_before_the_end,
    wait_after_the_end,
    wait_never_started,
    wait_absent,
    wait_ends_on_removal,
    kill_ends_with_137,
    kill_is_repeatable,
    stop_is_heard,
    stop_kills_after_the_grace,
    stop_is_repeatable,
    inspect_absent,
    list_knows_homes_apart,
    remove_is_repeatable,
    remove_forces,
    removed_names_are_free,
    oom_is_told,
    output_tail_is_the_end,
}

async fn run_all<R: Runtime + Clone>(engine: &str, bench: &Bench<R>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (name, case) in cases::<R>() {
        let bench = Bench::new(bench.runtime.clone(), &bench.image);
        let turns = Arc::clone(&turns);
        running.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (name, bench.run(case(bench.clone())).await)
        });
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (name, outcome) = ended.unwrap();
        let name = name.replace('_', "-");
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("contract {engine}: {name} {verdict}");
        if outcome.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "contract {engine}: {failed:?} failed");
}

#[tokio::test]
async fn docker_keeps_the_contract() {
    on_docker("contract docker", |bench, _| async move {
        run_all("docker", &bench).await;
    })
    .await;
}

#[tokio::test]
async fn double_keeps_the_contract() {
    const IMAGE: &str = "sha256:of-the-double";
    let double = DoubleRuntime::new(fake_agent);
    double.add_image(IMAGE);
    run_all("double", &Bench::new(double.clone(), IMAGE)).await;
    double.shut_down().await;
}

/// As the kernel of the fault sweep meets it: in another process.
#[tokio::test]
async fn served_double_keeps_the_contract() {
    const IMAGE: &str = "sha256:of-the-double";
    let double = DoubleRuntime::new(fake_agent);
    double.add_image(IMAGE);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let bench = Bench::new(ServedRuntime::at(socket), IMAGE);
    tokio::select! {
        () = run_all("served double", &bench) => {}
        ended = serve(double.clone(), listener) => panic!("{ended:?}"),
    }
    double.shut_down().await;
}

/// What the program of the same name does, for the double.
async fn fake_agent(inside: Inside) -> Ending {
    let argv: Vec<&str> = inside.spec.argv.iter().map(String::as_str).collect();
    match argv[1..] {
        ["exit", code] => code.parse::<i64>().unwrap().into(),
        ["print", text, code] => {
            inside.print(text);
            code.parse::<i64>().unwrap().into()
        }
        ["await-term", code, _] => {
            let socket = format!("{}/{}", inside.spec.mounts[0].source, Meeting::SOCKET);
            tokio::net::UnixStream::connect(socket).await.unwrap();
            inside.terminate.cancelled().await;
            code.parse::<i64>().unwrap().into()
        }
        ["ignore-term"] => std::future::pending().await,
        ["eat-memory"] => Ending {
            code: 137,
            oom_killed: true,
        },
        _ => panic!("no such mode: {argv:?}"),
    }
}

const READY: &str = "/meet/ready.sock";

impl<R: Runtime + Clone> Bench<R> {
    async fn started(&self, k: u32, arguments: &[&str]) -> String {
        let spec = self.spec(k, arguments);
        assert_eq!(self.runtime.create(&spec).await.unwrap(), Created::New);
        assert_eq!(self.runtime.start(&spec.name).await.unwrap(), Started::Now);
        spec.name
    }

    /// A container that is ready to hear SIGTERM, and then ends with `code`.
    async fn listening(&self, k: u32, code: &str) -> String {
        let meeting = Meeting::new();
        let mut spec = self.spec(k, &["await-term", code, READY]);
        spec.mounts.push(meeting.mount());
        assert_eq!(self.runtime.create(&spec).await.unwrap(), Created::New);
        assert_eq!(self.runtime.start(&spec.name).await.unwrap(), Started::Now);
        meeting.ready().await;
        spec.name
    }

    async fn ended(&self, k: u32, code: i64) -> String {
        let name = self.started(k, &["exit", &code.to_string()]).await;
        assert_eq!(self.runtime.wait(&name).await.unwrap().code, code);
        name
    }

    async fn status(&self, name: &str) -> ContainerStatus {
        self.runtime.inspect(name).await.unwrap().unwrap()
    }

    async fn is_running(&self, name: &str) -> bool {
        matches!(self.status(name).await.state, ContainerState::Running)
    }
}

async fn create_new<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(12, &["exit", "0"]);
    assert_eq!(bench.runtime.create(&spec).await.unwrap(), Created::New);
    let status = bench.status(&spec.name).await;
    assert_eq!(status.name, spec.name);
    assert_eq!(status.state, ContainerState::Created);
    assert_eq!(status.home(), Some(&*bench.home));
    assert_eq!(status.run(), Some("r1-12".parse().unwrap()));
    assert_eq!(status.epoch(), Some(Epoch(3)));
    assert_eq!(status.spec(), Some(&*spec.digest()));
    assert!(status.is_from(&spec));
}

async fn create_again_finds_it<R: Runtime + Clone>(bench: Bench<R>) {
    let mut spec = bench.spec(1, &["exit", "7"]);
    assert_eq!(bench.runtime.create(&spec).await.unwrap(), Created::New);
    // The next kernel has the next epoch, and adopts.
    spec.owner.epoch = Epoch(4);
    match bench.runtime.create(&spec).await.unwrap() {
        Created::Existing(found) => {
            assert_eq!(found.state, ContainerState::Created);
            assert_eq!(found.epoch(), Some(Epoch(3)));
        }
        Created::New => panic!("made a second one"),
    }
    bench.runtime.start(&spec.name).await.unwrap();
    let exit = bench.runtime.wait(&spec.name).await.unwrap();
    match bench.runtime.create(&spec).await.unwrap() {
        Created::Existing(found) => assert_eq!(found.state, ContainerState::Exited(exit)),
        Created::New => panic!("made a second one"),
    }
}

async fn create_at_once_makes_one<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(1, &["exit", "0"]);
    let outcomes = join_all((0..4).map(|_| bench.runtime.create(&spec))).await;
    let new = |outcome: &Result<_, _>| matches!(outcome.as_ref().unwrap(), Created::New);
    assert_eq!(
        outcomes.iter().filter(|o| new(o)).count(),
        1,
        "{outcomes:?}"
    );
}

async fn create_other_spec_is_refused<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(1, &["exit", "0"]);
    bench.runtime.create(&spec).await.unwrap();
    let other_program = bench.spec(1, &["exit", "1"]);
    let mut other_owner = spec.clone();
    other_owner.owner.home = bench.other_home.clone();
    for other in [other_program, other_owner] {
        assert_eq!(other.name, spec.name);
        let error = bench.runtime.create(&other).await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::NameTaken { name } if *name == spec.name),
            "{error}"
        );
    }
}

async fn create_without_image<R: Runtime + Clone>(bench: Bench<R>) {
    let mut spec = bench.spec(1, &["exit", "0"]);
    spec.image = format!("sha256:{}", "0".repeat(64));
    let error = bench.runtime.create(&spec).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::NoImage { image } if *image == spec.image),
        "{error}"
    );
}

async fn create_without_mount_source<R: Runtime + Clone>(bench: Bench<R>) {
    let mut spec = bench.spec(1, &["exit", "0"]);
    let parent = tempfile::tempdir().unwrap();
    let absent = parent.path().join("absent");
    let mut mount = Meeting::new().mount();
    mount.source = absent.to_str().unwrap().to_owned();
    spec.mounts.push(mount);
    let error = bench.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error}");
    assert!(!absent.exists(), "the engine made the directory");
    assert_eq!(bench.runtime.inspect(&spec.name).await.unwrap(), None);
}

async fn create_without_program<R: Runtime + Clone>(bench: Bench<R>) {
    let mut spec = bench.spec(1, &[]);
    spec.argv.clear();
    let error = bench.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error}");
}

async fn start_and_start_again<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.started(1, &["ignore-term"]).await;
    assert!(bench.is_running(&name).await);
    let again = bench.runtime.start(&name).await.unwrap();
    assert_eq!(again, Started::AlreadyRunning);
}

async fn start_never_twice<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.ended(1, 0).await;
    let before = bench.status(&name).await;
    let error = bench.runtime.start(&name).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::AlreadyEnded { .. }),
        "{error}"
    );
    assert_eq!(bench.status(&name).await, before);
}

async fn start_absent<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.spec(1, &[]).name;
    let error = bench.runtime.start(&name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}

async fn wait_tells_exit_codes<R: Runtime + Clone>(bench: Bench<R>) {
    for (k, code) in [(1, 0), (2, 7)] {
        let name = bench.started(k, &["exit", &code.to_string()]).await;
        let exit = bench.runtime.wait(&name).await.unwrap();
        assert_eq!((exit.code, exit.oom_killed), (code, false));
        assert!(exit.started <= exit.finished);
        assert_eq!(
            bench.status(&name).await.state,
            ContainerState::Exited(exit)
        );
    }
}

async fn wait_from_before_the_end<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.listening(1, "5").await;
    let waits = join_all([bench.runtime.wait(&name), bench.runtime.wait(&name)]);
    let (exits, stopped) = tokio::join!(waits, bench.runtime.stop(&name, 60));
    stopped.unwrap();
    for exit in exits {
        assert_eq!(exit.unwrap().code, 5);
    }
}

async fn wait_after_the_end<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.ended(1, 7).await;
    let again = bench.runtime.wait(&name).await.unwrap();
    assert_eq!(again.code, 7);
}

async fn wait_never_started<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(1, &["exit", "0"]);
    bench.runtime.create(&spec).await.unwrap();
    let error = bench.runtime.wait(&spec.name).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::NeverStarted { .. }),
        "{error}"
    );
}

async fn wait_absent<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.spec(1, &[]).name;
    let error = bench.runtime.wait(&name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}

async fn wait_ends_on_removal<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.started(1, &["ignore-term"]).await;
    let (waited, removed) = tokio::join!(bench.runtime.wait(&name), bench.runtime.remove(&name));
    removed.unwrap();
    // Which of the two depends on who is quicker.
    match waited {
        Ok(exit) => assert_eq!(exit.code, 137),
        Err(error) => assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}"),
    }
}

async fn kill_ends_with_137<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.listening(1, "5").await;
    bench.runtime.kill(&name).await.unwrap();
    // It has ended when the call returns.
    match bench.status(&name).await.state {
        ContainerState::Exited(exit) => assert_eq!((exit.code, exit.oom_killed), (137, false)),
        state => panic!("{state:?}"),
    }
}

async fn kill_is_repeatable<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(1, &["exit", "0"]);
    bench.runtime.kill(&spec.name).await.unwrap();
    bench.runtime.create(&spec).await.unwrap();
    bench.runtime.kill(&spec.name).await.unwrap();
    assert_eq!(
        bench.status(&spec.name).await.state,
        ContainerState::Created
    );
    let ended = bench.ended(2, 7).await;
    bench.runtime.kill(&ended).await.unwrap();
    assert_eq!(bench.runtime.wait(&ended).await.unwrap().code, 7);
}

async fn stop_is_heard<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.listening(1, "5").await;
    bench.runtime.stop(&name, 60).await.unwrap();
    match bench.status(&name).await.state {
        ContainerState::Exited(exit) => assert_eq!(exit.code, 5),
        state => panic!("{state:?}"),
    }
}

async fn stop_kills_after_the_grace<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.started(1, &["ignore-term"]).await;
    bench.runtime.stop(&name, 1).await.unwrap();
    assert_eq!(bench.runtime.wait(&name).await.unwrap().code, 137);
}

async fn stop_is_repeatable<R: Runtime + Clone>(bench: Bench<R>) {
    let spec = bench.spec(1, &["exit", "0"]);
    bench.runtime.stop(&spec.name, 1).await.unwrap();
    bench.runtime.create(&spec).await.unwrap();
    bench.runtime.stop(&spec.name, 1).await.unwrap();
    // Stopping what never ran does not use it up.
    assert_eq!(bench.runtime.start(&spec.name).await.unwrap(), Started::Now);
    assert_eq!(bench.runtime.wait(&spec.name).await.unwrap().code, 0);
    bench.runtime.stop(&spec.name, 1).await.unwrap();
    assert_eq!(bench.runtime.wait(&spec.name).await.unwrap().code, 0);
}

async fn inspect_absent<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.spec(1, &[]).name;
    assert_eq!(bench.runtime.inspect(&name).await.unwrap(), None);
}

async fn list_knows_homes_apart<R: Runtime + Clone>(bench: Bench<R>) {
    assert_eq!(bench.runtime.list(&bench.home).await.unwrap(), []);
    let ended = bench.ended(1, 7).await;
    let running = bench.started(2, &["ignore-term"]).await;
    let created = bench.spec(3, &["exit", "0"]);
    bench.runtime.create(&created).await.unwrap();
    // The same run of another factory.
    let foreign = bench.spec_of(&bench.other_home, 1, &["exit", "0"]);
    assert_eq!(bench.runtime.create(&foreign).await.unwrap(), Created::New);

    let list = bench.runtime.list(&bench.home).await.unwrap();
    let names: Vec<&str> = list.iter().map(|status| &*status.name).collect();
    assert_eq!(names, [&*ended, &*running, &*created.name]);
    for status in &list {
        assert_eq!(*status, bench.status(&status.name).await);
    }
    let others = bench.runtime.list(&bench.other_home).await.unwrap();
    let names: Vec<&str> = others.iter().map(|status| &*status.name).collect();
    assert_eq!(names, [&*foreign.name]);
}

async fn remove_is_repeatable<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.ended(1, 0).await;
    let removals = join_all((0..4).map(|_| bench.runtime.remove(&name))).await;
    for removed in removals {
        removed.unwrap();
    }
    assert_eq!(bench.runtime.inspect(&name).await.unwrap(), None);
    bench.runtime.remove(&name).await.unwrap();
}

async fn remove_forces<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.started(1, &["ignore-term"]).await;
    bench.runtime.remove(&name).await.unwrap();
    assert_eq!(bench.runtime.inspect(&name).await.unwrap(), None);
}

async fn removed_names_are_free<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.ended(1, 0).await;
    bench.runtime.remove(&name).await.unwrap();
    assert_eq!(bench.ended(1, 7).await, name);
}

async fn oom_is_told<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench.started(1, &["eat-memory"]).await;
    let exit = bench.runtime.wait(&name).await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
}

async fn output_tail_is_the_end<R: Runtime + Clone>(bench: Bench<R>) {
    let name = bench
        .started(1, &["print", "first line\nlast line\n", "0"])
        .await;
    bench.runtime.wait(&name).await.unwrap();
    let tail = |bytes| bench.runtime.output_tail(&name, bytes);
    assert_eq!(tail(4096).await.unwrap(), "first line\nlast line\n");
    assert_eq!(tail(10).await.unwrap(), "last line\n");
    let absent = bench.spec(2, &[]).name;
    let error = bench.runtime.output_tail(&absent, 10).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}
