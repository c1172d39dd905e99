//! A factory as its commands see it: the repository, its places, its state.

use crate::{
    clock,
    failure::{Class, Failure},
    keys,
};
use factory_core::{
    config::{self, Config, ConfigError, EngineKind},
    event::{Event, Refusal},
    ids::Oid,
    state::{State, StateError},
    step::{Step, step},
};
use factory_ledger::{
    failpoint::Process,
    history,
    places::{Places, home_id},
    repo::RepoError,
    sockets::SocketProblem,
    state::{CommitError, StateRepo},
    store::StoreError,
    user::UserRepo,
};
use std::{io::Read, path::Path};

/// Retries of a command whose commit lost the swap to another writer.
const SWAP_TRIES: u32 = 100;
/// Largest `factory.yaml` that is read, in bytes.
pub const CONFIG_LIMIT: u64 = 1 << 20;

/// The next step where the state is broken.
const MEND: &str = "see what is wrong with `factory state verify`; `factory state restore` \
                    goes back to the newest intact step";
/// The same where the error itself names `factory state verify`.
const RESTORE: &str = "`factory state restore` goes back to the newest intact step";

/// One repository's factory.
pub struct Factory {
    /// Where everything lies.
    pub places: Places,
    /// The database.
    pub store: StateRepo,
    /// The user's repository.
    pub user: UserRepo,
    /// Newest state commit that was read.
    pub head: Oid,
    /// The state at `head`.
    pub state: State,
    /// Name of this factory on this host.
    pub home: String,
}

impl Factory {
    /// Opens the factory of the repository around `cwd`, making its state where there is none yet.
    pub fn open(cwd: &Path) -> Result<Self, Failure> {
        Self::opened(cwd, false)
    }

    /// The same for a command that only reads: where there is a state, it need not be able to write.
    pub fn look(cwd: &Path) -> Result<Self, Failure> {
        Self::opened(cwd, true)
    }

    fn opened(cwd: &Path, looks: bool) -> Result<Self, Failure> {
        let mut places = Places::discover(cwd)?;
        let begun = places.state_git().exists();
        if !begun {
            // Before anything is made.
            target_of(&places)?;
        }
        if !(begun && looks) {
            places.ensure_dirs()?;
        }
        let user = UserRepo::open(places.common_dir());
        let store = StateRepo::init(&places)?;
        let head = match whole_head(&store)? {
            Some(head) => head,
            None => first_state(&places, &store, &user)?,
        };
        let state = read_state(&store, &head)?;
        let home = home_id(&state.meta.repository, &places.state_git())?;
        match places.settle_sockets(&home) {
            // Then no kernel runs there either.
            Err(SocketProblem::Unwritable { .. }) if looks => {}
            settled => settled?,
        }
        Ok(Self {
            places,
            store,
            user,
            head,
            state,
            home,
        })
    }

    /// Once more, for work beside the one that opened it.
    pub fn again(&self) -> Result<Self, Failure> {
        Ok(Self {
            places: self.places.clone(),
            store: StateRepo::open(&self.places)?,
            user: self.user.clone(),
            head: self.head.clone(),
            state: self.state.clone(),
            home: self.home.clone(),
        })
    }

