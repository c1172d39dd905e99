//! `factory.yaml`: every key optional, unknown keys are errors that name line and suggestion.

mod amounts;
mod explain;
mod image;
mod models;

pub use crate::engine::EngineKind;
pub use amounts::{Amounts, Given};
pub use image::{DEFAULT_BASE, Image};
pub use models::{Models, Provider, Providers, Vendor};

use crate::{
    budget::{Limit, Prices, price_of},
    grant::{self, WireApi},
    quantity::{Bytes, Milli, Seconds},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Name of the configuration file in the user's repository.
pub const FILE: &str = "factory.yaml";
/// The most processes that Linux can number.
const MOST_PIDS: u32 = 4_194_304;

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Format of the file; 1.
    pub version: u32,
    /// How many containers may live at the same time.
    pub slots: Slots,
    /// Where issues and pull requests live.
    pub forge: ForgeKind,
    /// The program that writes the code.
    pub engine: EngineKind,
    /// Model name passed to the engine; its own default where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where models are called.
    pub models: Models,
    /// What agents run in.
    pub image: Image,
    /// Shell commands that must pass, in order.
    pub checks: Vec<String>,
    /// Who decides.
    pub gates: Gates,
    /// Code runs per job: the first and its fixes.
    pub rounds: u32,
    /// Hard limits of one run.
    pub limits: Limits,
    /// What a run is reckoned with when it is admitted.
    #[serde(skip_serializing_if = "Given::is_nothing")]
    pub requests: Given,
    /// What all runs together may request; the engine's where it is not given.
    #[serde(skip_serializing_if = "Given::is_nothing")]
    pub capacity: Given,
    /// What work may cost.
    pub budget: Budget,
    /// Prices of models, which go before those that ship.
    #[serde(skip_serializing_if = "Prices::is_empty")]
    pub prices: Prices,
    /// Work branches are `<prefix>/<issue>-<slug>`.
    pub branch_prefix: String,
}

/// `slots: 8` or `slots: auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// From the engine's processors and memory.
    Auto,
    /// Exactly this many.
    Fixed(u32),
}

/// The forge that holds issues and pull requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForgeKind {
    /// In `state.git`; needs no account.
    Local,
}

/// Who decides which issue is built and which pull request ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// From issue to job.
    pub issues: Gate,
    /// From pull request to merge.
    pub merge: Gate,
}

/// A gate between two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Opens by a command of a person.
    Human,
    /// Opens by itself where the evidence suffices.
    Auto,
}

/// Hard limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of the container.
    pub memory: Bytes,
    /// Processor cores.
    pub cpus: Milli,
    /// Processes and threads.
    pub pids: u32,
    /// Awake time of the run.
    pub wall: Seconds,
    /// Awake time without a sign of life from the engine.
    pub stall: Seconds,
}

/// What work may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// One run.
    pub per_run: Limit,
    /// All runs of a job since it was approved.
    #[serde(skip_serializing_if = "Limit::is_none")]
    pub per_job: Limit,
    /// All runs of a day, from midnight to midnight UTC.
    #[serde(skip_serializing_if = "Limit::is_none")]
    pub per_day: Limit,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            slots: Slots::Auto,
            forge: ForgeKind::Local,
            engine: EngineKind::default(),
            model: None,
            models: Models::new(),
            image: Image::default(),
            checks: Vec::new(),
            gates: Gates::default(),
            rounds: 5,
            limits: Limits::default(),
            requests: Given::default(),
            capacity: Given::default(),
            budget: Budget::default(),
            prices: Prices::new(),
            branch_prefix: "factory".to_owned(),
        }
    }
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            issues: Gate::Human,
            merge: Gate::Human,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Bytes(4 << 30),
            cpus: Milli(2000),
            pids: 512,
            wall: Seconds(45 * 60),
            stall: Seconds(10 * 60),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        let usd = Some(Milli(5000));
        Self {
            per_run: Limit { usd, tokens: None },
            per_job: Limit::default(),
            per_day: Limit::default(),
        }
    }
}

