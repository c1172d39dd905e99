//! `factory sync`: this factory's state goes to a remote, and whoever was taken
//! over learns it there.

use crate::{
    args::Sync,
    clock,
    commands::processes::{log_to_stderr, on_this_thread},
    factory::Factory,
    failure::{self, Class, Failure},
    kernel,
    views::{self, count, line, span},
    wait::{self, Next},
};
use factory_core::{event::Event, model::Machine, wire::PATH_WAKE};
use factory_ledger::{
    mark::TakenOver,
    places::Places,
    sync::{self, Exchange, Found, Pushed, Remote, Standing, SyncError},
    user::UserRepo,
};
use factory_runtime::docker::{self, DockerRuntime};
use hyper::Method;
use std::{io::IsTerminal, path::Path, process::ExitCode, time::Duration};

/// Another machine, or the kernel here, may be faster each time.
const TRIES: u32 = 5;
/// How long a start waits for a remote to say whether another machine has taken over.
const LONGEST_LOOK: Duration = Duration::from_secs(20);

/// Brings the state to the remote.
pub fn run(cwd: &Path, options: &Sync) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let places = Places::discover(cwd)?;
    if !places.state_git().exists() {
        return Err(Failure::new(
            Class::Refused,
            "there is no factory in this repository yet, so there is nothing to bring to a remote",
        )
        .help("`factory init` begins one; `factory start --take-over` goes on with one that another machine brought to a remote"));
    }
    let mut factory = Factory::open(cwd)?;
    let remembered = factory.store.remote()?;
    let asked = options.remote.as_deref();
    let remote = choose(&factory.places, &factory.user, asked, remembered.as_deref())?;
    if remembered.as_deref() != Some(&remote.name) {
        consent(&remote, options.yes)?;
    }
    for _ in 0..TRIES {
        if let Some(done) = attempt(&mut factory, &remote, options.with_transcripts)? {
            factory.store.set_remote(&remote.name)?;
            views::print(&done)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::new(
        Class::Refused,
        format!("the state on {} moved all the time", remote.name),
    )
    .help("try again; let only one machine work at a time"))
}

/// One look and one push; none where another machine was faster.
fn attempt(
    factory: &mut Factory,
    remote: &Remote,
    transcripts: bool,
) -> Result<Option<String>, Failure> {
    factory.reload()?;
    let exchange = Exchange::open(&factory.places, &factory.user, remote.clone())?;
    let there = exchange.list()?;
    let found = there
        .get(sync::STATE)
        .map(|tip| exchange.find(tip))
        .transpose()?;
    let mut out = String::new();
    if let Some(found) = &found {
        out.push_str(&age(remote, found));
    }
    match standing(factory, &exchange, found.as_ref())? {
        // A take-over may have been cut short at its last step.
        Standing::Ours => factory.store.clear_mark()?,
        other => return Err(refused(factory, &exchange, found.as_ref(), other)?),
    }
    let me = machine(factory)?;
    if factory.state.meta.holder.as_ref().map(|m| &m.home) != Some(&me.home) {
        factory.journal(Event::Shared { machine: me })?;
        wait::call(&factory.places, Method::POST, PATH_WAKE)?.ok();
    }
    let head = factory.head.clone();
    let mut wanted = sync::wanted(&factory.places, &factory.user, &factory.state, transcripts)?;
    for name in exchange.drop_missing(&mut wanted)? {
        views::hint(&format!(
            "note: {name} is left out: its commit is not here any more"
        ))?;
    }
    let changes = sync::changes(&there, wanted);
    let expected = found.as_ref().map(|found| &found.oid);
    if expected == Some(&head) && changes.is_empty() {
        out.push_str("nothing is new since then\n");
        return Ok(Some(out));
    }
    if exchange.push(expected, &head, &changes)? == Pushed::Moved {
        return Ok(None);
    }
    let known = expected.filter(|oid| **oid != head);
    let steps = match expected == Some(&head) {
        true => 0,
        false => exchange.count(&head, known)?,
    };
    out.push_str(&format!(
        "brought to {}: {}",
        remote.name,
        count(steps, "step")
    ));
    match changes.len() {
        0 => out.push('\n'),
        1 => out.push_str(" and what 1 ref leads to\n"),
        n => out.push_str(&format!(" and what {n} refs lead to\n")),
    }
    Ok(Some(out))
}

