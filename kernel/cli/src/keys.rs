//! Which model keys there are, where each comes from, and what follows from it. `factory start`
//! hands the keys themselves to the gateway alone.

use crate::{
    failure::{Class, Failure},
    launcher,
};
use factory_core::{
    config::{self, Config, EngineKind},
    engine::{ENGINES, Engine},
    grant::{Provider, WireApi},
    text,
};
use factory_gateway::{
    Timing,
    keys::{self, CommandError, file, file::KeyFile},
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;

/// Variable in which the launcher names the model keys that are set to processes that
/// get none of them, separated by commas.
pub const NAMES: &str = "FACTORY_KEY_NAMES";

/// Where a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The environment.
    Environment,
    /// A line of `keys.env`.
    File,
    /// The command that `keys.env` names.
    Command,
}

/// Whether the key of this name was given to the command that began it all, or is written down.
pub fn is_set(name: &str) -> bool {
    match std::env::var(NAMES) {
        Ok(names) => names.split(',').any(|known| known == name),
        Err(_) => {
            let given = std::env::var_os(name).is_some_and(|value| !value.is_empty());
            // What is wrong with the file is said where a key is needed.
            given || file().is_ok_and(|file| file.keys.contains_key(name))
        }
    }
}

/// What this user's `keys.env` says; nothing where there is none.
pub fn file() -> Result<KeyFile, Failure> {
    let Some(place) = file::place() else {
        return Ok(KeyFile::default());
    };
    match file::read(&place) {
        Ok(file) => Ok(file.unwrap_or_default()),
        Err(error) => {
            let help = error.help();
            Err(Failure::of(Class::Key, error).help(help))
        }
    }
}

/// The key of this name, as the gateway would find it; none where there is none.
pub async fn find(name: &str, file: &KeyFile) -> Result<Option<(SecretString, Origin)>, Failure> {
    let given = std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(given) = given {
        let key = SecretString::from(given.to_string_lossy().as_ref());
        return Ok(Some((key, Origin::Environment)));
    }
    if let Some(key) = file.keys.get(name) {
        return Ok(Some((key.clone(), Origin::File)));
    }
    match &file.command {
        Some(command) => Ok(Some((ask(command, name).await?, Origin::Command))),
        None => Ok(None),
    }
}

/// Asks the command of `keys.env`, in the environment that it will have in the gateway.
async fn ask(command: &SecretString, name: &str) -> Result<SecretString, Failure> {
    let limit = Timing::default().key_wait;
    let asked = keys::ask(command, name, &launcher::of_gateway(), limit).await;
    asked.map_err(|error: CommandError| {
        let what = match error.said() {
            "" => error.to_string(),
            said => format!("{error}: {}", text::one_line(said)),
        };
        Failure::new(Class::Key, what).help(format!(
            "try it: {}='{name}' sh -c '<the command>'; of your variables it sees those that the \
             gateway has, such as PATH and HOME, and no others",
            keys::WANTED
        ))
    })
}

/// The first engine whose models' key is set; none where no key is.
pub fn engine(is_set: impl Fn(&str) -> bool) -> Option<&'static Engine> {
    let mut engines = ENGINES.into_iter();
    engines.find(|engine| is_set(engine.api.vendor().key_env()))
}

/// The configuration where nobody wrote one. Its engine is the one whose key is set;
/// without any key, the one `before` stays: a command that needs no key changes nothing.
pub fn unwritten(before: &EngineKind, is_set: impl Fn(&str) -> bool) -> Config {
    let known = || before.known().unwrap_or(ENGINES[0]);
    Config {
        engine: EngineKind::Known(engine(is_set).unwrap_or_else(known)),
        ..Config::default()
    }
}

/// Says so where the engine is not the usual one, though nobody wrote that down.
pub fn engine_note(engine: &EngineKind) -> Option<String> {
    let known = engine.known().filter(|known| *known != ENGINES[0])?;
    let key = known.api.vendor().key_env();
    Some(format!(
        "the engine is {}, as {key} is set and no committed {} says otherwise",
        known.name,
        config::FILE
    ))
}

/// Whether the keys that the engine's models need can be had. For a process that the launcher
/// told which ones are set; the command is asked for the others, and what it says is dropped.
pub async fn check(config: &Config) -> Result<(), Failure> {
    let command = std::env::var(file::COMMAND).unwrap_or_default();
    let mut asked = BTreeSet::new();
    for engine in config.engines() {
        let Some((api, providers)) = config.providers_for(&engine) else {
            continue;
        };
        for provider in providers.iter().filter(|one| !is_set(&one.key_env)) {
            match command.as_str() {
                "" => return Err(missing(api, provider)),
                _ if !asked.insert(provider.key_env.clone()) => {}
                command => drop(ask(&command.into(), &provider.key_env).await?),
            }
        }
    }
    Ok(())
}

/// Nobody gave the key that a provider wants.
pub fn missing(api: WireApi, provider: &Provider) -> Failure {
    let name = &provider.key_env;
    let mut help = format!(
        "export {name}=…  (get a key from the provider of your models; \
         `models.{}.key_env` in {} names another variable)",
        api.vendor().as_str(),
        config::FILE
    );
    if let Some(place) = file::place() {
        help.push_str(&format!(
            "\nor write the line {name}=… into {}, which nobody but you may read (chmod 600)",
            place.display()
        ));
    }
    // Who has the other key finds the way here, too.
    let theirs = |engine: &&Engine| engine.api.vendor() != api.vendor();
    let mut others = ENGINES.into_iter().filter(theirs);
    if let Some(other) = others.find(|engine| is_set(engine.api.vendor().key_env())) {
        help.push_str(&format!(
            "\nor, as {} is set, write `engine: {}` into {} and commit it",
            other.api.vendor().key_env(),
            other.name,
            config::FILE
        ));
    }
    Failure::new(
        Class::Key,
        format!(
            "the model key is missing: {name} is not set, and {} wants one",
            provider.base_url
        ),
    )
    .help(help)
}

/// The keys by name, in the words that the gateway reads, written without a copy that stays.
pub fn hand_over<'a>(
    keys: impl IntoIterator<Item = (&'a String, &'a SecretString)>,
    to: impl std::io::Write,
) -> std::io::Result<()> {
    let keys: std::collections::BTreeMap<&str, &str> = keys
        .into_iter()
        .map(|(name, key)| (name.as_str(), key.expose_secret()))
        .collect();
    Ok(serde_json::to_writer(to, &keys)?)
}
