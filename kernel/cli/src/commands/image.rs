//! `factory image build`, and what `start` does before its kernel.

mod shown;
mod stock;

use crate::{
    args::{Image, Start},
    base::{Base, base_of},
    commands::{
        processes::{log_to_stderr, on_this_thread},
        sync, take_over,
    },
    factory::{CONFIG_LIMIT, Factory, check_prefix},
    failure::{self, Class, Failure, INTERRUPTED},
    kernel::blocking,
    keys,
    probe::{self, Verdict},
    room::Subject,
    rules, views, wait,
};
use bollard::Docker;
use factory_core::{
    config::{self, Config},
    ids::Oid,
};
use factory_ledger::{places::Places, user::UserRepo};
use factory_runtime::{
    Runtime,
    docker::{self, DockerRuntime},
    image::{self, HostNetwork, ImageError, ImageId, ImageRequest},
};
use shown::Shown;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::SystemTime,
};
use stock::Record;
use tokio::signal::unix::{SignalKind, signal};

/// The program that is pid 1 of every agent container.
const AGENT: &str = "factory-agent";

/// `factory image …`.
pub fn run(cwd: &Path, command: Image) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let factory = Factory::open(cwd)?;
    let places = &factory.places;
    let target = &factory.state.meta.target;
    let (_, config) = factory.wanted_config(None, target)?;
    let wanted = all_wanted(&config, &factory.user, &factory.tip_of(target)?)?;
    on_this_thread(async {
        let docker = docker::connect().await?.client;
        match command {
            Image::Build => {
                for wanted in &wanted {
                    match build(&docker, places, wanted).await? {
                        Some(id) => views::print(&format!("{id}\n")).map(drop)?,
                        None => return Ok(ExitCode::from(INTERRUPTED)),
                    }
                }
            }
            Image::List(json) => stock::list(&docker, places, &wanted, json.json).await?,
            Image::Prune { all } => stock::prune(&docker, places, &wanted, all).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What `start` does before its kernel: everything that can be found wrong
/// before a container runs, and an image when there is none.
pub fn prepare(cwd: &Path, options: &Start) -> Result<ExitCode, Failure> {
    log_to_stderr();
    if options.take_over {
        take_over::run(cwd, options.remote.as_deref())?;
    }
    let mut factory = Factory::open(cwd)?;
    // Said before anything is started: a second gateway would disturb the first.
    if let Some(running) = wait::kernel(&factory.places)? {
        // Where only merges are to be settled, the other one does that too.
        return match options.merges_only {
            true => Ok(ExitCode::from(Class::Busy.code())),
            false => Err(failure::busy(running.holder)),
        };
    }
    let (start_lock, lock) = match wait::starting(&factory.places) {
        Ok(held) => held,
        Err(busy) if options.merges_only && busy.class() == Class::Busy => {
            return Ok(ExitCode::from(Class::Busy.code()));
        }
        Err(failure) => return Err(failure),
    };
    sync::still_ours(&mut factory)?;
    let target = options
        .target
        .as_deref()
        .unwrap_or(&factory.state.meta.target);
    let (commit, config) = factory.wanted_config(options.config.as_deref(), target)?;
    if options.config.is_none() {
        let tip = factory.tip_of(target)?;
        if let Some(note) = config_note(&factory.places, &factory.user, &tip, target)? {
            views::hint(&format!("note: {note}"))?;
        }
        if commit.is_none()
            && let Some(note) = keys::engine_note(&config.engine)
        {
            views::hint(&format!("note: {note}"))?;
        }
    }
    // Settling a pull request makes no work branch.
    if !options.merges_only {
        check_prefix(&factory.user, &config.branch_prefix)?;
        let tip = factory.tip_of(target)?;
        rules::read(&factory.user, &tip, &config)?;
        rules::intent_layer(&factory.user, &tip)?;
        rules::agents(&factory.user, &tip)?;
    }
    let wanted = all_wanted(&config, &factory.user, &factory.tip_of(target)?)?;
    on_this_thread(async {
        let given_up = interrupt()?;
        let ready = async {
            // Settling a pull request needs checks at most, and those call no model.
            if !options.merges_only {
                keys::check(&config).await?;
            }
            let connection = docker::connect().await?;
            let docker = connection.client.clone();
            let runtime = DockerRuntime::new(connection).await?;
            let engine = runtime.engine().await?;
            probe::check_runtime(&engine, config.runtime.as_deref())?;
            Ok::<_, Failure>((docker, runtime, engine))
        };
        // A key command is in a group of its own, where no Ctrl-C of ours arrives: it ends with
        // whoever waits for it. From the first wait for a signal on, none ends us by itself.
        let (docker, runtime, engine) = tokio::select! {
            ready = ready => ready?,
            () = given_up => return Ok(ExitCode::from(INTERRUPTED)),
        };
        let mut built = None;
        for wanted in &wanted {
            let Some(id) = build(&docker, &factory.places, wanted).await? else {
                return Ok(ExitCode::from(INTERRUPTED));
            };
            // The others hold the same agent, on the same base.
            built.get_or_insert(id);
        }
        let Some(id) = built else {
            return Err(Failure::new(Class::Internal, "no image is wanted"));
        };
        let subject = Subject {
            places: &factory.places,
            home: &factory.home,
            image: id.as_str(),
            runtime: config.runtime.as_deref(),
            limits: config.limits,
        };
        match probe::run_once(&runtime, &engine, &subject, interrupt()?).await? {
            Verdict::Passed => {
                wait::hand_on(&lock)?;
                drop(start_lock);
                Ok(ExitCode::SUCCESS)
            }
            Verdict::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
        }
    })
}

/// Completes at the first SIGINT or SIGTERM.
pub fn interrupt() -> Result<impl Future<Output = ()> + Send, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Says so when the work tree's `factory.yaml` is not the one that is in force.
pub fn config_note(
    places: &Places,
    user: &UserRepo,
    commit: &Oid,
    target: &str,
) -> Result<Option<String>, Failure> {
    let Some(top) = places.work_tree() else {
        return Ok(None);
    };
    let here = match std::fs::read(top.join(config::FILE)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let in_force = user.read_file(commit, config::FILE, CONFIG_LIMIT)?;
    if here == in_force {
        return Ok(None);
    }
    let commit = commit.short();
    Ok(Some(match (here, in_force) {
        (Some(_), None) => format!(
            "{} is not in force: branch {target} (commit {commit}) has none; commit it there, or use --config",
            config::FILE
        ),
        (None, _) => format!(
            "{} of branch {target} (commit {commit}) is in force, though this work tree has none",
            config::FILE
        ),
        (Some(_), Some(_)) => format!(
            "{} here differs from the one in force, of branch {target} (commit {commit}); commit it there, or use --config",
            config::FILE
        ),
    }))
}

/// The image that a configuration asks for at a commit.
pub struct Wanted {
    /// What it is made of.
    pub request: ImageRequest,
    /// Where it begins.
    pub base: Base,
    user: UserRepo,
}

impl Wanted {
    /// The names of all images that it is made of, the lowest first.
    pub fn tags(&self) -> Result<Vec<String>, Failure> {
        let own = self
            .base
            .recipe
            .is_some()
            .then(|| self.request.base.clone());
        let mut tags: Vec<String> = own.into_iter().collect();
        tags.extend(image::tags(&self.request)?);
        Ok(tags)
    }
}

/// What the image for a configuration is made of, at a commit.
pub fn wanted(config: &Config, user: &UserRepo, commit: &Oid) -> Result<Wanted, Failure> {
    let base = base_of(user, commit, &config.image)?;
    Ok(Wanted {
        request: request(config, &base.name)?,
        base,
        user: user.clone(),
    })
}

/// One for each engine that a run may have, that of code first; engines that need nothing in
/// the image share one.
pub fn all_wanted(config: &Config, user: &UserRepo, commit: &Oid) -> Result<Vec<Wanted>, Failure> {
    let mut all: Vec<Wanted> = Vec::new();
    for engine in config.engines() {
        let one = wanted(&config.with_engine(engine), user, commit)?;
        if !all.iter().any(|other| other.request == one.request) {
            all.push(one);
        }
    }
    Ok(all)
}

/// The same, for a base that is known.
pub fn request(config: &Config, base: &str) -> Result<ImageRequest, Failure> {
    Ok(ImageRequest {
        base: base.to_owned(),
        packages: config.image.packages.clone(),
        engine: config.engine.known().map(|engine| engine.image),
        agent: agent_binary()?,
    })
}

/// The agent that was installed together with this program.
fn agent_binary() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let dir = program.parent().unwrap_or(Path::new("/"));
    let above = dir.parent().unwrap_or(Path::new("/"));
    let places = [dir.join(AGENT), above.join("lib/factory").join(AGENT)];
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let [beside, installed] = places;
    Err(Failure::new(
        Class::Image,
        format!(
            "the program {AGENT}, which goes into every image, is neither {} nor {}",
            beside.display(),
            installed.display()
        ),
    )
    .help("install factory again, or in its source tree run `cargo build -p factory-agent`"))
}

/// Id of the image for a configuration at a commit.
pub async fn find(
    docker: &Docker,
    config: Config,
    user: UserRepo,
    commit: Oid,
) -> Result<String, Failure> {
    let tag = blocking(move || tag(&wanted(&config, &user, &commit)?.request)).await?;
    match image::find(docker, &tag).await? {
        Some(id) => Ok(id.as_str().to_owned()),
        None => Err(missing(&tag)),
    }
}

/// There is no image of this tag.
fn missing(tag: &str) -> Failure {
    Failure::new(
        Class::Image,
        format!("the image for agents ({tag}) is not built yet"),
    )
    .help("factory image build")
}

/// The agent binary as it was when a tag was made from it.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    request: ImageRequest,
    modified: SystemTime,
    bytes: u64,
}

/// Tags that are kept: more than there are engines.
const MOST_TAGS: usize = 8;
/// The newest tags: each hashes the whole agent binary, and the kernel asks for every run.
static NEWEST_TAGS: Mutex<Vec<(Stamp, String)>> = Mutex::new(Vec::new());

/// The tag of an image; hashes the agent binary only when it changed.
pub fn tag(wanted: &ImageRequest) -> Result<String, Failure> {
    let file = std::fs::metadata(&wanted.agent)?;
    let stamp = Stamp {
        request: wanted.clone(),
        modified: file.modified()?,
        bytes: file.len(),
    };
    // Nothing panics while it is held; and if so, what it holds is whole.
    let mut newest = NEWEST_TAGS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, tag)) = newest.iter().find(|(known, _)| *known == stamp) {
        return Ok(tag.clone());
    }
    let tag = image::tag(wanted)?;
    if newest.len() == MOST_TAGS {
        newest.remove(0);
    }
    newest.push((stamp, tag.clone()));
    Ok(tag)
}

