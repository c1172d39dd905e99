//! Which model keys there are, and what follows from it. Never a key itself.

use crate::failure::{Class, Failure};
use factory_core::{
    config::{self, Config, EngineKind},
    engine::{ENGINES, Engine},
};

/// Variable in which the launcher names the model keys that are set to processes that
/// get none of them, separated by commas.
pub const NAMES: &str = "FACTORY_KEY_NAMES";

/// Whether the key of this name was given to the command that began it all.
pub fn is_set(name: &str) -> bool {
    match std::env::var(NAMES) {
        Ok(names) => names.split(',').any(|known| known == name),
        Err(_) => std::env::var_os(name).is_some_and(|value| !value.is_empty()),
    }
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

/// Whether the keys that the engine's models need are set.
pub fn check(config: &Config, is_set: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let Some((api, providers)) = config.providers() else {
        return Ok(());
    };
    let missing = providers.iter().find(|provider| !is_set(&provider.key_env));
    let Some(provider) = missing else {
        return Ok(());
    };
    let name = &provider.key_env;
    let mut help = format!(
        "export {name}=…  (get a key from the provider of your models; \
         `models.{}.key_env` in {} names another variable)",
        api.vendor().as_str(),
        config::FILE
    );
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
    Err(Failure::new(
        Class::Key,
        format!(
            "the model key is missing: {name} is not set, and {} wants one",
            provider.base_url
        ),
    )
    .help(help))
}
