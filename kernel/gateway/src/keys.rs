//! The model keys: read once, handed to providers only, redacted everywhere else.

use crate::error::GatewayError;
use secrecy::{ExposeSecret, SecretString};
use std::{borrow::Cow, collections::BTreeMap, io::Read};

/// A key shorter than this is not redacted: it would blank out ordinary words.
const SHORTEST_REDACTED: usize = 8;
/// What stands where a key stood.
const REDACTED: &str = "[key redacted]";

/// The keys by the name of the environment variable that held them.
#[derive(Debug, Default)]
pub struct Keys(BTreeMap<String, SecretString>);

impl Keys {
    /// Keys by name.
    pub fn new(keys: BTreeMap<String, SecretString>) -> Self {
        Self(keys)
    }

    /// The key named `name`; none where it was not set or is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&SecretString> {
        self.0
            .get(name)
            .filter(|key| !key.expose_secret().is_empty())
    }

    /// `text` without any of the keys.
    pub fn redact(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        let mut keys: Vec<&str> = self.0.values().map(ExposeSecret::expose_secret).collect();
        // One may begin like another: the rest of that would stay.
        keys.sort_by_key(|key| std::cmp::Reverse(key.len()));
        for key in keys {
            if key.len() >= SHORTEST_REDACTED && text.contains(key) {
                text = Cow::Owned(text.replace(key, REDACTED));
            }
        }
        text.into_owned()
    }
}

/// Reads one JSON object of names and values from standard input, to its end.
pub fn read_stdin() -> Result<Keys, GatewayError> {
    read(std::io::stdin().lock())
}

fn read(mut input: impl Read) -> Result<Keys, GatewayError> {
    let mut text = String::new();
    input
        .read_to_string(&mut text)
        .map_err(|source| GatewayError::Keys {
            source: source.into(),
        })?;
    let text = SecretString::from(text);
    let keys: BTreeMap<String, String> =
        serde_json::from_str(text.expose_secret()).map_err(|error| {
            // serde's own message may quote a value; the position says enough.
            GatewayError::Keys {
                source: format!("line {}, column {}", error.line(), error.column()).into(),
            }
        })?;
    Ok(Keys(
        keys.into_iter()
            .map(|(name, key)| (name, SecretString::from(key)))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::Index};

    #[test]
    fn keys_come_as_one_json_object() {
        let keys = read(r#"{"A_KEY":"sk-secret-1","EMPTY":""}"#.as_bytes()).unwrap();
        assert_eq!(keys.get("A_KEY").unwrap().expose_secret(), "sk-secret-1");
        assert!(keys.get("EMPTY").is_none(), "an empty key is no key");
        assert!(keys.get("OTHER").is_none());
        assert!(
            !format!("{keys:?}").contains("sk-secret"),
            "keys are not printable"
        );
    }

    #[test]
    fn a_problem_with_the_keys_quotes_none_of_them() {
        let error = read(r#"{"A_KEY": 7, "B": "sk-secret-1"#.as_bytes()).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(
            text.contains("line 1") && !text.contains('7') && !text.contains("sk-"),
            "{text}"
        );
    }

    #[test]
    fn keys_are_redacted_wherever_they_stand() {
        let keys = read(r#"{"A":"sk-secret-1","B":"short"}"#.as_bytes()).unwrap();
        assert_eq!(
            keys.redact("x sk-secret-1sk-secret-1 y"),
            "x [key redacted][key redacted] y"
        );
        assert_eq!(keys.redact("a short walk"), "a short walk");
    }

    proptest! {
        #[test]
        fn untrusted_text_keeps_no_part_of_a_key(
            key in "[A-Za-z0-9_-]{8,30}", more in "[A-Za-z0-9_-]{1,30}", before in "[ -,\n]{0,9}", after in "[ -,\n]{0,9}",
        ) {
            // One key may begin like another, and be named before it.
            let longer = format!("{key}{more}");
            let json = serde_json::json!({"A": key, "B": longer}).to_string();
            let keys = read(json.as_bytes()).unwrap();
            let text = format!("{before}{longer}{after}{key}");
            prop_assert_eq!(keys.redact(&text), format!("{before}{REDACTED}{after}{REDACTED}"));
        }

        #[test]
        fn untrusted_input_is_not_quoted_where_it_is_wrong(key in "[A-Z]{9,30}", at in any::<Index>(), put in "[]\\\\\"{}:,0-9\n]{0,3}") {
            let mut json = serde_json::json!({"name": key}).to_string();
            json.replace_range(at.index(json.len())..json.len(), &put);
            if let Err(error) = read(json.as_bytes()) {
                let text = crate::error::chain(&error);
                prop_assert!(!text.contains(&key) && !text.contains(&key[..4]), "{text}");
            }
        }
    }
}
