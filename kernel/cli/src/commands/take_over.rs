//! `factory start --take-over`: this machine goes on with what another one
//! brought to a remote.

use crate::{
    clock,
    commands::sync::{self as bring, age, choose, machine_of},
    factory::Factory,
    failure::{Class, Failure},
    views::{self, count, line},
    wait,
};
use factory_core::{ids::Oid, model::Meta, state::State};
use factory_ledger::{
    places::{Places, home_id},
    state::StateRepo,
    sync::{self, AdoptError, Branch, Exchange, Found, Pushed, Remote, TakeOver},
    user::UserRepo,
};
use std::path::Path;

/// The machine before may bring something meanwhile.
const TRIES: u32 = 5;

/// The state that is here already.
struct Here {
    store: StateRepo,
    head: Oid,
    meta: Meta,
    home: String,
    /// Nothing was ever filed in it.
    blank: bool,
}

/// What the work goes on from.
struct Plan {
    base: Oid,
    /// The state here, which `base` replaces.
    old: Option<Oid>,
    /// Everything is here already: only the epoch is raised.
    all_here: bool,
}

/// Takes over, or says why not; nothing is changed then.
pub fn run(cwd: &Path, asked: Option<&str>) -> Result<(), Failure> {
    let places = Places::discover(cwd)?;
    let user = UserRepo::open(places.common_dir());
    let mut here = None;
    // No kernel begins on a state that is just replaced.
    let mut lock = None;
    if places.state_git().exists() {
        let mut factory = Factory::open(cwd)?;
        lock = Some(wait::lock(&factory.places)?);
        factory.reload()?;
        here = Some(Here {
            blank: factory.state.meta.last_issue == 0,
            meta: factory.state.meta,
            head: factory.head,
            home: factory.home,
            store: factory.store,
        });
    }
    let remembered = match &here {
        Some(here) => here.store.remote()?,
        None => None,
    };
    let remote = choose(&places, &user, asked, remembered.as_deref())?;
    places.ensure_dirs()?;
    let mut before: Option<Option<String>> = None;
    for _ in 0..TRIES {
        let exchange = Exchange::open(&places, &user, remote.clone())?;
        let found = look(&exchange)?;
        views::hint(&age(&remote, &found))?;
        let holder = found
            .meta
            .holder
            .as_ref()
            .map(|machine| machine.home.clone());
        if before.as_ref().is_some_and(|before| *before != holder) {
            return Err(refuse(
                "another machine has taken over in this very moment".to_owned(),
                "look which one it is with `factory sync` there; run this again to take over from it",
            ));
        }
        before = Some(holder);
        let Some(plan) = plan(&exchange, here.as_ref(), &found)? else {
            return Ok(());
        };
        check_target(&exchange, &user, &found.meta.target)?;
        check_branches(&exchange, &user, &found)?;
        if lock.is_none() {
            StateRepo::init(&places)?;
            lock = Some(wait::lock(&places)?);
        }
        let take_over = TakeOver {
            places: &places,
            user: &user,
            exchange: &exchange,
            found: &found,
            base: plan.base,
            old: plan.old,
            all_here: plan.all_here,
        };
        if take(cwd, here.as_ref(), &take_over)? {
            return Ok(());
        }
    }
    Err(refuse(
        format!("the state on {} moved all the time", remote.name),
        "stop the other machine first, then run this again",
    ))
}

fn refuse(what: String, help: &str) -> Failure {
    Failure::new(Class::Refused, what).help(help)
}

/// Brings and reads what the remote has.
fn look(exchange: &Exchange) -> Result<Found, Failure> {
    let Remote { name, .. } = exchange.remote();
    let there = exchange.list()?;
    let Some(tip) = there.get(sync::STATE) else {
        return Err(refuse(
            format!("no factory was ever brought to {name}, so there is nothing to take over"),
            &format!("on the machine that has it:\n    factory sync --remote {name}"),
        ));
    };
    let found = exchange.find(tip)?;
    exchange.bring()?;
    Ok(found)
}

