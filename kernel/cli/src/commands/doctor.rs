//! `factory doctor`: whether everything is there that `start` needs. It changes nothing of
//! the repository and begins no factory; its probe runs a container and removes it.

mod base;
mod ground;
mod model;
mod tools;

use crate::{
    commands::{
        image::{self, config_note, interrupt},
        processes::{log_to_stderr, on_this_thread},
    },
    factory::{Factory, check_prefix, read_config, target_of},
    failure::{Class, Failure, INTERRUPTED},
    kernel::{agent_user, blocking},
    keys,
    probe::{self, Verdict},
    room::Subject,
    rules, views,
};
use factory_core::{
    agents::AGENTS,
    config::{self, Config, EngineKind},
    ids::Oid,
    rules::PROHIBITIONS,
};
use factory_ledger::{
    git::Git,
    places::{Places, RepoProblem, RepoWarning},
    user::UserRepo,
};
use factory_runtime::{
    EngineInfo, Runtime, RuntimeError,
    docker::{self, DockerRuntime},
};
use serde::Serialize;
use std::{os::unix::fs::MetadataExt, path::Path, process::ExitCode};

/// `factory doctor`.
pub fn run(cwd: &Path, json: bool) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let mut report = Report::default();
    let repository = match look_at_repository(cwd, &mut report) {
        Ok(repository) => Some(repository),
        Err(line) => {
            report.lines.push(line);
            None
        }
    };
    let config = match &repository {
        Some(repository) => repository.config(&mut report),
        None => Config::default(),
    };
    let (verdict, providers) = on_this_thread(async {
        let engine = look_at_engine(&config, repository.as_ref(), &mut report);
        // They have nothing to do with each other.
        Ok(tokio::join!(engine, model::look_at_providers(&config)))
    })?;
    let verdict = verdict.unwrap_or_else(|line| {
        report.lines.push(line);
        Verdict::Passed
    });
    if verdict == Verdict::Interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let looked = on_this_thread(async {
        let given_up = interrupt()?;
        // A key command ends with whoever waits for it.
        Ok(tokio::select! {
            () = model::look_at_key(&config, &mut report) => true,
            () = given_up => false,
        })
    })?;
    if !looked {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    report.lines.extend(providers);
    look_at_checks(&config, &mut report);
    report.print(json)?;
    Ok(report.code())
}

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Condition {
    Ok,
    /// Work is possible, though not as one may expect.
    Warning,
    /// Nothing works without it.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    state: Condition,
    detail: String,
    /// What mends it: a command where there is one.
    mend: Option<String>,
    #[serde(skip)]
    class: Class,
}

impl Line {
    fn new(name: &'static str, state: Condition, detail: impl Into<String>) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            mend: None,
            class: Class::Internal,
        }
    }

    fn missing(name: &'static str, class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            ..Self::new(name, Condition::Missing, detail)
        }
    }

    fn failed(name: &'static str, failure: impl Into<Failure>) -> Self {
        let failure = failure.into();
        Self {
            mend: failure.next_step().map(str::to_owned),
            ..Self::missing(name, failure.class(), failure.chain())
        }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self {
            mend: Some(mend.into()),
            ..self
        }
    }
}

#[derive(Debug, Default)]
struct Report {
    lines: Vec<Line>,
}

impl Report {
    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.lines.push(Line::new(name, Condition::Ok, detail));
    }

    fn warn(&mut self, name: &'static str, detail: impl Into<String>, mend: &str) {
        let line = Line::new(name, Condition::Warning, detail);
        self.lines.push(line.mend(mend));
    }

    fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            return views::print_json(&self.lines).map(drop);
        }
        let mut text = String::new();
        for line in &self.lines {
            let state = match line.state {
                Condition::Ok => "ok",
                Condition::Warning => "warning",
                Condition::Missing => "missing",
            };
            let detail = views::line(&line.detail);
            text.push_str(&format!("{state:<8} {:<13} {detail}\n", line.name));
            if let Some(mend) = &line.mend {
                text.push_str(&format!("{:<22} mend: {mend}\n", ""));
            }
        }
        views::print(&text).map(drop)
    }

    /// The code with which `start` would fail first.
    fn code(&self) -> ExitCode {
        self.lines
            .iter()
            .find(|line| line.state == Condition::Missing)
            .map_or(ExitCode::SUCCESS, |line| ExitCode::from(line.class.code()))
    }
}