impl Budget {
    /// The first of its limits that is in money.
    fn in_money(&self) -> Option<&'static str> {
        let limits = [
            ("per_run", &self.per_run),
            ("per_job", &self.per_job),
            ("per_day", &self.per_day),
        ];
        let mut limits = limits.into_iter();
        limits.find_map(|(name, limit)| limit.usd.map(|_| name))
    }
}

impl Serialize for Slots {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Slots::Auto => s.serialize_str("auto"),
            Slots::Fixed(n) => s.serialize_u32(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Slots;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 to 1000, or auto")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Slots, E> {
                match u32::try_from(n) {
                    Ok(n @ 1..=1000) => Ok(Slots::Fixed(n)),
                    _ => Err(E::custom(format!(
                        "slots must be from 1 to 1000, or auto; got {n}"
                    ))),
                }
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Slots, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => self.visit_str(&n.to_string()),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slots, E> {
                match text {
                    "auto" => Ok(Slots::Auto),
                    _ => Err(E::custom(format!(
                        "slots must be from 1 to 1000, or auto; got `{text}`"
                    ))),
                }
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// What is wrong with a configuration, with its place and the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ConfigError {
    /// What is wrong.
    pub what: String,
    /// Line from 1; 0 where the whole file is meant.
    pub line: u64,
    /// Column from 1; 0 where the whole line is meant.
    pub column: u64,
    /// What to write instead.
    pub help: String,
}

impl Config {
    /// Parses and validates the text of a `factory.yaml`. An empty file is the default.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let has_content = text.lines().any(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---"
        });
        let config = if has_content {
            serde_saphyr::from_str::<Self>(text).map_err(|e| explain::explain(&e, text))?
        } else {
            Self::default()
        };
        config.validate(text)?;
        Ok(config)
    }

    /// The wire API of the engine's models and the providers that are asked, the
    /// first one first; none for an engine that calls no model of ours.
    pub fn providers(&self) -> Option<(WireApi, Vec<grant::Provider>)> {
        let api = self.engine.known()?.api;
        Some((api, models::providers(&self.models, api)))
    }

    /// What a run is reckoned with when it is admitted.
    pub fn requests(&self) -> Amounts {
        let by_default = Amounts::default();
        let limits = &self.limits;
        Amounts {
            memory: self
                .requests
                .memory
                .unwrap_or(by_default.memory.min(limits.memory)),
            cpus: self
                .requests
                .cpus
                .unwrap_or(by_default.cpus.min(limits.cpus)),
        }
    }

    /// What all runs together may request on an engine of this size.
    pub fn capacity(&self, engine: &Amounts) -> Amounts {
        let spare = amounts::less_spare(engine.memory);
        Amounts {
            memory: self.capacity.memory.unwrap_or(spare),
            cpus: self.capacity.cpus.unwrap_or(engine.cpus),
        }
    }

    /// The model that the engine is told to use; empty where it chooses itself.
    pub fn model(&self) -> &str {
        let own = || self.engine.known().map(|engine| engine.model);
        self.model.as_deref().or_else(own).unwrap_or_default()
    }

    fn validate(&self, text: &str) -> Result<(), ConfigError> {
        let fail = |key: &str, what: String, help: &str| {
            Err(ConfigError {
                what,
                line: explain::line_of(text, key),
                column: 0,
                help: help.to_owned(),
            })
        };
        if self.version != 1 {
            return fail(
                "version",
                format!("version {} is not known", self.version),
                "write `version: 1`",
            );
        }
        if self.rounds == 0 || self.rounds > 100 {
            return fail(
                "rounds",
                format!("rounds is {}", self.rounds),
                "write a number from 1 to 100",
            );
        }
        if !(16..=MOST_PIDS).contains(&self.limits.pids) {
            return fail(
                "pids",
                format!("pids is {}", self.limits.pids),
                "write a number from 16, which an engine needs, to 4194304, the most that Linux has; 512 is the default",
            );
        }
        if self.limits.memory.0 < 64 << 20 {
            return fail(
                "memory",
                format!("memory is {}", self.limits.memory),
                "an engine needs at least 64MiB; 4GiB is the default",
            );
        }
        if let Some((key, what, help)) = amounts::flaw(self) {
            return fail(key, what, &help);
        }
        if let EngineKind::Command(argv) = &self.engine
            && argv.first().is_none_or(|program| program.trim().is_empty())
        {
            return fail(
                "engine",
                "engine.command names no program".to_owned(),
                "write for example `engine: {command: [\"sh\", \"./agent.sh\"]}`",
            );
        }
        if self.checks.iter().any(|c| c.trim().is_empty()) {
            return fail(
                "checks",
                "a check is empty".to_owned(),
                "remove it, or write the command",
            );
        }
        if !valid_prefix(&self.branch_prefix) {
            return fail(
                "branch_prefix",
                format!("`{}` cannot begin a branch name", self.branch_prefix),
                "use letters, digits, `-`, `_` and `/`, for example `factory`",
            );
        }
        let wanted = self.engine.known().map(|engine| (engine.name, engine.api));
        if let Some((key, error)) = models::problem(&self.models, wanted) {
            return fail(&key, error.what, &error.help);
        }
        // Where nobody wrote a budget, a model without a price is not held to ours.
        if self.budget != Budget::default()
            && let Some(limit) = self.budget.in_money()
            && wanted.is_some()
            && price_of(self.model(), &self.prices).is_none()
        {
            let model = self.model();
            return fail(
                "budget",
                format!(
                    "budget.{limit} is in dollars, and no price of the model `{model}` is known"
                ),
                &format!(
                    "write its price for a million tokens: `prices: {{\"{model}\": {{input: 3, output: 15}}}}`, or a budget in tokens: `{limit}: {{tokens: 2000000}}`"
                ),
            );
        }
        if let Some((key, what, help)) = self.image.flaw() {
            return fail(key, what, help);
        }
        Ok(())
    }
}