/// How the state here stands to the one that was found on the remote.
fn standing(
    factory: &Factory,
    exchange: &Exchange,
    found: Option<&Found>,
) -> Result<Standing, Failure> {
    let contains = match found {
        Some(found) => exchange.is_ancestor(&found.oid, &factory.head)?,
        None => false,
    };
    Ok(sync::judge(
        &factory.state.meta,
        &factory.home,
        found,
        contains,
    ))
}

/// Why nothing is brought to the remote. Who was taken over stops.
fn refused(
    factory: &mut Factory,
    exchange: &Exchange,
    found: Option<&Found>,
    standing: Standing,
) -> Result<Failure, Failure> {
    let name = &exchange.remote().name;
    let take_over = format!("factory start --take-over --remote {name}");
    let host = |machine: &Machine| line(&machine.host);
    let (what, help) = match standing {
        Standing::TakenOver(by) => {
            let failure = learn(factory, exchange, found, by)?;
            end_here(factory)?;
            return Ok(failure);
        }
        Standing::Copy(holder) => (
            format!(
                "this repository is a copy (or was moved to another disk): {name} takes the state of this factory from {} only",
                host(&holder)
            ),
            format!("to go on here instead, once that one has stopped:\n    {take_over}"),
        ),
        Standing::Taken(holder) => (
            format!(
                "{name} holds the state of this factory from {}, and this one never was there",
                holder
                    .as_ref()
                    .map_or_else(|| "another machine".to_owned(), host)
            ),
            format!("to go on here instead, with the state there:\n    {take_over}"),
        ),
        Standing::Foreign => (
            format!(
                "{name} holds the state of another factory ({})",
                found.map_or("unknown", |f| &f.meta.repository)
            ),
            format!(
                "name another remote with --remote; or, if that one is no longer needed:\n    git push {name} --delete {}",
                sync::STATE
            ),
        ),
        Standing::Behind | Standing::Ours => (
            format!(
                "the state here is older than what this machine brought to {name}: it was set back"
            ),
            format!("to go on with what is there:\n    {take_over}"),
        ),
    };
    let told = found.map_or_else(String::new, |found| age(exchange.remote(), found));
    Ok(Failure::new(Class::Refused, format!("{what}\n  {}", told.trim_end())).help(help))
}

/// What the remote has, and how old it is; one line.
pub fn age(remote: &Remote, found: &Found) -> String {
    let since = clock::now().0 - found.at;
    format!(
        "{} has the state of {} ({} ago): {}\n",
        remote.name,
        clock::show(found.at),
        span(since),
        line(&found.subject),
    )
}

/// Records that another machine has taken over; gives what is said of it.
fn learn(
    factory: &Factory,
    exchange: &Exchange,
    found: Option<&Found>,
    by: Machine,
) -> Result<Failure, Failure> {
    let left = exchange.count(&factory.head, found.map(|found| &found.oid))?;
    let taken = TakenOver {
        by,
        remote: exchange.remote().name.clone(),
        newest: found.map_or(0, |found| found.at),
        left,
    };
    factory.store.mark_taken_over(&taken)?;
    if let Some(found) = found {
        views::hint(&age(exchange.remote(), found))?;
        for subject in exchange.subjects(&factory.head, &found.oid, MOST_LEFT)? {
            views::hint(&format!("not carried over: {subject}"))?;
        }
    }
    Ok(failure::taken_over(&taken))
}

/// Most steps that are listed one by one.
const MOST_LEFT: usize = 10;

/// Ends what goes on here: the kernel does it, or we do where none runs.
fn end_here(factory: &mut Factory) -> Result<(), Failure> {
    if wait::kernel(&factory.places)?.is_some() {
        views::hint("the factory that runs here ends now")?;
        wait::call(&factory.places, Method::POST, PATH_WAKE)?.ok();
        while wait::next(factory)? == Next::Look {}
        return Ok(());
    }
    retire_if_possible(factory)
}

/// Removes the containers of this factory, or says why that is not possible now.
fn retire_if_possible(factory: &Factory) -> Result<(), Failure> {
    if let Err(failure) = retire(factory) {
        let why = failure.chain();
        views::hint(&format!(
            "agents of this factory may still run here, since the container engine cannot be asked: {why}"
        ))?;
    }
    Ok(())
}

/// Removes the containers of this factory. No kernel runs.
pub fn retire(factory: &Factory) -> Result<(), Failure> {
    on_this_thread(async {
        let runtime = DockerRuntime::new(docker::connect().await?).await?;
        kernel::retire(&runtime, &factory.places, &factory.home).await
    })
}

