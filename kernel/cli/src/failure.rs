//! Failures as a person sees them: what is wrong, where, the next step, an exit code.

use factory_core::text;
use factory_ledger::{
    inbox::InboxError,
    lock::{Holder, LockError},
    mark::TakenOver,
    places::PlaceError,
    repo::RepoError,
    sockets::SocketProblem,
    state::CommitError,
    store::StoreError,
    sync::SyncError,
};
use factory_runtime::RuntimeError;
use std::{error::Error, fmt, io::ErrorKind, process::ExitCode};

/// What kind of failure it is; each has a documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 1: a defect of ours, or a disk that fails.
    Internal,
    /// 1: a disk that takes nothing more, or a folder that may not be written to.
    Disk,
    /// 1: the gateway does not answer or does not serve a run.
    Gateway,
    /// 2: the command line is wrong (clap uses the same code).
    Usage,
    /// 3: the repository cannot be worked with.
    Repository,
    /// 4: `factory.yaml` is wrong.
    Config,
    /// 5: what is asked for is not possible in this state.
    Refused,
    /// 6: the container engine is missing or unsuitable.
    Engine,
    /// 6: the container engine does not answer.
    Away,
    /// 7: the image is missing or cannot be built.
    Image,
    /// 8: the model key is missing.
    Key,
    /// 9: another factory runs in this repository.
    Busy,
    /// 11: another machine has taken this factory over.
    TakenOver,
    /// 13: it is done, but standard output could not be written.
    Output,
}

impl Class {
    /// The documented exit code.
    pub fn code(self) -> u8 {
        match self {
            Class::Internal | Class::Disk | Class::Gateway => 1,
            Class::Usage => 2,
            Class::Repository => 3,
            Class::Config => 4,
            Class::Refused => 5,
            Class::Engine | Class::Away => 6,
            Class::Image => 7,
            Class::Key => 8,
            Class::Busy => 9,
            Class::TakenOver => 11,
            Class::Output => 13,
        }
    }
}

/// Exit code of `start --until-idle` when some work ended with a person.
pub const NEEDS_HUMAN: u8 = 10;
/// Exit code of `init --try` when the checks are not green.
pub const RED: u8 = 12;
/// Exit code after an interrupt.
pub const INTERRUPTED: u8 = 130;

/// Something that ends a command.
#[derive(Debug)]
pub struct Failure {
    class: Class,
    what: String,
    help: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with its message.
    pub fn new(class: Class, what: impl Into<String>) -> Self {
        Self {
            class,
            what: what.into(),
            help: None,
            source: None,
        }
    }

    /// A failure that another error explains.
    pub fn of(class: Class, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            class,
            what: source.to_string(),
            help: None,
            source: source_of(&source),
        }
    }

    /// Adds the next step.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The next step, where one is known.
    pub fn next_step(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// What is wrong, with its causes, in one paragraph.
    pub fn chain(&self) -> String {
        let mut text = self.what.clone();
        let mut cause: Option<&(dyn Error + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }

    /// Prints it and gives its exit code.
    pub fn report(&self) -> ExitCode {
        crate::views::aside(&format!("error: {self}"));
        ExitCode::from(self.class.code())
    }
}

/// The causes below `error`, kept as text: they are only ever shown.
fn source_of(error: &(dyn Error + 'static)) -> Option<Box<dyn Error + Send + Sync>> {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    (!causes.is_empty()).then(|| causes.join(": ").into())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(source) = &self.source {
            write!(f, "\n  because: {source}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// Whether the system's reason is the repository's, not a defect or a failing disk.
fn class_of(reason: &std::io::Error) -> Class {
    match reason.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Class::Repository,
        _ => Class::Internal,
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        Self::of(class_of(&error.source), error)
    }
}

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        let class = match &error {
            RepoError::Io { source, .. } => class_of(source),
            RepoError::Git { .. }
            | RepoError::Refs { .. }
            | RepoError::Objects { .. }
            | RepoError::NoBranch { .. }
            | RepoError::TooLarge { .. }
            | RepoError::NotForward { .. } => Class::Internal,
        };
        Self::of(class, error)
    }
}

impl From<SocketProblem> for Failure {
    fn from(error: SocketProblem) -> Self {
        let class = match &error {
            SocketProblem::Open { source, .. } | SocketProblem::Unwritable { source, .. } => {
                class_of(source)
            }
            SocketProblem::NotPrivate { .. } => Class::Internal,
        };
        Self::of(class, error)
    }
}

macro_rules! class_of {
    ($($error:ty => $class:ident),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(Class::$class, error)
            }
        })*
    };
}

class_of! {
    factory_ledger::places::RepoProblem => Repository,
    factory_ledger::pack::PackError => Internal,
    factory_ledger::git::GitError => Internal,
    factory_ledger::sync::AdoptError => Internal,
    factory_core::state::StateError => Internal,
    factory_core::event::Refusal => Refused,
    factory_core::ids::BadId => Usage,
    factory_runtime::image::ImageError => Image,
    std::io::Error => Internal,
}

fn class_of_store(error: &StoreError) -> Class {
    match error {
        StoreError::Unwritable { source, .. } => match class_of(source) {
            Class::Repository => Class::Repository,
            _ => Class::Disk,
        },
        StoreError::Missing { .. } | StoreError::Turn { .. } | StoreError::Git { .. } => {
            Class::Internal
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(class_of_store(&error), error)
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => error.into(),
            CommitError::TakenOver(taken) => taken_over(&taken),
            other => Self::of(Class::Internal, other),
        }
    }
}

impl From<InboxError> for Failure {
    fn from(error: InboxError) -> Self {
        match error {
            InboxError::Store(error) => error.into(),
            other => Self::of(Class::Internal, other),
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let class = match &error {
            RuntimeError::NoEngine { .. } | RuntimeError::Unreachable { .. } => Class::Away,
            _ => Class::Engine,
        };
        Self::of(class, error)
    }
}

impl From<SyncError> for Failure {
    fn from(error: SyncError) -> Self {
        let class = match &error {
            SyncError::Remote { .. } | SyncError::Garbage { .. } => Class::Refused,
            _ => Class::Internal,
        };
        Self::of(class, error)
    }
}

/// Another machine has taken this factory over.
pub fn taken_over(taken: &TakenOver) -> Failure {
    let left = match taken.left {
        0 => String::new(),
        1 => "; one step made here since the last sync is not carried over".to_owned(),
        n => format!("; {n} steps made here since the last sync are not carried over"),
    };
    Failure::new(
        Class::TakenOver,
        format!(
            "the machine {} goes on with this factory, since {}{left}",
            text::one_line(&taken.by.host),
            crate::clock::show(taken.by.since),
        ),
    )
    .help(format!(
        "work there; to go on here instead, run `factory sync` there and then here\n    \
         factory start --take-over --remote {}",
        taken.remote
    ))
}

/// Another factory runs in this repository.
pub fn busy(holder: Option<Holder>) -> Failure {
    match holder {
        Some(holder) => Failure::new(
            Class::Busy,
            format!(
                "another factory runs in this repository (pid {}, since {})",
                holder.pid,
                crate::clock::show(holder.since)
            ),
        )
        .help("see it with `factory status`; end it with `factory stop`, or at once with `factory stop --now`"),
        None => Failure::new(
            Class::Busy,
            "another factory is just starting in this repository",
        ),
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Busy { holder, .. } => busy(holder),
            LockError::File { ref source, .. } => Self::of(class_of(source), error),
        }
    }
}