/// A repository that can be worked with.
struct Repository {
    places: Places,
    user: UserRepo,
    /// None until `init` or the first `start`.
    home: Option<String>,
    target: String,
    tip: Oid,
    /// The engine that was in force last.
    engine: EngineKind,
}

fn look_at_repository(cwd: &Path, report: &mut Report) -> Result<Repository, Line> {
    if !cwd.is_dir() {
        let detail = format!("there is no directory {}", cwd.display());
        return Err(Line::missing("repository", Class::Repository, detail));
    }
    let version = Git::new(cwd).call(["version"]).text();
    let version = version.map_err(|error| {
        let detail = Failure::of(Class::Repository, error).chain();
        Line::missing("git", Class::Repository, detail).mend("install git 2.39 or newer")
    })?;
    let places = match Places::discover(cwd) {
        Ok(places) => places,
        Err(problem) => {
            let name = match problem {
                RepoProblem::OldGit { .. } => "git",
                _ => {
                    report.ok("git", version);
                    "repository"
                }
            };
            return Err(unusable(name, problem));
        }
    };
    report.ok("git", version);
    let shown = places.work_tree().unwrap_or_else(|| places.common_dir());
    report.ok("repository", shown.display().to_string());
    look_at_content(&places, report);
    ground::look_at_folder(&places)?;
    ground::look_at_disk(&places, report);

    let user = UserRepo::open(places.common_dir());
    look_at_identity(&user, report);
    // Opening a factory that is not there would begin one, for the branch of this moment.
    let (places, home, target, engine) = match places.state_git().exists() {
        true => {
            ground::look_at_running(&places, report);
            let cwd = places.work_tree().unwrap_or(cwd);
            let factory = Factory::open(cwd).map_err(|e| Line::failed("state", e))?;
            (
                factory.places,
                Some(factory.home),
                factory.state.meta.target,
                factory.state.config.config.engine,
            )
        }
        false => {
            let target = target_of(&places).map_err(|e| Line::failed("target", e))?;
            (places, None, target, EngineKind::default())
        }
    };
    let tip = user.tip(&target).map_err(|e| Line::failed("target", e))?;
    let tip = tip.ok_or_else(|| {
        let detail = format!("the target branch `{target}` does not exist any more");
        Line::missing("target", Class::Repository, detail)
            .mend("make it again, or choose another with `factory start --target <branch>`")
    })?;
    report.ok("target", format!("{target}, at commit {}", tip.short()));
    ground::look_at_clock(&places, &tip, report);
    Ok(Repository {
        places,
        user,
        home,
        target,
        tip,
        engine,
    })
}

/// A repository that cannot be worked with, and the way out.
fn unusable(name: &'static str, problem: RepoProblem) -> Line {
    if let RepoProblem::Unreadable { path, .. } = &problem
        && let Ok(meta) = std::fs::metadata(path)
        && meta.uid() != rustix::process::geteuid().as_raw()
    {
        let detail = format!(
            "git does not open {}, as it belongs to user {} and not to you (git calls it dubious ownership)",
            path.display(),
            meta.uid()
        );
        return Line::missing(name, Class::Repository, detail).mend(format!(
            "take it over, or trust it: git config --global --add safe.directory {}",
            ground::quoted(path)
        ));
    }
    let text = problem.to_string();
    let line = Line::failed(name, problem);
    // The way out is the last part of such a message.
    let parts = text.split_once("\n  ").or_else(|| text.rsplit_once("; "));
    match parts {
        Some((what, mend)) => Line {
            detail: line
                .detail
                .replacen(&text, what.trim_end_matches(" with"), 1),
            ..line
        }
        .mend(mend),
        None => line,
    }
}

/// What agents will not get.
fn look_at_content(places: &Places, report: &mut Report) {
    let warnings = match places.warnings() {
        Ok(warnings) => warnings,
        Err(error) => return report.lines.push(Line::failed("content", error)),
    };
    for warning in warnings {
        match warning {
            RepoWarning::Submodules => report.warn(
                "submodules",
                "submodules stay empty in the workspaces of agents",
                "keep what agents and checks need in the repository itself",
            ),
            RepoWarning::Lfs => report.warn(
                "lfs",
                "agents see pointer files in place of files kept by Git LFS",
                "keep what agents and checks need out of LFS",
            ),
        }
    }
}