/// Before a start: whether another machine has taken over, as far as that can
/// be known. A remote that does not answer holds nobody up.
pub fn still_ours(factory: &mut Factory) -> Result<(), Failure> {
    if let Some(taken) = factory.store.taken_over()? {
        retire_if_possible(factory)?;
        return Err(failure::taken_over(&taken));
    }
    let holds = |machine: &Machine| machine.home == factory.home;
    let name = match (factory.store.remote()?, &factory.state.meta.holder) {
        (Some(name), Some(machine)) if holds(machine) => name,
        _ => return Ok(()),
    };
    let unknown = |why: &str| {
        views::hint(&format!(
            "note: {name} cannot be asked whether another machine has taken over: {why}"
        ))
    };
    let Some(remote) = factory.user.find_remote(&factory.places, &name)? else {
        return unknown("there is no such remote any more");
    };
    let exchange = Exchange::open(&factory.places, &factory.user, remote)?;
    let look = exchange.list_call().command();
    let look = on_this_thread(async {
        let mut look = tokio::process::Command::from(look);
        let output = look.kill_on_drop(true).output();
        match tokio::time::timeout(LONGEST_LOOK, output).await {
            Ok(output) => Ok(Some(output?)),
            Err(_) => Ok(None),
        }
    })?;
    let there = match look {
        Some(output) if output.status.success() => sync::listed(&output.stdout),
        Some(_) => return unknown("it cannot be reached"),
        None => return unknown("it does not answer"),
    };
    let found = match there.get(sync::STATE) {
        Some(tip) => exchange.find(tip),
        None => return Ok(()),
    };
    let found = match found {
        Ok(found) => found,
        Err(error @ SyncError::Garbage { .. }) => return unknown(&error.to_string()),
        Err(error) => return Err(error.into()),
    };
    match standing(factory, &exchange, Some(&found))? {
        standing @ (Standing::TakenOver(_) | Standing::Behind) => {
            Err(refused(factory, &exchange, Some(&found), standing)?)
        }
        // Somebody put something else there: the next `factory sync` says so.
        Standing::Ours | Standing::Copy(_) | Standing::Taken(_) | Standing::Foreign => Ok(()),
    }
}

/// This machine, from now on.
pub fn machine(factory: &Factory) -> Result<Machine, Failure> {
    machine_of(&factory.home)
}

/// The same for a factory that is not open yet.
pub fn machine_of(home: &str) -> Result<Machine, Failure> {
    Ok(Machine {
        home: home.to_owned(),
        host: kernel::host_and_boot()?.0,
        since: clock::now().0,
    })
}

/// The remote that is meant: named, remembered, or the only one.
pub fn choose(
    places: &Places,
    user: &UserRepo,
    asked: Option<&str>,
    remembered: Option<&str>,
) -> Result<Remote, Failure> {
    let all = user.remotes()?;
    let known = |name: &&str| all.iter().any(|known| known == name);
    let only = match all.as_slice() {
        [only] => Some(only.as_str()),
        _ => Some("origin").filter(known),
    };
    let refuse = |what: String, help: &str| Err(Failure::new(Class::Refused, what).help(help));
    let Some(name) = asked.or(remembered.filter(known)).or(only) else {
        return match all.is_empty() {
            true => refuse(
                "this repository has no remote that could hold the state".to_owned(),
                "git remote add origin <address>",
            ),
            false => refuse(
                format!("there are several remotes: {}", line(&all.join(", "))),
                "name one with --remote",
            ),
        };
    };
    match user.find_remote(places, name)? {
        Some(remote) => Ok(remote),
        None => refuse(
            format!(
                "there is no remote `{}`; there are: {}",
                line(name),
                line(&all.join(", "))
            ),
            "git remote add <name> <address>",
        ),
    }
}

/// History leaves this machine: the first time, a person says so.
fn consent(remote: &Remote, yes: bool) -> Result<(), Failure> {
    let (name, address) = (line(&remote.name), line(&remote.shown()));
    let what = format!(
        "issues, comments and all other state of this factory, and commits that nobody has merged yet, go to refs/factory/* of {name} ({address}): who may read that repository sees them, who may push to it decides what a factory that takes over does"
    );
    if yes {
        return Ok(());
    }
    let refused = |why: String| {
        let help = format!("factory sync --remote {name} --yes");
        Err(Failure::new(Class::Refused, why).help(help))
    };
    if !std::io::stdin().is_terminal() {
        return refused(format!(
            "nothing was sent, since nobody could be asked: {what}"
        ));
    }
    views::ask(&format!("{what}.\nGo on? [y/N]"))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => refused("nothing was sent".to_owned()),
    }
}