fn valid_prefix(prefix: &str) -> bool {
    !prefix.is_empty()
        && prefix.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_default_and_default_round_trips() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(
            Config::parse("# only a comment\n").unwrap(),
            Config::default()
        );
        let text = serde_saphyr::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), Config::default(), "{text}");
    }

    #[test]
    fn the_documented_shapes_parse() {
        let config = Config::parse(
            "version: 1\nslots: 8\nforge: local\nengine: {command: [\"sh\", \"./agent.sh\"]}\n\
             models: {anthropic: {base_url: \"https://example.org\", key_env: TEAM_API_KEY}}\n\
             image: {base: \"debian:bookworm-slim\", packages: [python3]}\nchecks: [\"make test\"]\n\
             gates: {issues: auto, merge: human}\nrounds: 3\n\
             limits: {memory: 1GiB, cpus: 1.5, pids: 100, wall: 10m}\nbudget: {per_run: {usd: 2.5}}\nbranch_prefix: bots/a\n",
        )
        .unwrap();
        assert_eq!(config.slots, Slots::Fixed(8));
        assert_eq!(
            config.engine,
            EngineKind::Command(vec!["sh".into(), "./agent.sh".into()])
        );
        assert_eq!(
            config.limits,
            Limits {
                memory: Bytes(1 << 30),
                cpus: Milli(1500),
                pids: 100,
                wall: Seconds(600),
                stall: Seconds(600)
            }
        );
        assert_eq!(config.budget.per_run.usd, Some(Milli(2500)));
        let text = serde_saphyr::to_string(&config).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), config, "{text}");
    }

    #[test]
    fn a_budget_in_tokens_needs_no_price() {
        for text in [
            "engine: codex\nmodel: house-model\n",
            "engine: codex\nmodel: house-model\nbudget: {per_run: {tokens: 5}, per_day: {tokens: 50}}\n",
            "engine: codex\nmodel: house-model\nprices: {house-model: {input: 1, output: 2.5}}\nbudget: {per_day: {usd: 5}}\n",
            "engine: {command: [sh]}\nbudget: {per_day: {usd: 5}}\n",
        ] {
            let config = Config::parse(text).unwrap();
            let again = serde_saphyr::to_string(&config).unwrap();
            assert_eq!(Config::parse(&again).unwrap(), config, "{again}");
        }
    }

    #[test]
    fn errors_name_line_and_next_step() {
        for (text, line, what, help) in [
            (
                "slots: 2\nslot: 3\n",
                2,
                "unknown key `slot`",
                "did you mean `slots`?",
            ),
            (
                "gates:\n  merge: robot\n",
                2,
                "`robot` is not a value here",
                "known here: human, auto",
            ),
            (
                "limits: {wall: 45}\n",
                1,
                "`45` is not a length of time",
                "write a length of time",
            ),
            ("slots: 0\n", 1, "slots must be from 1", "write a number"),
            (
                "rounds: 2\nbranch_prefix: \"a b\"\n",
                2,
                "cannot begin a branch name",
                "letters",
            ),
            (
                "models:\n  anthropic: {base_url: \"http://example.org\"}\n",
                0,
                "would show the key",
                "https",
            ),
            (
                "models: {anthropic: {base_url: \"https://x\", key_env: SECRET_TOKEN}}\n",
                0,
                "does not end in _API_KEY",
                "_API_KEY",
            ),
            (
                "slots: 2\nengine: codecs\n",
                2,
                "`codecs` is not a value here",
                "did you mean `codex`?",
            ),
            (
                "engine: {comand: [sh]}\n",
                1,
                "unknown key `comand`",
                "did you mean `command`?",
            ),
            (
                "models: {opnai: {}}\n",
                1,
                "`opnai` is not a value here",
                "did you mean `openai`?",
            ),
            (
                "engine: codex\nmodels: {anthropic: {key_env: TEAM_API_KEY}}\n",
                2,
                "engine `codex` calls models over the API `responses` of openai, and `models` names no provider of it, only anthropic",
                "openai: {key_env: OPENAI_API_KEY}",
            ),
            (
                "models: {openai: [{key_env: A_API_KEY}, {base_url: \"http://example.org/v1\"}]}\n",
                0,
                "would show the key",
                "https",
            ),
            (
                "models: {anthropic: []}\n",
                0,
                "list of providers is empty",
                "",
            ),
            (
                "image: {dockerfile: \"../Dockerfile\"}\n",
                0,
                "leads out of the repository",
                "relative to its top",
            ),
            (
                "image: {base: x, dockerfile: Dockerfile}\n",
                0,
                "names both a base and a dockerfile",
                "one of them",
            ),
            (
                "slots: 2\nbudget: {per_day: {usd: -5}}\n",
                2,
                "`-5` is not a positive number",
                "for example `usd: 2.5`",
            ),
            (
                "budget: {per_day: {tokens: -5}}\n",
                1,
                "",
                "budget: {per_run",
            ),
            (
                "engine: codex\nmodel: house-model\nbudget: {per_day: {usd: 5}}\n",
                3,
                "budget.per_run is in dollars, and no price of the model `house-model` is known",
                "prices: {\"house-model\":",
            ),
            ("prices: {m: {input: 3}}\n", 1, "", ""),
            ("checks: [\n", 0, "", ""),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(line == 0 || error.line == line, "{text}: {error:?}");
            assert!(
                error.what.contains(what) && error.help.contains(help),
                "{text}: {error:?}"
            );
        }
    }
}
