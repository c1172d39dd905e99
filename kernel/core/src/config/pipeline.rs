//! How jobs go: stages, tiers, and what a merge without a person needs.

use super::{Config, EngineKind, Limits};
use crate::{
    budget::price_of,
    model::Purpose,
    quantity::{Bytes, Confidence, Milli, Seconds, is_default},
    route::Complexity,
    rules::Globs,
};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The most code runs that a job may have.
const MOST_ROUNDS: u32 = 100;

/// Engine and model of some of the work; what is not given is that of all other work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worked {
    /// The engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// `stages`: who does what beside code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stages {
    /// Splitting instructions into issues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Worked>,
    /// Planning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Worked>,
    /// Reviewing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<Worked>,
}

/// `tiers`: what an issue's complexity means for its job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tiers {
    /// Small changes.
    #[serde(skip_serializing_if = "is_default")]
    pub low: Tier,
    /// Ordinary ones.
    #[serde(skip_serializing_if = "is_default")]
    pub medium: Tier,
    /// Large or risky ones.
    #[serde(skip_serializing_if = "is_default")]
    pub high: Tier,
}

/// What a tier has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// Engine of its code runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// Model of its code runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Code runs per job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// Limits of its code runs that differ from those of all runs.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: TierLimits,
    /// Whether the work is planned before; by default in the highest tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<bool>,
    /// Whether it is reviewed; by default it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<bool>,
    /// Whether a job whose rounds are used up goes on one tier up.
    #[serde(skip_serializing_if = "is_default")]
    pub escalate: bool,
}

/// Limits that a tier has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierLimits {
    /// As [`Limits::memory`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// As [`Limits::cpus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Milli>,
    /// As [`Limits::pids`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// As [`Limits::disk`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// As [`Limits::wall`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Seconds>,
    /// As [`Limits::stall`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall: Option<Seconds>,
}

/// `auto_merge`: what a merge without a person needs, beside green checks and rules kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoMerge {
    /// Whether a review must have approved it.
    pub review: bool,
    /// How sure that review must be, from 0 to 1.
    pub min_confidence: Confidence,
    /// Most lines that it may add and remove.
    pub max_changed_lines: u64,
    /// Most files that it may change.
    pub max_files: u64,
}

impl Default for AutoMerge {
    fn default() -> Self {
        Self {
            review: true,
            min_confidence: Confidence(900),
            max_changed_lines: 400,
            max_files: 30,
        }
    }
}

/// Tests and build files: what decides whether checks pass, whatever the code does.
pub(super) static TEST_FILES: LazyLock<Globs> = LazyLock::new(|| {
    let globs = [
        "**/test/**",
        "**/tests/**",
        "**/spec/**",
        "**/__tests__/**",
        "**/testdata/**",
        "**/test_*",
        "**/*_test.*",
        "**/*.test.*",
        "**/*.spec.*",
        "**/*Test.java",
        "**/*Tests.java",
        "**/*IT.java",
        "**/*_spec.rb",
        "**/tests.py",
        "**/conftest.py",
        "**/Makefile",
        "**/makefile",
        "**/GNUmakefile",
        "**/justfile",
        "**/Taskfile.yml",
        "**/Rakefile",
        "**/Cargo.toml",
        "**/.cargo/**",
        "**/go.mod",
        "**/noxfile.py",
        "**/sitecustomize.py",
        "**/.npmrc",
        "**/vite.config.*",
        "**/*.mk",
        "**/CMakeLists.txt",
        "**/package.json",
        "**/pyproject.toml",
        "**/setup.py",
        "**/setup.cfg",
        "**/tox.ini",
        "**/pytest.ini",
        "**/build.rs",
        "**/pom.xml",
        "**/build.gradle*",
        "**/jest.config.*",
        "**/vitest.config.*",
        ".github/workflows/**",
    ];
    Globs::new(globs).unwrap_or_default()
});

impl Tiers {
    /// What a tier has of its own.
    pub fn of(&self, tier: Complexity) -> &Tier {
        match tier {
            Complexity::Low => &self.low,
            Complexity::Medium => &self.medium,
            Complexity::High => &self.high,
        }
    }
}

