//! The life of a container: granted, spawned, awaited, concluded, collected.

use super::{
    Outcome,
    config::Looked,
    tools::{Repos, Tools, Work, blocking, epoch},
};
use crate::{
    failure::{Class, Failure},
    rules,
};
use factory_core::{
    brief::{self, AGENT_EMAIL, AGENT_NAME, INTENT_CHANGES_LIMIT},
    engine,
    event::{Event, GrantFacts},
    grant::Role,
    ids::{IssueNo, Oid, RunId},
    model::{ContainerExit, PrState, Purpose, Run, Stage, Tests},
    state::State,
    wire::{DOOR_PORT, PATH_GIT},
};
use factory_ledger::{
    change,
    failpoint::{Process::Kernel, around},
    merge::Author,
    workspace::{self, Workspace},
};
use factory_runtime::{Created, Runtime, RuntimeError};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Seconds that an agent has to push what it has when the factory stops at once.
pub const STOP_GRACE: u32 = 20;

/// Looks up what a run needs and grants it; a changed `factory.yaml` comes into force first.
pub fn grant<R: Runtime>(
    tools: Arc<Tools<R>>,
    state: &State,
    job: IssueNo,
    purpose: Purpose,
    slot: u32,
) -> Work {
    let target = state.meta.target.clone();
    let branch = state
        .jobs
        .get(&job)
        .map(|job| job.branch.clone())
        .unwrap_or_default();
    let fixed = match (&purpose, state.jobs.get(&job).map(|job| job.stage())) {
        (Purpose::Check, Some(Stage::CheckDue { commit, tests, .. })) => Some(match tests {
            Tests::Own => commit.clone(),
            Tests::Base { commit } => commit.clone(),
        }),
        (Purpose::Review, Some(Stage::ReviewDue { commit })) => Some(commit.clone()),
        (Purpose::MergeTest { pr }, _) => state.prs.get(pr).and_then(|pr| match &pr.state {
            PrState::Testing { merge, .. } => Some(merge.clone()),
            _ => None,
        }),
        _ => None,
    };
    let in_force = state.config.config.clone();
    let route = state.jobs.get(&job).and_then(|job| job.route.as_ref());
    let tier = route.map(|route| route.tier).unwrap_or_default();
    let (engine, _) = in_force.worked(&purpose, tier);
    let before = state.config.clone();
    let resume = state
        .jobs
        .get(&job)
        .and_then(|job| job.resume.clone())
        .filter(|_| purpose == Purpose::Code);
    // What a run handed in that came to its own end is on the branch.
    let unfinished = resume.as_ref().filter(|resume| !resume.finished);
    let resumed_start = unfinished.map(|resume| resume.start.clone());
    let follow_target = tools.follow_target;
    let only_reads = purpose.role().only_reads();
    let looks_at_target = purpose == Purpose::Verify;
    let names: Vec<String> = [target.clone(), branch.clone()]
        .into_iter()
        // An instruction has no branch.
        .filter(|name| !name.is_empty())
        .collect();
    Box::pin(async move {
        let (tip, config, start, merge_target, branch_tip) = tools
            .git(move |repos| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let mut tips = repos.user.tips(&names)?;
                let tip = around(Kernel, "fetch-target", || {
                    let tip = tips.get(&target).cloned();
                    repos.base.fetch_target_at(&repos.user, &target, tip)
                })?;
                let config = match follow_target {
                    true => Some(Looked::at(&repos.user, &tip, &before)?),
                    false => None,
                };
                Ok(match fixed {
                    Some(commit) => (tip, config, commit, None, None),
                    // They look at what the target holds, or at the work that there is.
                    None if only_reads && (branch.is_empty() || looks_at_target) => {
                        (tip.clone(), config, tip, None, None)
                    }
                    None if only_reads => {
                        let (start, ..) =
                            start_of(repos, &branch, tips.remove(&branch), &tip, None)?;
                        (tip, config, start, None, None)
                    }
                    None => {
                        let (start, merge_target, branch_tip) =
                            start_of(repos, &branch, tips.remove(&branch), &tip, resumed_start)?;
                        (tip, config, start, merge_target, branch_tip)
                    }
                })
            })
            .await?;
        let config = match config {
            Some(another @ Looked::Another(_)) => return Ok(another.into()),
            Some(Looked::Same) => Some(Ok(())),
            Some(Looked::Wrong(failure)) => Some(Err(failure)),
            None => None,
        };
        let (commit, settings) = (tip.clone(), in_force.clone());
        let read = tools.git(move |repos| {
            // Every run is told of it.
            rules::intent_layer(&repos.user, &commit)?;
            if purpose.role().has_engine() {
                rules::agents(&repos.user, &commit)?;
            }
            if purpose == Purpose::Code {
                // What it pushes is judged by them: without them nothing begins.
                rules::read(&repos.user, &commit, &settings)?;
            }
            Ok(purpose)
        });
        let purpose = read.await?;
        let image = (tools.image_of)(in_force.with_engine(engine), tip.clone()).await?;
        let fresh_session = match &resume {
            Some(resume) => {
                let now = intent_layer(&tools, &tip).await?;
                match intent_layer(&tools, &resume.intent).await {
                    Ok(before) => brief::intent_changes(&before, &now).len() > INTENT_CHANGES_LIMIT,
                    Err(failure) if failure.class() == Class::Disk => return Err(failure),
                    // The target was rewritten and that commit is gone: a new session is
                    // told everything.
                    Err(failure) => {
                        tracing::info!(failure = failure.chain(), "the old intent layer is gone");
                        true
                    }
                }
            }
            None => false,
        };
        let facts = GrantFacts {
            home: tools.home.clone(),
            fresh_session,
            start,
            merge_target,
            branch_tip,
            intent: tip,
            image,
        };
        let granted = Event::RunGranted {
            job,
            purpose,
            slot,
            facts,
        };
        Ok(Outcome {
            config,
            ..granted.into()
        })
    })
}

