//! What the container tests share: an image with one program in it, and
//! containers that are gone afterwards whatever happens.

use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use factory_core::container::{ContainerLimits, ContainerSpec, Mount, Owner};
use factory_core::ids::{Epoch, RunId};
use factory_runtime::Runtime;
use factory_runtime::docker::{Connection, DockerRuntime, connect};
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// The program in the image.
pub const AGENT: &str = "/fake-agent";
/// Where [`Meeting`] is mounted.
pub const MEETING: &str = "/meet";
/// The user that containers run as.
pub const USER: u32 = 10_001;

/// One test's place on an engine.
#[derive(Clone)]
pub struct Bench<R> {
    pub runtime: R,
    pub image: String,
    pub home: String,
    /// Another factory on the same engine.
    pub other_home: String,
}

impl<R: Runtime + Clone> Bench<R> {
    pub fn new(runtime: R, image: &str) -> Self {
        Self {
            runtime,
            image: image.to_owned(),
            home: random_home(),
            other_home: random_home(),
        }
    }

    /// A container that runs the fake agent, of the k-th run of job 1.
    pub fn spec(&self, k: u32, arguments: &[&str]) -> ContainerSpec {
        self.spec_of(&self.home, k, arguments)
    }

    pub fn spec_of(&self, home: &str, k: u32, arguments: &[&str]) -> ContainerSpec {
        let run: RunId = format!("r1-{k}").parse().unwrap();
        let argv = std::iter::once(AGENT).chain(arguments.iter().copied());
        ContainerSpec {
            name: ContainerSpec::name_for(home, run),
            image: self.image.clone(),
            runtime: None,
            argv: argv.map(str::to_owned).collect(),
            env: BTreeMap::new(),
            workdir: "/".to_owned(),
            uid: USER,
            gid: USER,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            limits: ContainerLimits {
                memory: 64 << 20,
                milli_cpus: 1000,
                pids: 16,
                file_size: 1 << 30,
            },
            owner: Owner {
                home: home.to_owned(),
                run,
                epoch: Epoch(3),
            },
        }
    }

    /// Runs `body` in a task of its own, then removes all containers of the
    /// bench, and only then lets a panic go on.
    pub async fn run<F>(&self, body: F) -> Result<(), tokio::task::JoinError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut task = JoinSet::new();
        task.spawn(body);
        let outcome = task.join_next().await.unwrap();
        for home in [&self.home, &self.other_home] {
            for container in self.runtime.list(home).await.unwrap() {
                self.runtime.remove(&container.name).await.unwrap();
            }
        }
        outcome
    }
}

/// Runs `body` on the Docker engine, with an image that is removed afterwards.
/// No engine is a failure, unless `FACTORY_NO_DOCKER=1` says that there is none.
pub async fn on_docker<B, F>(test: &str, body: B)
where
    B: FnOnce(Bench<DockerRuntime>, Connection) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    if std::env::var_os("FACTORY_NO_DOCKER").is_some_and(|value| value == "1") {
        println!("skipped: {test}: FACTORY_NO_DOCKER=1");
        return;
    }
    let connection = connect().await.unwrap_or_else(|error| {
        panic!("{error}\n(FACTORY_NO_DOCKER=1 skips the tests that need Docker)")
    });
    let image = import_image(&connection).await;
    let runtime = DockerRuntime::new(connection.clone()).await.unwrap();
    let bench = Bench::new(runtime, &image);
    let outcome = bench.run(body(bench.clone(), connection.clone())).await;
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    let removed = connection.client.remove_image(&image, Some(options), None);
    removed.await.unwrap();
    if let Err(panicked) = outcome {
        std::panic::resume_unwind(panicked.into_panic());
    }
}

/// An image of nothing but the fake agent and a directory open to everybody.
async fn import_image(connection: &Connection) -> String {
    let mut archive = tar::Builder::new(Vec::new());
    let program = env!("CARGO_BIN_EXE_fake-agent");
    archive.append_path_with_name(program, &AGENT[1..]).unwrap();
    let mut open = tar::Header::new_gnu();
    open.set_entry_type(tar::EntryType::Directory);
    open.set_mode(0o777);
    open.set_size(0);
    archive
        .append_data(&mut open, "open", std::io::empty())
        .unwrap();
    let archive = bollard::body_full(archive.into_inner().unwrap().into());
    let options = CreateImageOptionsBuilder::new().from_src("-").build();
    let answers = connection
        .client
        .create_image(Some(options), Some(archive), None);
    let answers: Vec<_> = answers.try_collect().await.unwrap();
    // The last line is the id of the new image.
    answers.last().unwrap().status.clone().unwrap()
}

/// Eight hexadecimal digits that no other test has.
fn random_home() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{:08x}", random & 0xffff_ffff)
}

/// A socket at which a container reports that it is ready.
pub struct Meeting {
    directory: TempDir,
    listener: UnixListener,
}

impl Meeting {
    /// Name of the socket in the mounted directory.
    pub const SOCKET: &str = "ready.sock";

    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join(Self::SOCKET);
        let listener = UnixListener::bind(&socket).unwrap();
        // The container's user is another one.
        for (path, mode) in [(directory.path(), 0o755), (&*socket, 0o666)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        Self {
            directory,
            listener,
        }
    }

    pub fn mount(&self) -> Mount {
        Mount {
            source: self.directory.path().to_str().unwrap().to_owned(),
            target: MEETING.to_owned(),
            read_only: true,
        }
    }

    /// Returns when the container is ready.
    pub async fn ready(&self) {
        self.listener.accept().await.unwrap();
    }
}