fn look_at_identity(user: &UserRepo, report: &mut Report) {
    match user.identity() {
        Ok(identity) => match (identity.name, identity.email) {
            (Some(name), Some(email)) => report.ok("identity", format!("{name} <{email}>")),
            (Some(_), None) => report.warn(
                "identity",
                "git knows no address for your commits",
                "git config --global user.email <address>",
            ),
            (None, _) => report.warn(
                "identity",
                "git knows no name for your commits",
                "git config --global user.name <name>; git config --global user.email <address>",
            ),
        },
        Err(error) => report.lines.push(Line::failed("identity", error)),
    }
}

impl Repository {
    /// The configuration in force; the defaults where it is broken, so that the rest can be looked at.
    fn config(&self, report: &mut Report) -> Config {
        match config_note(&self.places, &self.user, &self.tip, &self.target) {
            Ok(None) => {}
            Ok(Some(note)) => {
                let (what, has_way_out) = match note.split_once("; ") {
                    Some((what, _)) => (what, true),
                    None => (note.as_str(), false),
                };
                let mut line = Line::new("work tree", Condition::Warning, what);
                line.mend = has_way_out.then(|| {
                    format!(
                        "on branch {0}: git add {1} && git commit; or: factory start --config {1}",
                        self.target,
                        config::FILE
                    )
                });
                report.lines.insert(0, line);
            }
            Err(failure) => report.lines.push(Line::failed(config::FILE, failure)),
        }
        match read_config(&self.user, &self.tip, &self.engine) {
            Ok((commit, config)) => {
                match commit {
                    Some(_) => report.ok(config::FILE, format!("valid, of branch {}", self.target)),
                    None => {
                        let mut has =
                            format!("branch {} has none, so the defaults hold", self.target);
                        if let Some(note) = keys::engine_note(&config.engine) {
                            has.push_str(&format!("; {note}"));
                        }
                        // The line about the work tree says what to do with one that is there.
                        let top = self.places.work_tree();
                        match top.is_some_and(|top| top.join(config::FILE).exists()) {
                            true => {
                                report
                                    .lines
                                    .push(Line::new(config::FILE, Condition::Warning, has))
                            }
                            false => report.warn(config::FILE, has, "factory init"),
                        }
                    }
                }
                self.look_at_prefix(&config.branch_prefix, report);
                let rules = rules::read(&self.user, &self.tip, &config);
                let layer = rules.and_then(|_| rules::intent_layer(&self.user, &self.tip));
                if let Err(failure) = layer {
                    report.lines.push(Line::failed(PROHIBITIONS, failure));
                }
                if let Err(failure) = rules::agents(&self.user, &self.tip) {
                    report.lines.push(Line::failed(AGENTS, failure));
                }
                config
            }
            Err(failure) => {
                report.lines.push(Line::failed(config::FILE, failure));
                Config::default()
            }
        }
    }

    fn look_at_prefix(&self, prefix: &str, report: &mut Report) {
        match check_prefix(&self.user, prefix) {
            Ok(()) => report.ok("branch names", format!("{prefix}/<issue>-<title>")),
            Err(failure) => report.lines.push(Line::failed("branch names", failure)),
        }
    }
}

/// Engine, image and door. The error is the last line that could be said.
async fn look_at_engine(
    config: &Config,
    repository: Option<&Repository>,
    report: &mut Report,
) -> Result<Verdict, Line> {
    let connection = docker::connect().await.map_err(no_engine)?;
    let client = connection.client.clone();
    let runtime = DockerRuntime::new(connection).await.map_err(no_engine)?;
    let engine = runtime.engine().await.map_err(no_engine)?;
    look_at_resources(config, &engine, report);
    let wanted_runtime = config.runtime.as_deref();
    probe::check_runtime(&engine, wanted_runtime).map_err(|e| Line::failed("runtime", e))?;
    if let Some(name) = wanted_runtime {
        report.ok("runtime", name.to_owned());
    }

    let failed = |error| Line::failed("image", error);
    let (wanted, is_own) = base::look_at_recipe(config, repository, report)?;
    let request = wanted.clone();
    let tag = blocking(move || image::tag(&request))
        .await
        .map_err(failed)?;
    let found = factory_runtime::image::find(&client, &tag).await;
    let found = found.map_err(|e| failed(e.into()))?;
    ground::look_at_engine_disk(&client, found.is_some(), report).await;
    let Some(id) = found else {
        let detail = format!(
            "{tag} is not built yet: `factory start` builds it first, and tries the door then"
        );
        report.warn("image", detail, "factory image build");
        if !is_own {
            base::look_at_base(&client, &wanted.base, report).await?;
        }
        return Ok(Verdict::Passed);
    };
    report.ok("image", tag.clone());
    let image = (&id, tag.as_str());
    tools::look_at_tools(&client, image, config, repository, report).await;

    let Some(repository) = repository else {
        return Ok(Verdict::Passed);
    };
    let verdict = probe_door(&runtime, &engine, repository, id.as_str(), config).await;
    let verdict = verdict.map_err(|e| Line::failed("door", e))?;
    let (uid, gid) = agent_user();
    let selinux = match engine.selinux {
        true => "; SELinux is on, so containers run with label=disable",
        false => "",
    };
    report.ok(
        "door",
        format!(
            "a container without a network reached our socket and committed, as {uid}:{gid}{selinux}"
        ),
    );
    Ok(verdict)
}