/// A code run starts from the work branch's tip (`work`), with the target merged in where it lacks it, or from the target.
fn start_of(
    repos: &Repos,
    branch: &str,
    work: Option<Oid>,
    tip: &Oid,
    resumed: Option<Oid>,
) -> Result<(Oid, Option<Oid>, Option<Oid>), Failure> {
    let behind = |start: &Oid| -> Result<Option<Oid>, Failure> {
        Ok((!repos.door.is_ancestor(tip, start)?).then(|| tip.clone()))
    };
    match (work, resumed) {
        (Some(_), _) => {
            // Somebody may have moved it since it was looked for.
            let work = around(Kernel, "fetch-branch", || {
                repos.door.fetch_branch(&repos.user, branch)
            })?;
            Ok((work.clone(), behind(&work)?, Some(work)))
        }
        // A checkpoint descends from where its run started, not from where the target is now.
        (None, Some(start)) => Ok((start.clone(), behind(&start)?, None)),
        (None, None) => Ok((tip.clone(), None, None)),
    }
}

/// Files, door, workspace, container, start: from whatever exists of it.
pub fn spawn<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let Some(run) = state.runs.get(&id).cloned() else {
        return nothing();
    };
    let epoch = epoch(state);
    let issue = state.issues.get(&id.job).cloned();
    let comments: Vec<_> = state.comments_of(id.job).cloned().collect();
    let job = state.jobs.get(&id.job).cloned();
    Box::pin(async move {
        let Some(issue) = issue else {
            return Ok(Outcome::default());
        };
        let intent = intent_layer(&tools, &run.intent).await?;
        let host = tools.host(id);
        let brief_text = match &run.resume {
            Some(resume) if engine::resumes_session(&run) => {
                let before = intent_layer(&tools, &resume.intent).await?;
                brief::follow_up(&run, &brief::intent_changes(&before, &intent))
            }
            _ => brief::brief(&run, &issue, job.as_ref(), comments.iter()),
        };
        let shown = match run.purpose {
            Purpose::Review => Some((run.intent.clone(), run.grant.start.clone())),
            Purpose::Verify => issue
                .merged
                .as_ref()
                .and_then(|merged| Some((merged.before.clone()?, merged.commit.clone()))),
            _ => None,
        };
        let is_merged = run.purpose == Purpose::Verify;
        let change = match shown {
            Some((base, head)) => {
                let patch = tools.git(move |repos| {
                    // Whoever rewrote the target may have taken from it what was merged.
                    match is_merged && !repos.base.contains(&head)? {
                        true => Ok(None),
                        false => Ok(change::patch(&repos.door, &base, &head)?),
                    }
                });
                patch.await?
            }
            None => None,
        };
        let commit = run.intent.clone();
        let agents = tools.git(move |repos| rules::agents(&repos.user, &commit));
        let system = brief::system(agents.await?.text(run.grant.role), &intent);
        let files = RunFiles {
            run_yaml: serde_saphyr::to_string(&brief::run_file(&run, &issue.title, &system))
                .map_err(|e| Failure::of(Class::Internal, e))?,
            brief: brief_text,
            change,
            system,
            passwd: brief::passwd(host.uid, host.gid),
            intent,
        };
        let dir = tools.places.run_dir(id);
        blocking(move || around(Kernel, "files", || files.write(&dir))).await?;
        let (ws, uid, gid) = (tools.places.ws_dir(id), tools.uid, tools.gid);
        let branch = run.grant.branch.clone();
        let workspace = tools.git(move |repos| {
            let wanted = Workspace {
                dir: &ws,
                uid,
                gid,
                remote_url: &format!("http://127.0.0.1:{DOOR_PORT}{PATH_GIT}"),
                branch: branch.as_deref(),
                author: &Author {
                    name: AGENT_NAME.to_owned(),
                    email: AGENT_EMAIL.to_owned(),
                },
            };
            Ok(around(Kernel, "workspace", || {
                workspace::create(&repos.base, &wanted)
            })?)
        });
        // They have nothing to do with each other.
        tokio::try_join!(open_door(&tools, id), workspace)?;
        start_container(&tools, &run, epoch).await
    })
}

