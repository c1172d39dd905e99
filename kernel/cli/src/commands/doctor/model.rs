//! The model's key and address.

use super::{Condition, Line, Report};
use crate::{
    failure::Class,
    keys::{self, Origin},
};
use factory_core::{
    config::{Config, Vendor},
    grant::{Provider, WireApi},
};
use futures_util::future;
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, time::Duration};

/// What the lines about keys are called.
const NAME: &str = "model key";
/// What asking a provider for a sign of life may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The address of a vendor's own, and how the keys for it begin.
fn keys_of(vendor: Vendor) -> (&'static str, &'static str) {
    match vendor {
        Vendor::Anthropic => ("https://api.anthropic.com", "sk-ant-"),
        Vendor::Openai => ("https://api.openai.com", "sk-"),
    }
}

/// Whether the keys can be had, and look like ones. They are never shown.
pub(super) async fn look_at_key(config: &Config, report: &mut Report) {
    let file = match keys::file() {
        Ok(file) => file,
        Err(failure) => {
            report.lines.push(Line::failed(NAME, failure));
            return;
        }
    };
    let engines = config.engines();
    let wanted: Vec<_> = engines
        .iter()
        .filter_map(|engine| config.providers_for(engine))
        .flat_map(|(api, providers)| providers.into_iter().map(move |one| (api, one)))
        .collect();
    if wanted.is_empty() {
        report.ok(NAME, "none is needed for your own command");
        return;
    }
    let mut found = Vec::new();
    let mut flaws = Vec::new();
    let mut looked_at = BTreeSet::new();
    for (api, provider) in &wanted {
        let (api, name) = (*api, &provider.key_env);
        // Engines may share a key.
        if !looked_at.insert((name.clone(), provider.base_url.clone())) {
            continue;
        }
        match keys::find(name, &file).await {
            Ok(Some((key, origin))) => {
                flaws.extend(look_into_key(api.vendor(), provider, &key, origin));
                found.push(match origin {
                    Origin::Environment => name.clone(),
                    Origin::File => format!("{name} (in keys.env)"),
                    Origin::Command => format!("{name} (by the command in keys.env)"),
                });
            }
            Ok(None) => flaws.push(Line::failed(NAME, keys::missing(api, provider))),
            Err(failure) => flaws.push(Line::failed(NAME, failure)),
        }
    }
    if flaws.is_empty() {
        let verb = if found.len() == 1 { "is" } else { "are" };
        report.ok(NAME, format!("{} {verb} set", found.join(" and ")));
    }
    report.lines.extend(flaws);
}

/// What is wrong with the key of a provider.
fn look_into_key(
    vendor: Vendor,
    provider: &Provider,
    key: &SecretString,
    origin: Origin,
) -> Option<Line> {
    let name = &provider.key_env;
    let value = key.expose_secret();
    if let Some(flaw) = flaw(value) {
        let line = Line::missing(NAME, Class::Key, format!("{name} {flaw}"));
        return Some(line.mend(match origin {
            Origin::Environment => format!("export {name}=<the key alone, on one line>"),
            Origin::File => format!("write {name}=<the key alone> into keys.env"),
            Origin::Command => {
                "let the command in keys.env print the key alone, on its first line".to_owned()
            }
        }));
    }
    let (address, begin) = keys_of(vendor);
    if !provider.base_url.starts_with(address) || value.trim().starts_with(begin) {
        return None;
    }
    let detail =
        format!("{name} is set, but does not begin with {begin} as the keys for {address} do");
    Some(Line::new(NAME, Condition::Warning, detail).mend(format!(
        "take the key from the provider's console, or name the other provider in models.{}.base_url",
        vendor.as_str()
    )))
}

/// What keeps a key from being sent, or from being one.
fn flaw(value: &str) -> Option<&'static str> {
    // The gateway takes white space around it away.
    let key = value.trim();
    if key.is_empty() {
        return Some("holds white space only, or no text");
    }
    if key.contains(['\n', '\r']) {
        return Some("holds a line break");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("holds blanks or characters that no key has");
    }
    if key.starts_with(['"', '\'']) || key.ends_with(['"', '\'']) {
        return Some("is in quotation marks, which would be sent with it");
    }
    None
}

/// Whether something answers where models are called; nothing where no model of ours is called.
pub(super) async fn look_at_providers(config: &Config) -> Vec<Line> {
    let engines = config.engines();
    // One API at one address is asked once, in the order in which it is used.
    let mut asked: Vec<(WireApi, String)> = Vec::new();
    for (api, providers) in engines.iter().filter_map(|e| config.providers_for(e)) {
        for provider in providers {
            let one = (api, provider.base_url);
            if !asked.contains(&one) {
                asked.push(one);
            }
        }
    }
    let asked = asked.iter().map(|(api, at)| look_at_address(*api, at));
    future::join_all(asked).await
}

async fn look_at_address(api: WireApi, address: &str) -> Line {
    const NAME: &str = "model address";
    // Where the API is spoken, a call without a key is refused, but known.
    let path = factory_gateway::provider_path(api);
    let warning =
        |detail: String, mend: &str| Line::new(NAME, Condition::Warning, detail).mend(mend);
    let asked = tokio::time::timeout(LIMIT, factory_gateway::reach(address, path, LIMIT)).await;
    match asked.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs()))) {
        Ok(404) => warning(
            format!("{address} answers, but does not know {path}"),
            match api.vendor() {
                Vendor::Anthropic => {
                    "models.*.base_url in factory.yaml is the address before /v1, of a provider that speaks this API"
                }
                Vendor::Openai => {
                    "models.*.base_url in factory.yaml is the address with its /v1, of a provider that speaks this API"
                }
            },
        ),
        Ok(status) if status >= 500 => warning(
            format!("{address} answers with status {status}: it is away or overloaded"),
            "try again later; agents wait and try again by themselves",
        ),
        Ok(_) => Line::new(NAME, Condition::Ok, format!("{address} answers")),
        Err(why) => warning(
            format!("{address} cannot be reached: {why}"),
            "see with `curl -v` whether you reach it; behind a proxy, set https_proxy; \
             models.*.base_url in factory.yaml names another",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::flaw;

    #[test]
    fn flaws_of_keys() {
        for good in ["sk-ant-api03-x_Y", " sk-ant-x\n", "not-of-the-vendor"] {
            assert_eq!(flaw(good), None, "{good:?}");
        }
        let rows = [
            ("", "white space only"),
            (" \n", "white space only"),
            ("sk-ant-a\nsk-ant-b", "line break"),
            ("sk-ant-a b", "blanks"),
            ("sk-ant-ä", "characters"),
            ("sk-ant-\u{200b}a", "characters"),
            ("\"sk-ant-a\"", "quotation marks"),
            ("'sk-ant-a'", "quotation marks"),
        ];
        for (bad, part) in rows {
            assert!(flaw(bad).is_some_and(|flaw| flaw.contains(part)), "{bad:?}");
        }
    }
}