impl Config {
    /// Who plans the work of a tier; none where nobody does. A command of the user's plans
    /// only where it is named for that: nothing is known of what it can do.
    pub fn planner_of(&self, tier: Complexity) -> Option<Worked> {
        let wanted = self.tiers.of(tier).plan.unwrap_or(tier == Complexity::High);
        wanted
            .then(|| self.beside_code(self.stages.plan.as_ref()))
            .flatten()
    }

    /// Who reviews the work of a tier; none where nobody does, as with [`Config::planner_of`].
    pub fn reviewer_of(&self, tier: Complexity) -> Option<Worked> {
        let wanted = self.tiers.of(tier).review.unwrap_or(true);
        wanted
            .then(|| self.beside_code(self.stages.review.as_ref()))
            .flatten()
    }

    /// Who splits instructions into issues; none where nobody does, as with
    /// [`Config::planner_of`].
    pub fn splitter(&self) -> Option<Worked> {
        self.beside_code(self.stages.split.as_ref())
    }

    fn beside_code(&self, given: Option<&Worked>) -> Option<Worked> {
        let named = given.and_then(|worked| worked.engine.clone());
        let is_named = named.is_some();
        let engine = named.unwrap_or_else(|| self.engine.clone());
        let can = is_named || engine.known().is_some();
        can.then(|| Worked {
            model: given.and_then(|worked| worked.model.clone()),
            engine: Some(engine),
        })
    }

    /// What the target decides of a check: `test_files`, and the scripts that `checks` run.
    /// Without the scripts where there are more globs than one list holds.
    pub fn tests_of_target(&self) -> Globs {
        let scripts = self.checks.iter().flat_map(|check| scripts(check));
        let all = scripts.chain(self.test_files.texts().iter().cloned());
        Globs::new(all).unwrap_or_else(|_| self.test_files.clone())
    }

    /// Limits of a run: a tier's own are for its code runs.
    pub fn limits_of(&self, purpose: &Purpose, tier: Complexity) -> Limits {
        let own = match purpose {
            Purpose::Code => self.tiers.of(tier).limits,
            _ => TierLimits::default(),
        };
        Limits {
            memory: own.memory.unwrap_or(self.limits.memory),
            cpus: own.cpus.unwrap_or(self.limits.cpus),
            pids: own.pids.unwrap_or(self.limits.pids),
            disk: own.disk.unwrap_or(self.limits.disk),
            wall: own.wall.unwrap_or(self.limits.wall),
            stall: own.stall.unwrap_or(self.limits.stall),
        }
    }

    /// Code runs per job of a tier.
    pub fn rounds_of(&self, tier: Complexity) -> u32 {
        self.tiers.of(tier).rounds.unwrap_or(self.rounds)
    }
}

/// The scripts that a shell command runs, as globs: what is named by `./` or ends like a shell
/// script, and what a shell is given. A command may change its directory first, so only the
/// end of the path counts.
fn scripts(command: &str) -> Vec<String> {
    let between = |c: char| c.is_whitespace() || ";|&()<>\"'`".contains(c);
    let mut found = Vec::new();
    let mut for_shell = false;
    for word in command.split(between).filter(|word| !word.is_empty()) {
        let path = word.strip_prefix("./");
        let named = path.is_some() || word.ends_with(".sh") || word.ends_with(".bash");
        let path = path.unwrap_or(word);
        let is_option = word.starts_with('-');
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let inside = !path.starts_with('/') && path.split('/').all(|part| part != "..");
        if (named || for_shell) && !is_option && inside && path.chars().all(plain) {
            found.push(format!("**/{path}"));
        }
        let is_shell = ["sh", "bash", "dash", "zsh"].contains(&word);
        for_shell = is_shell || (for_shell && is_option);
    }
    found
}