async fn start_container<R: Runtime>(
    tools: &Tools<R>,
    run: &Run,
    epoch: factory_core::ids::Epoch,
) -> Result<Outcome, Failure> {
    let id = run.id;
    let spec = brief::container_spec(run, &tools.host(id));
    let gave_up = |error: RuntimeError| match error {
        // These will not pass by themselves; everything else is tried again.
        RuntimeError::NoImage { .. }
        | RuntimeError::NameTaken { .. }
        | RuntimeError::Refused { .. } => {
            let why = Failure::of(Class::Engine, error).chain();
            Ok(Outcome {
                events: vec![Event::SpawnFailed { run: id, why }],
                containers: true,
                ..Outcome::default()
            })
        }
        error => Err(Failure::from(error)),
    };
    tools.check_epoch(epoch)?;
    Kernel.before("create");
    match tools.runtime.create(&spec).await {
        Ok(Created::New | Created::Existing(_)) => {}
        Err(error) => return gave_up(error),
    }
    Kernel.after("create");
    tools.check_epoch(epoch)?;
    Kernel.before("start");
    match tools.runtime.start(&spec.name).await {
        Ok(_) => {}
        // It ran and ended while nobody looked: its end is read next.
        Err(RuntimeError::AlreadyEnded { .. }) => {
            return Ok(Outcome {
                events: Vec::new(),
                containers: true,
                ..Outcome::default()
            });
        }
        Err(error) => return gave_up(error),
    }
    Kernel.after("start");
    Ok(Outcome {
        events: vec![Event::RunRunning { run: id }],
        containers: true,
        ..Outcome::default()
    })
}

/// The intent layer of a commit, as text by path; what is no text is left out.
async fn intent_layer<R: Runtime>(
    tools: &Tools<R>,
    commit: &Oid,
) -> Result<BTreeMap<String, String>, Failure> {
    let commit = commit.clone();
    let files = tools
        .git(move |repos| rules::intent_layer(&repos.user, &commit))
        .await?;
    let text = |(path, bytes): (String, Vec<u8>)| {
        let text = String::from_utf8(bytes).ok()?;
        (path.ends_with(".md") && !path.split('/').any(|part| part == "..")).then_some((path, text))
    };
    Ok(files.into_iter().filter_map(text).collect())
}

/// Waits until the gateway serves the run's socket.
async fn open_door<R: Runtime>(tools: &Tools<R>, id: RunId) -> Result<(), Failure> {
    Kernel.before("open-door");
    let status = tools.wake_gateway().await?;
    Kernel.after("open-door");
    if status.ready.contains(&id) {
        return Ok(());
    }
    let why = status
        .failed
        .get(&id.to_string())
        .cloned()
        .unwrap_or_else(|| "it does not know the run yet".to_owned());
    Err(Failure::new(
        Class::Gateway,
        format!("the gateway does not serve {id}: {why}"),
    ))
}

/// What a container finds in `/run/factory`.
struct RunFiles {
    run_yaml: String,
    brief: String,
    /// What a review looks at, where it is not too large.
    change: Option<String>,
    system: String,
    passwd: String,
    intent: BTreeMap<String, String>,
}

impl RunFiles {
    fn write(&self, dir: &Path) -> Result<(), Failure> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(dir)?;
        // The container's user is another one; the directory's parent is closed to all others.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        let named = [
            ("run.yaml", &self.run_yaml),
            ("brief.md", &self.brief),
            ("system.md", &self.system),
            ("passwd", &self.passwd),
        ];
        for (name, text) in named {
            put(&dir.join(name), text)?;
        }
        if let Some(change) = &self.change {
            put(&dir.join("change.patch"), change)?;
        }
        for (path, text) in &self.intent {
            let path = dir.join("intent").join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            put(&path, text)?;
        }
        Ok(())
    }
}

