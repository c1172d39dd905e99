//! `factory.yaml`: every key optional, unknown keys are errors that name line and suggestion.

mod amounts;
pub(crate) mod explain;
mod image;
mod models;
mod pipeline;
mod types;

pub use crate::engine::EngineKind;
pub use amounts::{Amounts, Given};
pub use image::{DEFAULT_BASE, Image};
pub use models::{Models, Provider, Providers, Vendor};
pub use pipeline::{AutoMerge, Stages, Tier, TierLimits, Tiers, Worked};
pub use types::{AgentType, PerDay, Quota, Types, Worker};

use crate::{
    budget::{Limit, Prices},
    grant::{self, WireApi},
    model::Purpose,
    quantity::{Bytes, Milli, Seconds, is_default},
    route::Complexity,
    rules::Globs,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, sync::LazyLock};

/// Name of the configuration file in the user's repository.
pub const FILE: &str = "factory.yaml";
/// The longest time that a run may be given: 30 days.
pub const LONGEST_WALL: Seconds = Seconds(30 * 24 * 3600);
/// The smallest part of a processor core that a container can have.
const LEAST_CPUS: Milli = Milli(10);
/// The least that a workspace can be kept to: a checkpoint alone may take as much.
const LEAST_DISK: Bytes = Bytes(64 << 20);
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
    /// How the slots are shared out, and what each type of agent may do in a day.
    #[serde(skip_serializing_if = "is_default")]
    pub types: Types,
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
    /// What a merge without a person needs.
    #[serde(skip_serializing_if = "is_default")]
    pub auto_merge: AutoMerge,
    /// Who does what beside code.
    #[serde(skip_serializing_if = "is_default")]
    pub stages: Stages,
    /// What an issue's complexity means for its job.
    #[serde(skip_serializing_if = "is_default")]
    pub tiers: Tiers,
    /// Tests and build files: where a job changes one, the target's are tried as well.
    pub test_files: Globs,
    /// Paths whose changes only a person may merge.
    pub protected: Globs,
    /// What is no secret.
    #[serde(skip_serializing_if = "is_default")]
    pub secrets: Secrets,
    /// Code runs per job: the first and its fixes.
    pub rounds: u32,
    /// The container engine's OCI runtime that agents and checks run under; its own default
    /// where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
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
    /// From a plan to its code.
    pub plan: Gate,
    /// From pull request to merge.
    pub merge: Gate,
}

/// Where the search for secrets would find what is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Files in which none is looked for.
    pub allow_in: Globs,
}

/// What is protected by default: what decides over the factory's own work, and what later agents
/// are told as rules, by the brief or by their engine. A test holds that it can be read.
static PROTECTED: LazyLock<Globs> = LazyLock::new(|| {
    let globs = [
        ".github/workflows/**",
        "factory.yaml",
        "intent/**",
        "principles/**",
        "prohibitions/**",
        "postmortems/**",
        "AGENTS.md",
        "CLAUDE.md",
        ".claude/**",
        "AGENTS.override.md",
        "CLAUDE.local.md",
        ".codex/**",
        ".mcp.json",
        ".factory/agents/**",
    ];
    Globs::new(globs).unwrap_or_default()
});

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
    /// What its workspace takes of the host's disk.
    pub disk: Bytes,
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
            types: Types::default(),
            forge: ForgeKind::Local,
            engine: EngineKind::default(),
            model: None,
            models: Models::new(),
            image: Image::default(),
            checks: Vec::new(),
            gates: Gates::default(),
            auto_merge: AutoMerge::default(),
            stages: Stages::default(),
            tiers: Tiers::default(),
            test_files: pipeline::TEST_FILES.clone(),
            protected: PROTECTED.clone(),
            secrets: Secrets::default(),
            rounds: 5,
            runtime: None,
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
            plan: Gate::Auto,
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
            disk: Bytes(10 << 30),
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

impl Limits {
    /// The key that is wrong, what is wrong with it, and what to write instead.
    fn flaw(&self) -> Option<(&'static str, String, &'static str)> {
        if !(16..=MOST_PIDS).contains(&self.pids) {
            return Some((
                "pids",
                format!("pids is {}", self.pids),
                "write a number from 16, which an engine needs, to 4194304, the most that Linux has; 512 is the default",
            ));
        }
        for (key, time) in [("wall", self.wall), ("stall", self.stall)] {
            if time > LONGEST_WALL {
                let what = format!("{key} is {time}");
                return Some((key, what, "write at most 720h; 45m is the default of wall"));
            }
        }
        if self.cpus < LEAST_CPUS {
            return Some((
                "cpus",
                format!("cpus is {}", self.cpus),
                "the container engine wants at least 0.01; 2 is the default",
            ));
        }
        if self.memory.0 < 64 << 20 {
            return Some((
                "memory",
                format!("memory is {}", self.memory),
                "an engine needs at least 64MiB; 4GiB is the default",
            ));
        }
        if self.disk < LEAST_DISK {
            return Some((
                "disk",
                format!("disk is {}", self.disk),
                "a work tree and its history need at least 64MiB; 10GiB is the default",
            ));
        }
        None
    }
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
        self.providers_for(&self.engine)
    }

    /// The same of another engine.
    pub fn providers_for(&self, engine: &EngineKind) -> Option<(WireApi, Vec<grant::Provider>)> {
        let api = engine.known()?.api;
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
        if let Some(runtime) = self.runtime.as_ref().filter(|name| !valid_runtime(name)) {
            return fail(
                "runtime",
                format!("runtime `{runtime}` is not the name of a runtime"),
                "write a name that `docker info` lists, for example `runtime: runsc`: letters, digits and `._-`",
            );
        }
        let tiers = Complexity::ALL.map(|tier| self.limits_of(&Purpose::Code, tier));
        for limits in std::iter::once(&self.limits).chain(&tiers) {
            if let Some((key, what, help)) = limits.flaw() {
                return fail(key, what, help);
            }
        }
        let flaw = amounts::flaw(self).or_else(|| types::flaw(self));
        if let Some((key, what, help)) = flaw.or_else(|| pipeline::flaw(self)) {
            return fail(key, what, &help);
        }
        let names_none = |engine: &EngineKind| match engine {
            EngineKind::Command(argv) => {
                let program = argv.first();
                program.is_none_or(|program| program.trim().is_empty())
            }
            EngineKind::Known(_) => false,
        };
        if self.engines().iter().any(names_none) {
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
        for (key, globs) in [
            ("protected", &self.protected),
            ("test_files", &self.test_files),
        ] {
            if let Err(what) = globs.check() {
                return fail(key, what, "write fewer or shorter globs");
            }
        }
        if !valid_prefix(&self.branch_prefix) {
            return fail(
                "branch_prefix",
                format!("`{}` cannot begin a branch name", self.branch_prefix),
                "use letters, digits, `-`, `_` and `/`, for example `factory`",
            );
        }
        for engine in self.engines() {
            let wanted = engine.known().map(|engine| (engine.name, engine.api));
            if let Some((key, error)) = models::problem(&self.models, wanted) {
                return fail(&key, error.what, &error.help);
            }
        }
        // Where nobody wrote a budget, a model without a price is not held to ours.
        if self.budget != Budget::default()
            && let Some(limit) = self.budget.in_money()
            && let Some(model) = self.unpriced()
        {
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

/// The characters of runtime names.
fn valid_runtime(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
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
mod tests;
