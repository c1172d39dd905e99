//! Which engine a repository chose.

use super::{ENGINES, Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use std::fmt;

/// Key of an engine of the user's own.
const COMMAND: &str = "command";
/// What may stand after `engine:`.
const NAMES: [&str; ENGINES.len() + 1] = {
    let mut names = [COMMAND; ENGINES.len() + 1];
    let mut at = 0;
    while at < ENGINES.len() {
        names[at] = ENGINES[at].name;
        at += 1;
    }
    names
};

/// The program that does a code run's work: `claude`, or `{command: [program, argument]}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineKind {
    /// One of [`ENGINES`].
    Known(&'static Engine),
    /// Any command: the brief on standard input, the work tree as working directory.
    Command(Vec<String>),
}

impl EngineKind {
    /// The engine of this name.
    pub fn named(name: &str) -> Option<Self> {
        let found = ENGINES.into_iter().find(|engine| engine.name == name);
        found.map(EngineKind::Known)
    }

    /// What the factory knows of it; nothing of a command.
    pub fn known(&self) -> Option<&'static Engine> {
        match self {
            EngineKind::Known(engine) => Some(engine),
            EngineKind::Command(_) => None,
        }
    }

    /// The word used for people.
    pub fn as_str(&self) -> &'static str {
        self.known().map_or(COMMAND, |engine| engine.name)
    }
}

impl Default for EngineKind {
    fn default() -> Self {
        EngineKind::Known(ENGINES[0])
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Engine {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Engine {}

impl Serialize for EngineKind {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            EngineKind::Known(engine) => s.serialize_str(engine.name),
            EngineKind::Command(argv) => {
                let mut map = s.serialize_map(Some(1))?;
                map.serialize_entry(COMMAND, argv)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for EngineKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EngineKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an engine, or {command: [program, argument]}")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<EngineKind, E> {
                EngineKind::named(name).ok_or_else(|| E::unknown_variant(name, &NAMES))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<EngineKind, A::Error> {
                match map.next_key::<String>()?.as_deref() {
                    Some(COMMAND) => {}
                    Some(other) => return Err(de::Error::unknown_field(other, &[COMMAND])),
                    None => return Err(de::Error::missing_field(COMMAND)),
                }
                let argv = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(EngineKind::Command(argv)),
                    Some(other) => Err(de::Error::unknown_field(&other, &[COMMAND])),
                }
            }
        }
        d.deserialize_any(Visitor)
    }
}