    /// Reads the newest state, if somebody else moved it. Tells whether it had
    /// moved. What does not follow on the state that was read before is refused:
    /// whoever went on from it would do things twice.
    pub fn reload(&mut self) -> Result<bool, Failure> {
        match self.store.head().map_err(unreadable)? {
            Some(head) if head != self.head => {
                let state = read_state(&self.store, &head)?;
                let steps = state.meta.step.checked_sub(self.state.meta.step);
                let follows = match steps {
                    Some(steps) => self.store.follows(&head, &self.head, steps)?,
                    None => false,
                };
                if !follows {
                    return Err(Failure::new(
                        Class::Internal,
                        format!(
                            "the state in {} was set back or rewritten: it was at step {} ({}) \
                             and is now at step {} ({})",
                            self.places.state_git().display(),
                            self.state.meta.step,
                            self.head.short(),
                            state.meta.step,
                            head.short()
                        ),
                    )
                    .help(MEND));
                }
                self.state = state;
                self.head = head;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => Err(Failure::new(
                Class::Internal,
                format!("the state in {} is gone", self.places.state_git().display()),
            )
            .help(MEND)),
        }
    }

    /// Decides, commits and applies one event; on a lost swap with the newest state again.
    pub fn journal(&mut self, event: Event) -> Result<Step, Failure> {
        Ok(self.try_journal(event)??)
    }

    /// The same, with a refusal of the event apart from what broke.
    pub fn try_journal(&mut self, event: Event) -> Result<Result<Step, Refusal>, Failure> {
        for _ in 0..SWAP_TRIES {
            let now = clock::now();
            let made = match step(&self.state, event.clone(), now) {
                Ok(made) => made,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let files = made.delta.files();
            let kind = event.kind();
            Process::Kernel.before(kind);
            match self
                .store
                .commit(Some(&self.head), &files, &made.message(), now.0)
            {
                Ok(landed) => {
                    Process::Kernel.after(kind);
                    self.head = landed.oid().clone();
                    self.state.apply(made.delta.clone());
                    return Ok(Ok(made));
                }
                Err(CommitError::Moved { .. }) => {
                    self.reload()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new(
            Class::Internal,
            "the state moved faster than this step could be committed",
        )
        .help("try again"))
    }

    /// Tip of the target branch in the user's repository.
    pub fn target_tip(&self) -> Result<Oid, Failure> {
        self.tip_of(&self.state.meta.target)
    }

    /// Tip of a branch of the user's repository.
    pub fn tip_of(&self, target: &str) -> Result<Oid, Failure> {
        self.user.tip(target)?.ok_or_else(|| {
            Failure::new(
                Class::Repository,
                format!("the target branch `{target}` does not exist any more"),
            )
            .help("make it again, or choose another with `factory start --target <branch>`")
        })
    }

    /// `factory.yaml` as it would come into force for a target branch, with
    /// the commit it comes from, if any; `file` takes its place.
    pub fn wanted_config(
        &self,
        file: Option<&Path>,
        target: &str,
    ) -> Result<(Option<Oid>, Config), Failure> {
        match file {
            Some(path) => {
                let text = read_text(path)?;
                Ok((None, parse_config(&path.display().to_string(), &text)?))
            }
            None => {
                let tip = self.tip_of(target)?;
                read_config(&self.user, &tip, &self.state.config.config.engine)
            }
        }
    }

    /// Brings `factory.yaml` of the target branch (or `file`) into force, if it differs.
    pub fn refresh_config(&mut self, file: Option<&Path>) -> Result<(), Failure> {
        let (commit, config) = self.wanted_config(file, &self.state.meta.target)?;
        if config != self.state.config.config {
            self.journal(Event::ConfigLoaded {
                commit,
                config: Box::new(config),
            })?;
        }
        Ok(())
    }
}

/// `factory.yaml` of a commit, and that commit. Where it has none, the defaults, with the
/// engine that there is a key for, or else the one that was in force before.
pub fn read_config(
    user: &UserRepo,
    commit: &Oid,
    before: &EngineKind,
) -> Result<(Option<Oid>, Config), Failure> {
    let place = || format!("{} (commit {})", config::FILE, commit.short());
    match user.read_file(commit, config::FILE, CONFIG_LIMIT) {
        Ok(None) => Ok((None, keys::unwritten(before, keys::is_set))),
        Ok(Some(bytes)) => {
            let config = parse_config(&place(), &utf8(&place(), bytes)?)?;
            Ok((Some(commit.clone()), config))
        }
        Err(RepoError::TooLarge { .. }) => Err(too_large(&place())),
        Err(error) => Err(error.into()),
    }
}

/// The text of a configuration file that the command line names.
fn read_text(path: &Path) -> Result<String, Failure> {
    let place = path.display().to_string();
    let wrong = |what: String| {
        Failure::new(Class::Config, what).help("give `--config` a file that you may read")
    };
    let failed = |error| wrong(format!("cannot read {place}: {error}"));
    // Looked at before it is opened: a pipe would wait for its writer, and a device may not end.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong(format!("{place} is not a regular file")));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CONFIG_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > CONFIG_LIMIT {
        return Err(too_large(&place));
    }
    utf8(&place, bytes)
}

fn utf8(place: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(
            Class::Config,
            format!("{place}:{line}: this is not UTF-8 text"),
        )
        .help("save the file as UTF-8")
    })
}

fn too_large(place: &str) -> Failure {
    Failure::new(
        Class::Config,
        format!("{place} has more than {CONFIG_LIMIT} bytes, and no more are read"),
    )
    .help("make it smaller; a configuration has some twenty lines")
}

/// The branch that keeps git from making branches `<prefix>/…`: where `a` is a
/// branch, none can be `a/b`.
pub fn branch_in_the_way<'a>(user: &UserRepo, prefix: &'a str) -> Result<Option<&'a str>, Failure> {
    let ends = prefix.match_indices('/').map(|(at, _)| at);
    for end in ends.chain([prefix.len()]) {
        let branch = &prefix[..end];
        if user.tip(branch)?.is_some() {
            return Ok(Some(branch));
        }
    }
    Ok(None)
}

