//! `factory pr`.

use crate::{
    args::{Pr as Prs, Start},
    commands::{issue::text, processes},
    factory::Factory,
    failure::{Class, Failure, INTERRUPTED},
    views::{
        self, archive, line,
        pr::{PrView, against, checks, show, word},
    },
    wait::{self, Next},
};
use factory_core::{
    event::{Command, describe},
    ids::{Oid, PrNo},
    model::{Pr, PrState, Stage},
};
use factory_ledger::git::{Git, GitError};
use std::process::ExitCode;

/// Does what is asked for.
pub fn run(factory: &mut Factory, command: Prs) -> Result<ExitCode, Failure> {
    match command {
        Prs::List { all, json } => list(factory, all, json.json),
        Prs::Show { number, json } => {
            let pr = find(factory, number.parse()?)?;
            let protected = protected_paths(factory, &pr)?;
            if json.json {
                let mut view = PrView::from(&pr);
                view.protected = protected;
                views::print_json(&view)?;
            } else {
                views::print(&show(&pr, &protected.unwrap_or_default()))?;
            }
            Ok(())
        }
        Prs::Diff { number } => diff(factory, number.parse()?),
        Prs::Merge { number } => return merge(factory, number.parse()?),
        Prs::Review {
            number,
            request_changes,
        } => request_changes_of(factory, number.parse()?, request_changes),
        Prs::Reject { number, reason } => reject(factory, number.parse()?, reason),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A pull request, open or not.
fn find(factory: &Factory, number: PrNo) -> Result<Pr, Failure> {
    if let Some(pr) = factory.state.prs.get(&number) {
        return Ok(pr.clone());
    }
    archive::pr(factory, number)?.ok_or_else(|| {
        Failure::new(Class::Refused, format!("there is no pull request {number}"))
            .help("see them with `factory pr list`")
    })
}

/// A pull request that is neither merged nor closed.
fn find_open(factory: &Factory, number: PrNo) -> Result<Pr, Failure> {
    let pr = find(factory, number)?;
    match pr.state {
        PrState::Merged { .. } | PrState::Closed { .. } => Err(Failure::new(
            Class::Refused,
            format!("pull request {number} {}", line(&describe(&pr.state))),
        )
        .help("see the open ones with `factory pr list`")),
        PrState::Ready
        | PrState::Reworking
        | PrState::Queued { .. }
        | PrState::Testing { .. }
        | PrState::Advancing { .. } => Ok(pr),
    }
}

fn list(factory: &Factory, all: bool, json: bool) -> Result<(), Failure> {
    let mut prs = if all {
        archive::prs(factory)?
    } else {
        Vec::new()
    };
    prs.extend(factory.state.prs.values().cloned());
    prs.sort_by_key(|pr| pr.number);
    if json {
        let views: Vec<_> = prs.iter().map(PrView::from).collect();
        views::print_json(&views)?;
        return Ok(());
    }
    if prs.is_empty() {
        return views::hint("no open pull requests");
    }
    let rows: Vec<_> = prs
        .iter()
        .map(|pr| {
            [
                pr.number.to_string(),
                word(&pr.state).to_owned(),
                pr.issue.to_string(),
                checks(pr),
                against(pr),
                pr.title.clone(),
            ]
        })
        .collect();
    let heading = ["#", "STATE", "ISSUE", "CHECKS", "AGAINST IT", "TITLE"];
    views::print(&views::table(heading, &rows))?;
    Ok(())
}

fn request_changes_of(factory: &mut Factory, pr: PrNo, said: String) -> Result<(), Failure> {
    find_open(factory, pr)?;
    let text = text(said)?;
    let (_, awake) = wait::order(factory, Command::RequestChanges { pr, text })?;
    let next = match awake {
        true => "a worker mends it",
        false => "start the factory: `factory start`",
    };
    views::told(&format!("pull request {pr} sent back; {next}\n"))?;
    Ok(())
}

fn reject(factory: &mut Factory, number: PrNo, reason: String) -> Result<(), Failure> {
    let issue = find_open(factory, number)?.issue;
    wait::order(factory, Command::RejectPr { pr: number, reason })?;
    views::told(&format!(
        "pull request {number} closed; `factory issue approve {issue}` lets a worker try again, which reads your reason\n"
    ))?;
    Ok(())
}

/// Prints what a pull request adds to the target.
fn diff(factory: &Factory, number: PrNo) -> Result<(), Failure> {
    let pr = find(factory, number)?;
    let base = match &pr.state {
        // The target holds the head by now; its first parent did not.
        PrState::Merged { merge, .. } => format!("{merge}^1"),
        PrState::Ready
        | PrState::Reworking
        | PrState::Queued { .. }
        | PrState::Testing { .. }
        | PrState::Advancing { .. }
        | PrState::Closed { .. } => factory.target_tip()?.to_string(),
    };
    let patch = patch(factory, &base, &pr.head)?;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    views::print_patch(&patch, |patch| coloured(patch, colour))?;
    Ok(())
}

/// Paths that an open pull request changes and that only a person may merge.
fn protected_paths(factory: &Factory, pr: &Pr) -> Result<Option<Vec<String>>, Failure> {
    if matches!(pr.state, PrState::Merged { .. } | PrState::Closed { .. }) {
        return Ok(None);
    }
    let base = factory.target_tip()?.to_string();
    let names = compare(
        factory,
        &base,
        &pr.head,
        &["--name-only", "-z", "--no-renames"],
    )?;
    let protected = &factory.state.config.config.protected;
    let paths = names.split(|byte| *byte == 0);
    let found = paths.filter(|path| !path.is_empty() && protected.is_match(path));
    Ok(Some(
        found
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect(),
    ))
}

/// The patch from where `head` left `base`.
fn patch(factory: &Factory, base: &str, head: &Oid) -> Result<Vec<u8>, Failure> {
    let options = [
        "--no-color",
        "--find-renames",
        // Whatever the user configured, `git apply` must read it.
        "--src-prefix=a/",
        "--dst-prefix=b/",
    ];
    compare(factory, base, head, &options)
}

/// The difference from where `head` left `base`. Work branches are in the user's
/// repository; of one that was deleted there, our own still has the commits.
fn compare(
    factory: &Factory,
    base: &str,
    head: &Oid,
    options: &[&str],
) -> Result<Vec<u8>, Failure> {
    let range = format!("{base}...{head}");
    let mut gits = vec![Git::new(factory.user.dir())];
    let door = factory.places.door_git();
    if door.exists() {
        gits.push(Git::isolated(door));
    }
    let mut why = None;
    for git in gits {
        let call = git.call(["diff", "--no-ext-diff", "--no-textconv"]);
        let call = call.args(options).args([&range, "--"]);
        match call.run() {
            Ok(out) => return Ok(out.stdout),
            Err(error @ GitError::Failed { .. }) => why = why.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    let failure = match why {
        Some(error) => Failure::of(Class::Refused, error),
        None => Failure::new(Class::Refused, format!("commit {head} is gone")),
    };
    Err(failure.help(format!(
        "a commit of {range} or their common history is gone; look for it with `git cat-file -t {head}`"
    )))
}

/// A patch for a terminal, in colours where they are wanted.
fn coloured(patch: String, colour: bool) -> String {
    if !colour {
        return patch;
    }
    let mut out = String::with_capacity(patch.len());
    for line in patch.lines() {
        let code = match line.as_bytes() {
            [b'd', b'i', b'f', b'f', b' ', ..] => "1",
            [b'@', b'@', ..] => "36",
            [b'+', ..] => "32",
            [b'-', ..] => "31",
            _ => {
                out.push_str(&format!("{line}\n"));
                continue;
            }
        };
        out.push_str(&format!("\x1b[{code}m{line}\x1b[m\n"));
    }
    out
}

/// Opens the merge gate and stays until it is known what came of it.
fn merge(factory: &mut Factory, number: PrNo) -> Result<ExitCode, Failure> {
    let pr = find_open(factory, number)?;
    if wait::kernel(&factory.places)?.is_none() {
        factory.refresh_config(None)?;
    }
    if factory.state.config.config.checks.is_empty() {
        views::hint("warning: nothing was checked: factory.yaml names no checks")?;
    } else if pr.checked.as_ref().is_none_or(|c| c.commit != pr.head) {
        views::hint(
            "warning: nothing was checked yet; the merge is tested before the target moves",
        )?;
    }
    must_not_be_frozen(factory)?;
    match &pr.state {
        // An earlier call opened the gate: this one stays with it.
        PrState::Queued { .. } | PrState::Testing { .. } | PrState::Advancing { .. } => {}
        PrState::Ready | PrState::Reworking | PrState::Merged { .. } | PrState::Closed { .. } => {
            let see = format!("see it with `factory pr show {number}`");
            wait::order(factory, Command::MergePr(number)).map_err(|f| f.help(see))?;
        }
    }
    let mut told = String::new();
    while let Some(progress) = progress(factory, number) {
        if progress != told {
            views::hint(&progress)?;
            told = progress;
        }
        must_not_be_frozen(factory)?;
        if wait::next(factory)? == Next::NoKernel
            && let Some(code) = alone(factory, number)?
        {
            return Ok(code);
        }
    }
    outcome(factory, number)
}

fn must_not_be_frozen(factory: &Factory) -> Result<(), Failure> {
    let Some(frozen) = &factory.state.meta.frozen else {
        return Ok(());
    };
    let by = line(&frozen.by);
    let what = format!(
        "nothing is merged now: all agents were stopped by {by}. What is ordered is merged after"
    );
    Err(Failure::new(Class::Refused, what).help("factory resume"))
}

/// Merges where no kernel runs: with one that settles open merges, then ends.
/// None where it is known what came of it, or another kernel goes on with it.
fn alone(factory: &mut Factory, number: PrNo) -> Result<Option<ExitCode>, Failure> {
    let places = &factory.places;
    // It prepares, or its kernel died and another one comes.
    if wait::launcher(places)?.is_some() {
        std::thread::park_timeout(wait::LOOK_AGAIN);
        return Ok(None);
    }
    let directory = places.work_tree().unwrap_or(places.common_dir()).to_owned();
    let options = Start {
        merges_only: true,
        ..Start::default()
    };
    let code = processes::start(&directory, &options)?;
    factory.reload()?;
    if progress(factory, number).is_none() || code == ExitCode::from(Class::Busy.code()) {
        return Ok(None);
    }
    views::hint(&format!(
        "pull request {number} is not merged yet; `factory pr merge {number}` or the next `factory start` goes on with it"
    ))?;
    Ok(Some(match code {
        ExitCode::SUCCESS => ExitCode::from(INTERRUPTED),
        code => code,
    }))
}

/// What goes on with a pull request whose merge gate is open; none once that is settled.
fn progress(factory: &Factory, number: PrNo) -> Option<String> {
    let target = line(&factory.state.meta.target);
    let pr = factory.state.prs.get(&number)?;
    let job = factory.state.jobs.get(&pr.issue);
    match &pr.state {
        PrState::Queued { .. } if job.is_some_and(|job| job.held_by.is_some()) => Some(format!(
            "pull request {number}: its job is held; `factory job release {}` lets it be merged",
            pr.issue
        )),
        PrState::Queued { .. } => Some(format!("pull request {number}: waits for its turn")),
        PrState::Testing { run: None, .. } => Some(format!(
            "pull request {number}: merged with {target}; waits for a slot to be tested"
        )),
        PrState::Testing { run: Some(run), .. } => Some(format!(
            "pull request {number}: testing the merge with {target} ({run})"
        )),
        PrState::Advancing { merge, .. } => Some(format!(
            "pull request {number}: moving {target} to {}",
            merge.short()
        )),
        PrState::Ready | PrState::Reworking | PrState::Merged { .. } | PrState::Closed { .. } => {
            None
        }
    }
}

/// Says what came of the merge.
fn outcome(factory: &Factory, number: PrNo) -> Result<ExitCode, Failure> {
    let pr = find(factory, number)?;
    let refused = |what: String| Failure::new(Class::Refused, what);
    match &pr.state {
        PrState::Merged { merge, .. } => {
            let target = &factory.state.meta.target;
            let issue = pr.issue;
            let job = factory.state.jobs.get(&issue);
            let next = match job.map(|job| job.stage()) {
                Some(Stage::VerifyDue | Stage::Verifying { .. }) => format!(
                    "; before issue {issue} closes, a run looks at {target} (`factory start`, where none runs)"
                ),
                _ => String::new(),
            };
            views::told(&format!(
                "pull request {number} merged into {target} as {merge}{next}\n"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        PrState::Ready => Err(match &pr.note {
            Some(note) => refused(format!(
                "pull request {number} was not merged: {}",
                note.trim()
            ))
            .help(format!("then again: `factory pr merge {number}`")),
            None => refused(format!(
                "pull request {number} was not merged: it was worked on meanwhile"
            ))
            .help(format!(
                "look at its new version: `factory pr diff {number}`"
            )),
        }),
        PrState::Reworking => {
            let story = factory.state.jobs.get(&pr.issue);
            let why = story.and_then(|job| job.story.last());
            let why = why.map_or_else(String::new, |why| format!(": {}", line(why)));
            let next = format!(
                "a worker mends it, then it waits at the merge gate again; `factory pr show {number}` tells when"
            );
            let start = match wait::kernel(&factory.places)? {
                Some(_) => "",
                None => "start the factory (`factory start`): ",
            };
            Err(
                refused(format!("pull request {number} was not merged{why}"))
                    .help(format!("{start}{next}")),
            )
        }
        PrState::Closed { .. }
        | PrState::Queued { .. }
        | PrState::Testing { .. }
        | PrState::Advancing { .. } => Err(refused(format!(
            "pull request {number} {}",
            line(&describe(&pr.state))
        ))),
    }
}