impl Config {
    /// Engine and model of a run; an empty model is chosen by the engine itself.
    pub fn worked(&self, purpose: &Purpose, tier: Complexity) -> (EngineKind, String) {
        let worked = match purpose {
            Purpose::Split => self.splitter(),
            Purpose::Plan => self.planner_of(tier),
            Purpose::Review | Purpose::Verify => self.reviewer_of(tier),
            Purpose::Code => {
                let tier = self.tiers.of(tier);
                Some(Worked {
                    engine: tier.engine.clone(),
                    model: tier.model.clone(),
                })
            }
            Purpose::Check | Purpose::MergeTest { .. } => None,
        };
        let Worked { engine, model } = worked.unwrap_or_default();
        let engine = engine.unwrap_or_else(|| self.engine.clone());
        let own = || engine.known().map(|engine| engine.model.to_owned());
        let model = match model {
            Some(model) => model,
            // A model of one engine is none of another's.
            None if engine == self.engine => self.model().to_owned(),
            None => own().unwrap_or_default(),
        };
        (engine, model)
    }

    /// The same with another engine, for what an image holds.
    pub fn with_engine(&self, engine: EngineKind) -> Self {
        Self {
            engine,
            ..self.clone()
        }
    }

    /// Every engine that a run may have, that of code first.
    pub fn engines(&self) -> Vec<EngineKind> {
        let stages = [&self.stages.split, &self.stages.plan, &self.stages.review];
        let stages = stages
            .into_iter()
            .flatten()
            .filter_map(|worked| worked.engine.as_ref());
        let tiers = Complexity::ALL
            .into_iter()
            .filter_map(|t| self.tiers.of(t).engine.as_ref());
        let mut all = vec![self.engine.clone()];
        for engine in stages.chain(tiers) {
            if !all.contains(engine) {
                all.push(engine.clone());
            }
        }
        all
    }
}

impl Config {
    /// A model that a run may have, and whose price is not known.
    pub(super) fn unpriced(&self) -> Option<String> {
        let purposes = [
            Purpose::Split,
            Purpose::Plan,
            Purpose::Code,
            Purpose::Review,
        ];
        let runs = purposes.iter().flat_map(|purpose| {
            let tiers = Complexity::ALL.into_iter();
            tiers.map(move |tier| self.worked(purpose, tier))
        });
        let mut known = runs.filter(|(engine, _)| engine.known().is_some());
        let unpriced = known.find(|(_, model)| price_of(model, &self.prices).is_none());
        unpriced.map(|(_, model)| model)
    }
}

/// The key that is wrong, what is wrong with it, and what to write instead.
pub(super) fn flaw(config: &Config) -> Option<(&'static str, String, String)> {
    let rounds = std::iter::once(("rounds".to_owned(), Some(config.rounds))).chain(
        Complexity::ALL
            .into_iter()
            .map(|tier| (format!("tiers.{tier}.rounds"), config.tiers.of(tier).rounds)),
    );
    for (name, rounds) in rounds {
        if let Some(rounds) = rounds.filter(|rounds| !(1..=MOST_ROUNDS).contains(rounds)) {
            return Some((
                "rounds",
                format!("{name} is {rounds}"),
                format!("write a number from 1 to {MOST_ROUNDS}"),
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_checks_run_are_the_targets() {
        for (command, globs) in [
            ("sh test.sh", vec!["**/test.sh"]),
            (
                "set -e; bash -eu ci/all && ./run 1",
                vec!["**/ci/all", "**/run"],
            ),
            ("cd sub && (./a.sh | tee log) 2>/dev/null", vec!["**/a.sh"]),
            (
                "env X=1 tools/check.bash --all",
                vec!["**/tools/check.bash"],
            ),
            ("grep -q third notes.txt && make test", vec![]),
            ("sh ../x.sh; sh /opt/x.sh; sh $HOME/x.sh; sh", vec![]),
        ] {
            assert_eq!(scripts(command), globs, "{command}");
        }
        let config = Config {
            checks: vec!["sh try".to_owned()],
            ..Config::default()
        };
        let tests = config.tests_of_target();
        for path in ["try", "sub/try", "tests/a.py"] {
            assert!(tests.is_match(path.as_bytes()), "{path}");
        }
        assert!(!config.test_files.is_match(b"try") && !tests.is_match(b"entry"));
    }
}