/// Builds what the image lacks and shows how far it is; none after an interrupt.
pub async fn build(
    docker: &Docker,
    places: &Places,
    wanted: &Wanted,
) -> Result<Option<ImageId>, Failure> {
    let request = &wanted.request;
    let mut record = Record::read(places);
    let newest = tag(request)?;
    if let Some(id) = image::find(docker, &newest).await? {
        record.add(wanted.tags()?)?;
        return Ok(Some(id));
    }
    if record.holds(&newest) {
        views::hint(&format!(
            "note: {newest} was here and is gone (`docker image prune -a`?), so it is built again"
        ))?;
    }
    for note in &wanted.base.notes {
        views::hint(&format!("note: {note}"))?;
    }
    let network =
        HostNetwork::from_vars(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
    let mut shown = Shown::new();
    let built = layers(docker, wanted, &network, &mut shown).await;
    shown.clear();
    match built {
        Ok(id) => {
            record.add(wanted.tags()?)?;
            Ok(Some(id))
        }
        Err(Unbuilt::Image(ImageError::Cancelled)) => {
            views::aside("factory: the image is not finished; its finished layers are kept");
            Ok(None)
        }
        Err(Unbuilt::Image(error)) => Err(error.into()),
        Err(Unbuilt::Other(failure)) => Err(failure),
    }
}

/// Why there is no image.
enum Unbuilt {
    Image(ImageError),
    Other(Failure),
}

impl From<ImageError> for Unbuilt {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<Failure> for Unbuilt {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

async fn layers(
    docker: &Docker,
    wanted: &Wanted,
    network: &HostNetwork,
    shown: &mut Shown,
) -> Result<ImageId, Unbuilt> {
    let request = &wanted.request;
    if let Some(recipe) = &wanted.base.recipe {
        // With our own layer on it, what the Dockerfile made is no longer needed.
        let mut is_there = false;
        for tag in wanted.tags()?.iter().take(2) {
            is_there |= image::find(docker, tag).await?.is_some();
        }
        if !is_there {
            let own = recipe.load(&wanted.user, &request.base)?;
            let step = |step| shown.step(step);
            image::build_own(docker, &own, network, interrupt()?, step).await?;
        }
    }
    let step = |step| shown.step(step);
    Ok(image::build(docker, request, network, interrupt()?, step).await?)
}
