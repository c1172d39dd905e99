//! The model's key and address.

use super::{Condition, Line, Report};
use crate::{failure::Class, keys};
use factory_core::{
    config::{Config, Vendor},
    grant::{Provider, WireApi},
};
use futures_util::future;
use std::time::Duration;

/// What asking a provider for a sign of life may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The address of a vendor's own, and how the keys for it begin.
fn keys_of(vendor: Vendor) -> (&'static str, &'static str) {
    match vendor {
        Vendor::Anthropic => ("https://api.anthropic.com", "sk-ant-"),
        Vendor::Openai => ("https://api.openai.com", "sk-"),
    }
}

/// Whether the keys are set, and look like ones. They are never shown.
pub(super) fn look_at_key(config: &Config, report: &mut Report) {
    match (config.providers(), keys::check(config, keys::is_set)) {
        (_, Err(failure)) => report.lines.push(Line::failed("model key", failure)),
        (None, Ok(())) => report.ok("model key", "none is needed for your own command"),
        (Some((api, providers)), Ok(())) => look_into_keys(api.vendor(), &providers, report),
    }
}

fn look_into_keys(vendor: Vendor, providers: &[Provider], report: &mut Report) {
    let flaws: Vec<Line> = providers
        .iter()
        .filter_map(|provider| look_into_key(vendor, provider))
        .collect();
    if flaws.is_empty() {
        let names: Vec<&str> = providers.iter().map(|one| one.key_env.as_str()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        report.ok("model key", format!("{} {verb} set", names.join(" and ")));
    }
    report.lines.extend(flaws);
}

/// What is wrong with the key of a provider.
fn look_into_key(vendor: Vendor, provider: &Provider) -> Option<Line> {
    const NAME: &str = "model key";
    let name = &provider.key_env;
    let value = std::env::var(name).unwrap_or_default();
    if let Some(flaw) = flaw(&value) {
        let line = Line::missing(NAME, Class::Key, format!("{name} {flaw}"));
        return Some(line.mend(format!("export {name}=<the key alone, on one line>")));
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
    let Some((api, providers)) = config.providers() else {
        return Vec::new();
    };
    let asked = providers
        .iter()
        .map(|provider| look_at_address(api, &provider.base_url));
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