/// The way out is the last part of such a message.
fn no_engine(error: RuntimeError) -> Line {
    let text = error.to_string();
    let line = Line::failed("docker", error);
    match text.split_once("; ") {
        Some((what, mend)) => Line {
            detail: line.detail.replacen(&text, what, 1),
            ..line
        }
        .mend(mend),
        None => line.mend("see what the engine says: sudo journalctl -u docker -n 50"),
    }
}

fn look_at_resources(config: &Config, engine: &EngineInfo, report: &mut Report) {
    let gib = engine.memory as f64 / f64::from(1 << 30);
    report.ok(
        "docker",
        format!(
            "{} (API {}), {} cores, {gib:.1} GiB, {}, {}",
            engine.version, engine.api, engine.cpus, engine.operating_system, engine.architecture
        ),
    );
    if engine.architecture != "x86_64" {
        let detail = format!("the engine runs on {}", engine.architecture);
        report.warn("processor", detail, "use a machine with x86_64");
    }
    if engine.rootless || engine.userns_remap {
        let how = match engine.rootless {
            true => "runs without root",
            false => "remaps users (userns-remap)",
        };
        report.warn(
            "users",
            format!("the engine {how}: its containers' users are others here, and may not write their workspaces"),
            "use an engine that runs as root: unset DOCKER_HOST, or take `userns-remap` out of \
             /etc/docker/daemon.json; `factory image build`, then this command, shows whether it works",
        );
    }
    if !engine.unenforced_limits.is_empty() {
        report.warn(
            "limits",
            format!(
                "the engine does not enforce limits of: {}",
                engine.unenforced_limits.join(", ")
            ),
            "see the warnings at the end of `docker info`",
        );
    }
    if config.limits.memory.0 > engine.memory {
        report.warn(
            "limits",
            format!(
                "limits.memory is {}, more than the engine's machine has",
                config.limits.memory
            ),
            "lower limits.memory in factory.yaml",
        );
    }
}

async fn probe_door(
    runtime: &DockerRuntime,
    engine: &EngineInfo,
    repository: &Repository,
    image: &str,
    config: &Config,
) -> Result<Verdict, Failure> {
    let subject = |places, home| Subject {
        places,
        home,
        image,
        runtime: config.runtime.as_deref(),
        limits: config.limits,
    };
    if let Some(home) = &repository.home {
        let subject = subject(&repository.places, home);
        return probe::run(runtime, engine, &subject, interrupt()?).await;
    }
    // The same file system as a factory's, without beginning one.
    let room = tempfile::Builder::new()
        .prefix("factory-doctor-")
        .tempdir_in(repository.places.common_dir())?;
    let home = format!("{:08x}", std::process::id());
    let mut places = Places::below(room.path());
    places.ensure_dirs()?;
    places.settle_sockets(&home)?;
    let verdict = probe::run(runtime, engine, &subject(&places, &home), interrupt()?).await;
    if !places.runs().starts_with(room.path()) {
        // A file system without sockets: they were elsewhere, below a directory of this home.
        let elsewhere = places.runs();
        std::fs::remove_dir_all(elsewhere.parent().unwrap_or(&elsewhere))?;
    }
    room.close()?;
    verdict
}

fn look_at_checks(config: &Config, report: &mut Report) {
    match config.checks.len() {
        0 => report.warn(
            "checks",
            "none: nothing is tested before a merge",
            "name the commands that must pass under `checks` in factory.yaml",
        ),
        _ => report.ok("checks", config.checks.join("; ")),
    }
}
