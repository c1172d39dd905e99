//! The model keys: handed to providers only, redacted everywhere else.
//!
//! A key comes from the environment of `factory start`, else from `keys.env`, else from the
//! command that this file names. The file is looked at before each call and the command
//! asked again once a provider refused its key, so a key may change while everything runs.

mod command;
pub mod file;
mod redact;

pub use command::{CommandError, WANTED, ask};
pub use redact::Redactor;

use crate::{error::GatewayError, stores::Timing};
use file::{KeyFile, Stamp};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use std::{
    collections::BTreeMap,
    io::Read,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// Why a model cannot be called. Names no value.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoKey {
    /// Nobody gave one.
    #[error(
        "{name} was not set when `factory start` ran, and is not in keys.env: put it there, or set it and start again"
    )]
    Unset {
        /// The key.
        name: String,
    },
    /// The command has none.
    #[error("{0}; `factory doctor` shows what it says")]
    Command(Arc<CommandError>),
}

/// The keys as they are now.
pub struct Keys {
    /// Of the environment that `factory start` was given: they never change.
    given: BTreeMap<String, SecretString>,
    place: Option<PathBuf>,
    read: Mutex<FileRead>,
    /// What the command said, by the name it was asked for. Each has a lock of its own, held while
    /// it is asked, so that it is asked once for all who wait, and nobody else waits.
    asked: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Option<Asked>>>>>,
    redactor: Redactor,
}

/// `keys.env` as it was read last.
#[derive(Default)]
struct FileRead {
    stamp: Option<Stamp>,
    file: KeyFile,
}

/// One answer of the command, and when it came.
struct Asked {
    at: Instant,
    answer: Result<SecretString, Arc<CommandError>>,
}

/// A key that a provider refused, and when the refused call began.
#[derive(Clone, Copy)]
struct Refused<'a> {
    key: &'a SecretString,
    since: Instant,
}

impl Refused<'_> {
    fn is(&self, key: &SecretString) -> bool {
        self.key.expose_secret() == key.expose_secret()
    }
}

impl Keys {
    /// The keys `given` by name; others may stand in the file `place`. What is known here is
    /// known to `redactor`.
    pub fn new(
        given: BTreeMap<String, SecretString>,
        place: Option<PathBuf>,
        redactor: Redactor,
    ) -> Self {
        for key in given.values() {
            redactor.learn(key.expose_secret());
        }
        Self {
            given,
            place,
            read: Mutex::default(),
            asked: Mutex::default(),
            redactor,
        }
    }

    /// The key named `name`.
    pub(crate) async fn get(&self, name: &str, timing: &Timing) -> Result<SecretString, NoKey> {
        self.find(name, None, timing).await
    }

    /// The key to use in place of `key`, which a provider refused in a call that began at
    /// `since`; none where there is no other.
    pub(crate) async fn renewed(
        &self,
        name: &str,
        key: &SecretString,
        since: Instant,
        timing: &Timing,
    ) -> Option<SecretString> {
        let refused = Refused { key, since };
        let found = self.find(name, Some(refused), timing).await;
        found.ok().filter(|found| !refused.is(found))
    }

    async fn find(
        &self,
        name: &str,
        refused: Option<Refused<'_>>,
        timing: &Timing,
    ) -> Result<SecretString, NoKey> {
        if let Some(key) = self.given.get(name) {
            return Ok(key.clone());
        }
        self.look(refused.is_some()).await;
        let command = {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = read.file.keys.get(name) {
                return Ok(key.clone());
            }
            read.file.command.clone()
        };
        match command {
            Some(command) => self
                .ask(&command, name, refused, timing)
                .await
                .map_err(NoKey::Command),
            None => Err(NoKey::Unset {
                name: name.to_owned(),
            }),
        }
    }

