//! What every door of this gateway shares: the repositories, the clock, the
//! keys, the kernel's bell.

use crate::{
    error::GatewayError, failpoint, git::ReadRules, keys::Keys, transcript::Transcripts,
    upstream::Upstream,
};
use factory_core::{
    ids::{Oid, RunId},
    inbox::InboxEntry,
};
use factory_ledger::{
    base::BaseRepo,
    door::DoorRepo,
    inbox::{Inbox, InboxError},
    places::Places,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Tells the time in unix seconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How long the gateway waits for what. [`Timing::default`] is what runs use.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Silence in a provider's stream after which the engine gets a keep-alive event.
    pub ping_every: Duration,
    /// Silence in a provider's stream after which it counts as cut.
    pub stream_silence: Duration,
    /// Time the provider has to answer with its headers.
    pub header_wait: Duration,
    /// Time that a connection has for the whole header of a request; what says nothing for
    /// longer is closed as well.
    pub request_wait: Duration,
    /// First pause between two tries of a model call; doubles with each try.
    pub first_backoff: Duration,
    /// Time after which a model call is not tried again.
    pub retry_for: Duration,
    /// Time that the command of `keys.env` has to give a key.
    pub key_wait: Duration,
    /// Least time between two times that it is asked for the same one.
    pub key_pause: Duration,
    /// Time without open grants and without a kernel after which the gateway ends itself.
    pub linger: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(15),
            stream_silence: Duration::from_secs(300),
            header_wait: Duration::from_secs(300),
            request_wait: Duration::from_secs(30),
            first_backoff: Duration::from_millis(500),
            retry_for: Duration::from_secs(45),
            key_wait: Duration::from_secs(30),
            key_pause: Duration::from_secs(5),
            linger: Duration::from_secs(600),
        }
    }
}

/// What every door of this gateway shares.
pub struct Stores {
    /// All paths.
    pub places: Places,
    /// `door.git`.
    pub door: DoorRepo,
    /// The inboxes of all runs.
    pub inbox: Inbox,
    /// The keys of the model providers.
    pub keys: Keys,
    /// What time it is.
    pub clock: Clock,
    /// How long to wait for what.
    pub timing: Timing,
    /// Rung after each inbox entry; several rings before the kernel hears it are one.
    pub bell: Notify,
    pub(crate) transcripts: Transcripts,
    pub(crate) upstream: Upstream,
    pub(crate) rules: ReadRules,
}

impl Stores {
    /// Opens the repositories below `places`; `state.git` must exist.
    pub fn open(
        places: Places,
        keys: Keys,
        clock: Clock,
        timing: Timing,
    ) -> Result<Self, GatewayError> {
        let door = BaseRepo::init(places.base_git())
            .and_then(|base| DoorRepo::init(places.door_git(), &base))
            .map_err(|source| GatewayError::Door { source })?;
        let inbox = Inbox::open(&places).map_err(|source| GatewayError::Inbox { source })?;
        let transcripts = Transcripts::new(&places);
        Ok(Self {
            places,
            door,
            inbox,
            keys,
            clock,
            timing,
            bell: Notify::new(),
            transcripts,
            upstream: Upstream::default(),
            rules: ReadRules::default(),
        })
    }

    /// Writes `entry` to the inbox of `run` (durable when this returns) and
    /// wakes the kernel. Blocks on the disk.
    pub fn append(&self, run: RunId, entry: &InboxEntry) -> Result<Oid, GatewayError> {
        let oid = self.write(run, entry)?;
        self.bell.notify_one();
        Ok(oid)
    }

    /// Writes like [`Stores::append`] and leaves the bell to the caller.
    pub(crate) fn write(&self, run: RunId, entry: &InboxEntry) -> Result<Oid, GatewayError> {
        failpoint::around(entry, || self.inbox.append(run, entry, (self.clock)()))
            .map_err(|source| GatewayError::Inbox { source })
    }

    /// Writes like [`Stores::write`] if the newest entry is still `tip`.
    pub(crate) fn write_at(
        &self,
        run: RunId,
        tip: Option<&Oid>,
        entry: &InboxEntry,
    ) -> Result<Oid, InboxError> {
        failpoint::around(entry, || {
            self.inbox.append_at(run, tip, entry, (self.clock)())
        })
    }
}