/// What to go on from; none where this machine is the one that goes on already.
fn plan(exchange: &Exchange, here: Option<&Here>, found: &Found) -> Result<Option<Plan>, Failure> {
    let theirs = |old| Plan {
        base: found.oid.clone(),
        old,
        all_here: false,
    };
    let Some(here) = here else {
        return Ok(Some(theirs(None)));
    };
    if here.meta.repository != found.meta.repository {
        if here.blank {
            return Ok(Some(theirs(Some(here.head.clone()))));
        }
        return Err(refuse(
            format!(
                "there is another factory in this repository already, with {}",
                count(here.meta.last_issue, "issue")
            ),
            "keep it and work in another clone; or put it away and run this again:\n    \
             mv \"$(git rev-parse --git-common-dir)/factory\" ../factory.old",
        ));
    }
    let holds = |meta: &Meta| meta.holder.as_ref().is_some_and(|m| m.home == here.home);
    if exchange.is_ancestor(&found.oid, &here.head)? {
        if holds(&found.meta) {
            // A take-over may have been cut short at its last step.
            here.store.clear_mark()?;
            views::hint("this machine is the one that goes on already; nothing is taken over")?;
            return Ok(None);
        }
        return Ok(Some(Plan {
            base: here.head.clone(),
            old: Some(here.head.clone()),
            all_here: true,
        }));
    }
    let told = here.store.taken_over()?.is_some() || holds(&found.meta);
    if here.blank || told || exchange.is_ancestor(&here.head, &found.oid)? {
        return Ok(Some(theirs(Some(here.head.clone()))));
    }
    let left = exchange.count(&here.head, Some(&found.oid))?;
    let what = format!(
        "{} made here are not in the state on {}",
        count(left, "step"),
        exchange.remote().name
    );
    Err(match holds(&here.meta) {
        true => refuse(
            what,
            "`factory sync` lists them; after that, this takes over and puts them aside",
        ),
        false => refuse(
            what,
            "this is a copy that went its own way; put its folder away and run this again:\n    \
             mv \"$(git rev-parse --git-common-dir)/factory\" ../factory.old",
        ),
    })
}

/// Merges that the other machine made may not be in this clone yet.
fn check_target(exchange: &Exchange, user: &UserRepo, branch: &str) -> Result<(), Failure> {
    let name = &exchange.remote().name;
    let Some(target) = exchange.target()? else {
        return Ok(());
    };
    let Some(tip) = user.tip(branch)? else {
        return Err(refuse(
            format!(
                "there is no branch `{}` here, which the factory works for",
                line(branch)
            ),
            &format!("git fetch {name} {}:refs/heads/{branch}", sync::TARGET),
        ));
    };
    if exchange.is_ancestor(&target, &tip)? {
        return Ok(());
    }
    let lacks = exchange.count(&target, Some(&tip))?;
    let what = format!(
        "branch `{}` here lacks {} that the other machine has, such as merges by the factory",
        line(branch),
        count(lacks, "commit")
    );
    let how = match exchange.is_ancestor(&tip, &target)? {
        true => "--ff-only ",
        false => "",
    };
    Err(refuse(
        what,
        &format!(
            "with `{branch}` checked out:\n    git fetch {name} {} && git merge {how}FETCH_HEAD",
            sync::TARGET
        ),
    ))
}

/// Work branches come along; a person's commits under their names stay.
fn check_branches(exchange: &Exchange, user: &UserRepo, found: &Found) -> Result<(), Failure> {
    for (name, standing) in sync::branches(exchange, user, &found.work)? {
        let name = line(&name);
        match standing {
            Branch::Fine | Branch::Comes { .. } => {}
            Branch::Parted => {
                return Err(refuse(
                    format!(
                        "the work branch `{name}` has other commits here than on the other machine"
                    ),
                    &format!(
                        "keep them under another name, then run this again:\n    git branch -m {name} {name}-mine"
                    ),
                ));
            }
            Branch::CheckedOut(tree) => {
                return Err(refuse(
                    format!(
                        "the work branch `{name}` is checked out in {} and would be moved",
                        tree.display()
                    ),
                    "switch that work tree to another branch, then run this again",
                ));
            }
        }
    }
    Ok(())
}

/// Raises the epoch on the remote, then makes its state the one here. False
/// where the remote moved.
fn take(cwd: &Path, here: Option<&Here>, take_over: &TakeOver<'_>) -> Result<bool, Failure> {
    let TakeOver {
        places,
        exchange,
        found,
        ..
    } = take_over;
    let now = clock::now();
    if here.is_some_and(|here| !here.blank) {
        // Agents of a factory that went on elsewhere.
        bring::retire(&Factory::open(cwd)?)?;
    }
    let home = home_id(&found.meta.repository, &places.state_git())?;
    let machine = machine_of(&home)?;
    let head = take_over.step_in(&machine, now)?;
    if exchange.push(Some(&found.oid), &head, &Default::default())? == Pushed::Moved {
        return Ok(false);
    }
    let adopted = take_over.adopt(&head, now.0).map_err(|error: AdoptError| {
        Failure::from(error).help("the remote names this machine already; run the same again")
    })?;
    let store = StateRepo::open(places)?;
    store.set_remote(&exchange.remote().name)?;
    let state = State::decode(&store.read_live(&head)?)?;
    let from = found
        .meta
        .holder
        .as_ref()
        .map_or("another machine".to_owned(), |m| line(&m.host));
    views::hint(&format!(
        "taken over from {from}: {}, {}, {}",
        count(state.issues.len() as u64, "open issue"),
        count(state.prs.len() as u64, "open pull request"),
        match adopted.branches.len() {
            1 => "1 work branch".to_owned(),
            n => format!("{n} work branches"),
        },
    ))?;
    if let Some(kept) = adopted
        .kept
        .filter(|_| here.is_some_and(|here| !here.blank))
    {
        views::hint(&format!(
            "what was here before is kept at {kept} of state.git"
        ))?;
    }
    Ok(true)
}
