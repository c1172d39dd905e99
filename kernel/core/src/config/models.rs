//! `models`: where the wire APIs of engines are called, and with which key.

use super::ConfigError;
use crate::grant::{Provider as Granted, WireApi};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt};

/// A family of wire APIs, as `models` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// The Messages API.
    Anthropic,
    /// The Responses API and the chat completions API.
    Openai,
}

impl Vendor {
    /// The word used in `factory.yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::Anthropic => "anthropic",
            Vendor::Openai => "openai",
        }
    }

    /// The vendor's own address.
    fn base_url(self) -> &'static str {
        match self {
            Vendor::Anthropic => "https://api.anthropic.com",
            Vendor::Openai => "https://api.openai.com/v1",
        }
    }

    /// The variable that usually holds the vendor's key.
    pub fn key_env(self) -> &'static str {
        match self {
            Vendor::Anthropic => "ANTHROPIC_API_KEY",
            Vendor::Openai => "OPENAI_API_KEY",
        }
    }
}

/// A model provider as it is written; what is left out is the vendor's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Provider {
    /// Address; of `openai` with the version (`…/v1`), of `anthropic` without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Environment variable of `factory start` that holds the key; must end in `_API_KEY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
}

impl Provider {
    fn granted(&self, vendor: Vendor) -> Granted {
        let own = |written: &Option<String>, vendors: &str| {
            written.clone().unwrap_or_else(|| vendors.to_owned())
        };
        Granted {
            base_url: own(&self.base_url, vendor.base_url()),
            key_env: own(&self.key_env, vendor.key_env()),
        }
    }
}

/// The providers of one vendor's wire APIs, in the order in which they are asked:
/// one, or a list whose later ones stand in while the earlier ones are away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Providers(Vec<Provider>);

impl Serialize for Providers {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            several => several.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Providers {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Providers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{base_url: …, key_env: …}, or a list of them")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Providers, A::Error> {
                let one = Provider::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Providers(vec![one]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Providers, A::Error> {
                let list = Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                if list.is_empty() {
                    return Err(de::Error::custom("the list of providers is empty"));
                }
                Ok(Providers(list))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// All of `models`. Empty means the vendors themselves.
pub type Models = BTreeMap<Vendor, Providers>;

/// The providers of `api`, the first to ask first; never none once the
/// configuration is validated.
pub(super) fn providers(models: &Models, api: WireApi) -> Vec<Granted> {
    let vendor = api.vendor();
    match models.get(&vendor) {
        Some(Providers(list)) => list.iter().map(|one| one.granted(vendor)).collect(),
        None => vec![Provider::default().granted(vendor)],
    }
}

/// Why models of `api`, which the engine `name` wants, cannot be called.
pub(super) fn problem(
    models: &Models,
    engine: Option<(&str, WireApi)>,
) -> Option<(String, ConfigError)> {
    let fail = |key: &str, what: String, help: String| {
        let error = ConfigError {
            what,
            line: 0,
            column: 0,
            help,
        };
        Some((key.to_owned(), error))
    };
    for (vendor, Providers(list)) in models {
        for Granted { base_url, key_env } in list.iter().map(|one| one.granted(*vendor)) {
            if !is_safe_address(&base_url) {
                return fail(
                    "base_url",
                    format!("base_url `{base_url}` would show the key to the network"),
                    "begin it with https://; http:// is for this machine only (127.0.0.1, [::1], localhost)".to_owned(),
                );
            }
            let word = key_env
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if !(word && key_env.ends_with("_API_KEY")) {
                return fail(
                    "key_env",
                    format!("key_env `{key_env}` does not end in _API_KEY"),
                    format!(
                        "only variables whose name ends in _API_KEY are handed to the gateway, for example {}",
                        vendor.key_env()
                    ),
                );
            }
        }
    }
    if let Some((name, api)) = engine
        && !models.is_empty()
        && !models.contains_key(&api.vendor())
    {
        let named: Vec<&str> = models.keys().map(|vendor| vendor.as_str()).collect();
        let vendor = api.vendor().as_str();
        return fail(
            "models",
            format!(
                "engine `{name}` calls models over the API `{}` of {vendor}, and `models` names no provider of it, only {}",
                api.as_str(),
                named.join(", ")
            ),
            format!(
                "add `{vendor}: {{key_env: {}}}` below `models`, or choose another engine",
                api.vendor().key_env()
            ),
        );
    }
    None
}

/// Encrypted, or not leaving this machine.
fn is_safe_address(url: &str) -> bool {
    if url.starts_with("https://") {
        return true;
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<core::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_engine_has_a_model_and_a_provider_of_its_api() {
        let config = |text: &str| Config::parse(text).unwrap();
        let of = |text: &str| {
            let (api, providers) = config(text).providers().unwrap();
            let all: Vec<_> = providers
                .into_iter()
                .map(|one| (one.base_url, one.key_env))
                .collect();
            (api, all)
        };
        let pair = |url: &str, key: &str| (url.to_owned(), key.to_owned());
        let anthropic = pair("https://api.anthropic.com", "ANTHROPIC_API_KEY");
        let openai = pair("https://api.openai.com/v1", "OPENAI_API_KEY");
        assert_eq!(of(""), (WireApi::Messages, vec![anthropic]));
        let own = vec![openai.clone()];
        assert_eq!(of("engine: codex\n"), (WireApi::Responses, own.clone()));
        assert_eq!(of("engine: mini\n"), (WireApi::ChatCompletions, own));
        let several = "engine: mini\nmodels:\n  openai:\n    - {key_env: A_API_KEY}\n    - {base_url: \"https://b.example/v1\"}\n";
        assert_eq!(
            of(several).1,
            [
                pair("https://api.openai.com/v1", "A_API_KEY"),
                pair("https://b.example/v1", "OPENAI_API_KEY")
            ]
        );
        let text = serde_saphyr::to_string(&config(several)).unwrap();
        assert_eq!(config(&text), config(several), "{text}");
        let command = config("engine: {command: [sh, x.sh]}\n");
        assert_eq!((command.providers(), command.model()), (None, ""));
        assert_eq!(config("").model(), "claude-sonnet-4-5");
        assert_eq!(config("engine: codex\n").model(), "gpt-5.5");
        assert_eq!(config("engine: codex\nmodel: other\n").model(), "other");
    }
}