    /// Takes up what stands in the file, if it changed. It may be looked at while it is being
    /// written: what is missing or wrong then is as it was before, unless a key was `refused`.
    async fn look(&self, refused: bool) {
        let Some(place) = self.place.clone() else {
            return;
        };
        let before = self
            .read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stamp;
        let looked = tokio::task::spawn_blocking(move || {
            let stamp = Stamp::of(&place);
            (refused || stamp != before).then(|| (stamp, file::read(&place)))
        });
        let (stamp, found) = match looked.await {
            Ok(None) => return,
            Ok(Some((stamp, found))) => (stamp, found),
            Err(error) => {
                tracing::error!(%error, "keys.env was not looked at");
                return;
            }
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.stamp = stamp;
        match found {
            Ok(Some(file)) => {
                for key in file.keys.values() {
                    self.redactor.learn(key.expose_secret());
                }
                if refused {
                    read.file = file;
                } else {
                    read.file.keys.extend(file.keys);
                    read.file.command = file.command.or(read.file.command.take());
                }
            }
            // Who takes the file away takes back what is in it.
            Ok(None) if refused => read.file = KeyFile::default(),
            Ok(None) => {}
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(error, "keys.env is not used; what was read before stays");
            }
        }
    }

    /// Asks the command; not again for what it was asked for since the caller began to
    /// wait, and never more often than `timing.key_pause` allows.
    async fn ask(
        &self,
        command: &SecretString,
        name: &str,
        refused: Option<Refused<'_>>,
        timing: &Timing,
    ) -> Result<SecretString, Arc<CommandError>> {
        let since = refused.map_or_else(Instant::now, |refused| refused.since);
        let asked = {
            let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        let mut asked = asked.lock().await;
        if let Some(Asked { at, answer }) = &*asked {
            let is_wanted = match (answer, refused) {
                (Ok(key), Some(refused)) => !refused.is(key),
                (Ok(_), None) => true,
                (Err(_), _) => false,
            };
            if is_wanted || *at > since {
                return answer.clone();
            }
            tokio::time::sleep_until(*at + timing.key_pause).await;
        }
        let environment: Vec<_> = std::env::vars_os().collect();
        let answer = command::ask(command, name, &environment, timing.key_wait).await;
        match &answer {
            Ok(key) => self.redactor.learn(key.expose_secret()),
            Err(error) => {
                tracing::warn!(said = error.said(), "{error}");
            }
        }
        let answer = answer.map_err(Arc::new);
        *asked = Some(Asked {
            at: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }

    /// `text` without any of the keys, those of the past included.
    pub fn redact(&self, text: &str) -> String {
        self.redactor.redact(text).into_owned()
    }

    /// Where in `text` the first of the keys stands, those of the past included.
    pub fn stand_in(&self, text: &str) -> Option<usize> {
        self.redactor.find(text)
    }
}

/// Reads one JSON object of names and values from standard input, to its end.
pub fn read_stdin() -> Result<BTreeMap<String, SecretString>, GatewayError> {
    read(std::io::stdin().lock())
}

fn read(mut input: impl Read) -> Result<BTreeMap<String, SecretString>, GatewayError> {
    let mut text = Zeroizing::new(String::new());
    input
        .read_to_string(&mut text)
        .map_err(|source| GatewayError::Keys {
            source: source.into(),
        })?;
    serde_json::from_str(&text).map_err(|error| {
        // serde's own message may quote a value; the position says enough.
        GatewayError::Keys {
            source: format!("line {}, column {}", error.line(), error.column()).into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::Index};

    #[test]
    fn keys_come_as_one_json_object() {
        let keys = read(r#"{"A_KEY":"sk-secret-1"}"#.as_bytes()).unwrap();
        assert_eq!(keys["A_KEY"].expose_secret(), "sk-secret-1");
        assert!(
            !format!("{keys:?}").contains("sk-secret"),
            "keys are not printable"
        );
    }

    #[test]
    fn a_problem_with_the_keys_quotes_none_of_them() {
        let error = read(r#"{"A_KEY": 7, "B": "sk-secret-1"#.as_bytes()).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(
            text.contains("line 1") && !text.contains('7') && !text.contains("sk-"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn untrusted_input_is_not_quoted_where_it_is_wrong(
            key in "[A-Z]{9,30}", at in any::<Index>(), put in "[]\\\\\"{}:,0-9\n]{0,3}",
        ) {
            let mut json = serde_json::json!({"name": key}).to_string();
            json.replace_range(at.index(json.len())..json.len(), &put);
            if let Err(error) = read(json.as_bytes()) {
                let text = crate::error::chain(&error);
                prop_assert!(!text.contains(&key) && !text.contains(&key[..4]), "{text}");
            }
        }
    }
}