/// Refuses a prefix that no work branch can have.
pub fn check_prefix(user: &UserRepo, prefix: &str) -> Result<(), Failure> {
    match branch_in_the_way(user, prefix)? {
        None => Ok(()),
        Some(branch) => Err(Failure::new(
            Class::Config,
            format!("a branch `{branch}` is there, so no branch can be {prefix}/…"),
        )
        .help(format!(
            "set branch_prefix in {}, or rename the branch: git branch -m {branch} <name>",
            config::FILE
        ))),
    }
}

/// A configuration, or where it is wrong.
pub fn parse_config(place: &str, text: &str) -> Result<Config, Failure> {
    Config::parse(text).map_err(
        |ConfigError {
             what,
             line,
             column,
             help,
         }| {
            let at = match (line, column) {
                (0, _) => place.to_owned(),
                (line, 0) => format!("{place}:{line}"),
                (line, column) => format!("{place}:{line}:{column}"),
            };
            Failure::new(Class::Config, format!("{at}: {what}")).help(help)
        },
    )
}

/// The newest state, unless a first look finds it broken or set back.
fn whole_head(store: &StateRepo) -> Result<Option<Oid>, Failure> {
    let mut head = store.head().map_err(unreadable)?;
    while let Some(problem) = history::glance(store, head.as_ref()).map_err(unreadable)? {
        // Somebody may have made the first state, or restored one, between the two looks.
        let now = store.head().map_err(unreadable)?;
        if now == head {
            let what = format!("the state is broken: {problem}");
            return Err(Failure::new(Class::Internal, what).help(MEND));
        }
        head = now;
    }
    Ok(head)
}

fn read_state(store: &StateRepo, head: &Oid) -> Result<State, Failure> {
    let files = store.read_live(head).map_err(unreadable)?;
    State::decode(&files).map_err(|error| match error {
        StateError::Newer { .. } => error.into(),
        broken => Failure::from(broken).help(MEND),
    })
}

fn unreadable(error: StoreError) -> Failure {
    match error {
        StoreError::Git { .. } => Failure::from(error).help(RESTORE),
        other => other.into(),
    }
}

/// Makes the first state: the target is the branch that is checked out now.
fn first_state(places: &Places, store: &StateRepo, user: &UserRepo) -> Result<Oid, Failure> {
    let target = target_of(places)?;
    let tip = user.tip(&target)?.unwrap_or_else(Oid::zero);
    let now = clock::now();
    // Names this repository for ever: where it began, and when.
    let state = State::new(format!("{}-{:x}", tip.short(), now.0), target.clone());
    let message = format!("factory: begun for branch {target}\n\nFactory-Step: 0.0\n");
    match store.commit(None, &state.initial_files(), &message, now.0) {
        Ok(landed) => Ok(landed.oid().clone()),
        // Somebody else began at the same moment: theirs is as good.
        Err(CommitError::Moved { now: Some(head) }) => Ok(head),
        Err(error) => Err(error.into()),
    }
}

/// The branch that a new factory works for: the one that is checked out.
pub fn target_of(places: &Places) -> Result<String, Failure> {
    places.head_branch().ok_or_else(|| {
        Failure::new(
            Class::Repository,
            "no branch is checked out (detached HEAD), so there is no branch to work for",
        )
        .help("git switch <branch>")
    })
}