/// Writes a file that everybody may read, whatever the umask.
fn put(path: &Path, text: &str) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

fn nothing() -> Work {
    Box::pin(async { Ok(Outcome::default()) })
}

/// Waits for the end of a running container.
pub fn wait<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let Some(run) = state.runs.get(&id) else {
        return nothing();
    };
    let name = run.container.clone();
    Box::pin(async move {
        match tools.runtime.wait(&name).await {
            Ok(_) | Err(RuntimeError::NotFound { .. } | RuntimeError::NeverStarted { .. }) => {
                Ok(Outcome {
                    events: Vec::new(),
                    containers: true,
                    ..Outcome::default()
                })
            }
            Err(error) => Err(error.into()),
        }
    })
}

/// Ends a running container with grace, since the factory stops.
pub fn stop<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let Some(run) = state.runs.get(&id) else {
        return nothing();
    };
    let name = run.container.clone();
    let epoch = epoch(state);
    Box::pin(async move {
        tools.check_epoch(epoch)?;
        Kernel.before("stop");
        tools.runtime.stop(&name, STOP_GRACE).await?;
        Kernel.after("stop");
        Ok(Outcome {
            events: Vec::new(),
            containers: true,
            ..Outcome::default()
        })
    })
}

/// Hears the gateway once more, so that the inbox holds everything the run did, then records its end.
pub fn conclude<R: Runtime>(tools: Arc<Tools<R>>, id: RunId, exit: Option<ContainerExit>) -> Work {
    Box::pin(async move {
        Kernel.before("conclude");
        tools.wake_gateway().await?;
        Kernel.after("conclude");
        Ok(Event::ContainerEnded { run: id, exit }.into())
    })
}

/// Ends a container whose job no longer wants it.
pub fn kill<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let epoch = epoch(state);
    Box::pin(async move {
        tools.check_epoch(epoch)?;
        let name = factory_core::container::ContainerSpec::name_for(&tools.home, id);
        Kernel.before("kill");
        tools.runtime.kill(&name).await?;
        Kernel.after("kill");
        Ok(Outcome {
            events: Vec::new(),
            containers: true,
            ..Outcome::default()
        })
    })
}

/// Removes a container that no live run owns, with what belongs to it.
pub fn remove_stray<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let epoch = epoch(state);
    Box::pin(async move {
        tools.check_epoch(epoch)?;
        remove(&tools, id).await?;
        Ok(Outcome {
            events: Vec::new(),
            containers: true,
            ..Outcome::default()
        })
    })
}

/// Removes everything of an ended run but its history.
pub fn collect<R: Runtime>(tools: Arc<Tools<R>>, state: &State, id: RunId) -> Work {
    let Some(run) = state.runs.get(&id) else {
        return nothing();
    };
    let epoch = epoch(state);
    let keep = match run.grant.role {
        Role::Code => run.pushed.clone(),
        Role::Split | Role::Plan | Role::Review | Role::Check => None,
    };
    let spent = run.spent_checkpoints();
    Box::pin(async move {
        tools.check_epoch(epoch)?;
        remove(&tools, id).await?;
        tools
            .git(move |repos| {
                // The next runs of the job start from it.
                let name = format!("job-{}", id.job);
                let kept = keep.as_ref().map(|commit| (name.as_str(), commit));
                around(Kernel, "close-run", || {
                    repos.door.settle_run(id, kept, &spent)
                })?;
                Ok(())
            })
            .await?;
        Ok(Outcome {
            events: vec![Event::RunCollected { run: id }],
            containers: true,
            ..Outcome::default()
        })
    })
}

async fn remove<R: Runtime>(tools: &Tools<R>, id: RunId) -> Result<(), Failure> {
    let name = factory_core::container::ContainerSpec::name_for(&tools.home, id);
    Kernel.before("remove");
    tools.runtime.remove(&name).await?;
    Kernel.after("remove");
    // The run's grant is closed: the gateway takes its socket away.
    Kernel.before("close-door");
    tools.wake_gateway().await?;
    Kernel.after("close-door");
    let (ws, dir) = (tools.places.ws_dir(id), tools.places.run_dir(id));
    blocking(move || {
        around(Kernel, "remove-workspace", || workspace::remove(&ws))?;
        Ok(around(Kernel, "remove-files", || workspace::remove(&dir))?)
    })
    .await
}
