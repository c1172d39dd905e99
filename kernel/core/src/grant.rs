//! Grants: what the gateway allows one run. Part of `runs/active/<run>.yaml`,
//! committed before the run's container exists.

use crate::{
    budget::{Limit, Price, Prices, Spent, price_of},
    config::Vendor,
    ids::{Epoch, Oid, RunId},
    inbox::Usage,
    quantity::Milli,
    rules::Globs,
};
use serde::{Deserialize, Serialize};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An engine reads, and reports issues that an instruction becomes.
    Split,
    /// An engine reads, and reports how an issue is to be worked on.
    Plan,
    /// An engine writes code and pushes one branch.
    Code,
    /// An engine reads what another one wrote, and reports its verdict.
    Review,
    /// The checks run, without a model, on one commit.
    Check,
}

impl Role {
    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Split => "split",
            Role::Plan => "plan",
            Role::Code => "code",
            Role::Review => "review",
            Role::Check => "check",
        }
    }

    /// True where an engine works; its calls of models are what a run costs.
    pub fn has_engine(self) -> bool {
        match self {
            Role::Split | Role::Plan | Role::Code | Role::Review => true,
            Role::Check => false,
        }
    }

    /// True where nothing but its report is kept of what its engine does.
    pub fn only_reads(self) -> bool {
        match self {
            Role::Split | Role::Plan | Role::Review => true,
            Role::Code | Role::Check => false,
        }
    }
}

/// What one run may do through its door. The gateway has no other memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The run it is for.
    pub run: RunId,
    /// Epoch of the kernel that gave it.
    pub epoch: Epoch,
    /// The run's role; decides which reports are accepted.
    pub role: Role,
    /// The one commit the run may fetch, and what its pushes must descend from.
    pub start: Oid,
    /// A checkpoint of an earlier run that the run may fetch as well.
    pub resume: Option<Oid>,
    /// The one branch (without `refs/heads/`) the run may push; code runs alone have one.
    pub branch: Option<String>,
    /// Model access; none for checks.
    pub models: Option<ModelGrant>,
    /// What is judged of its pushes; none for checks, and in grants of programs before there
    /// were rules, whose pushes are judged as the target is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<PushRules>,
    /// Seconds of awake time the run may take, from its container's start.
    pub wall_seconds: u64,
}

/// What the pushes of a run are judged by, as the target had it when the run was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushRules {
    /// The commit of the target whose prohibitions hold.
    pub target: Oid,
    /// Files in which no secret is looked for.
    #[serde(default, skip_serializing_if = "Globs::is_empty")]
    pub allow_secrets_in: Globs,
    /// Paths that may be pushed, and that only a person may merge.
    #[serde(default, skip_serializing_if = "Globs::is_empty")]
    pub protected: Globs,
}

/// What is spoken between an engine and its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireApi {
    /// Anthropic's Messages API.
    #[serde(alias = "anthropic")]
    Messages,
    /// OpenAI's Responses API.
    Responses,
    /// OpenAI's chat completions API.
    ChatCompletions,
}

impl WireApi {
    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            WireApi::Messages => "messages",
            WireApi::Responses => "responses",
            WireApi::ChatCompletions => "chat completions",
        }
    }

    /// Whose providers speak it.
    pub fn vendor(self) -> Vendor {
        match self {
            WireApi::Messages => Vendor::Anthropic,
            WireApi::Responses | WireApi::ChatCompletions => Vendor::Openai,
        }
    }
}

/// Which models a run may call, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelGrant {
    /// The one wire API that the run may call.
    #[serde(alias = "provider")]
    pub api: WireApi,
    /// Where the provider listens, from `factory.yaml`.
    pub base_url: String,
    /// Name of the environment variable that held the key when the launcher started.
    pub key_env: String,
    /// Providers of the same API that are asked, in this order, while that one is away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Provider>,
    /// What the run may use; nothing is forwarded once it is reached.
    pub budget: Limit,
    /// The model that the run was given; others are priced like it where their price is not known.
    pub model: String,
    /// Prices that go before those that ship.
    #[serde(default, skip_serializing_if = "Prices::is_empty")]
    pub prices: Prices,
}

impl ModelGrant {
    /// What a call used, by the price of the model that answered.
    pub fn spent(&self, usage: &Usage) -> Spent {
        Spent::of(usage, self.price_of(&usage.model).as_ref())
    }

    /// US dollars that an engine has to hold itself to, since the price of its model is not known here.
    pub fn engines_own_cap(&self) -> Option<Milli> {
        self.budget
            .usd
            .filter(|_| self.price_of(&self.model).is_none())
    }

    /// The price of a model, as far as it is known.
    pub fn price_of(&self, model: &str) -> Option<Price> {
        let own = || price_of(&self.model, &self.prices);
        price_of(model, &self.prices).or_else(own)
    }

    /// All providers in the order in which they are asked.
    pub fn providers(&self) -> Vec<Provider> {
        let first = Provider {
            base_url: self.base_url.clone(),
            key_env: self.key_env.clone(),
        };
        let others = self.fallbacks.iter().cloned();
        std::iter::once(first).chain(others).collect()
    }
}

/// A model provider: where it listens and which key it wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its address.
    pub base_url: String,
    /// Name of the environment variable that held the key when the launcher started.
    pub key_env: String,
}
