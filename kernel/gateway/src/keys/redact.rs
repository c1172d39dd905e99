//! The second line: what knows the keys stands in front of everything that is written down.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;
use std::{
    borrow::Cow,
    io::Write,
    sync::{Arc, PoisonError, RwLock},
};

/// A key shorter than this is not redacted: it would blank out ordinary words.
const SHORTEST: usize = 8;
/// From this length on its encodings are redacted as well; those of a shorter one could
/// stand in other text by chance.
const SHORTEST_ENCODED: usize = 16;
/// What stands where a key stood.
const REDACTED: &str = "[key redacted]";
/// What no URL leaves as it is.
const IN_URLS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Knows every key that there was since the process began, and what each looks like in
/// JSON, in URLs and in base64. Clones know the same.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that no part of one is left where another is a part of it.
    known: Arc<RwLock<Vec<Zeroizing<String>>>>,
}

impl Redactor {
    /// Takes `key` out of every text from now on.
    pub(super) fn learn(&self, key: &str) {
        let key = key.trim();
        if key.len() < SHORTEST {
            return;
        }
        let json = serde_json::Value::from(key).to_string();
        let mut forms = vec![key.to_owned(), json[1..json.len() - 1].to_owned()];
        if key.len() >= SHORTEST_ENCODED {
            forms.push(utf8_percent_encode(key, IN_URLS).to_string());
            forms.extend((0..3).flat_map(|before| {
                let bytes = [&[0; 2][..before], key.as_bytes()].concat();
                [
                    STANDARD_NO_PAD.encode(&bytes),
                    URL_SAFE_NO_PAD.encode(&bytes),
                ]
                .map(|text| inner(&text, before, bytes.len()).to_owned())
            }));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms.into_iter().map(Zeroizing::new) {
            if !known.contains(&form) {
                known.push(form);
            }
        }
        known.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// `text` without any of the keys.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = Cow::Borrowed(text);
        for form in known.iter() {
            if text.contains(form.as_str()) {
                text = Cow::Owned(text.replace(form.as_str(), REDACTED));
            }
        }
        text
    }

    /// Where in `text` the first of the keys stands.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter_map(|form| text.find(form.as_str()))
            .min()
    }

    /// Stands before `to`, for a log that writes each of its lines at once.
    pub fn before<W: Write>(&self, to: W) -> impl Write + use<W> {
        Redacted {
            redactor: self.clone(),
            to,
        }
    }
}

/// The part of `text`, base64 of `length` bytes, that says nothing of the first `before`
/// bytes and nothing of those that may follow.
fn inner(text: &str, before: usize, length: usize) -> &str {
    &text[(before * 8).div_ceil(6)..length * 8 / 6]
}

struct Redacted<W> {
    redactor: Redactor,
    to: W,
}

impl<W: Write> Write for Redacted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.to.write_all(self.redactor.redact(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn knowing(keys: &[&str]) -> Redactor {
        let redactor = Redactor::default();
        keys.iter().for_each(|key| redactor.learn(key));
        redactor
    }

    #[test]
    fn keys_are_redacted_wherever_they_stand() {
        let redactor = knowing(&["sk-secret-1", "short", "sk-secret-1-longer\n"]);
        let rows = [
            (
                "x sk-secret-1sk-secret-1 y",
                "x [key redacted][key redacted] y",
            ),
            ("sk-secret-1-longer", "[key redacted]"),
            ("a short walk", "a short walk"),
        ];
        for (text, want) in rows {
            assert_eq!(redactor.redact(text), want);
            assert_eq!(redactor.find(text), want.find(REDACTED));
        }
    }

    #[test]
    fn encodings_of_keys_are_redacted() {
        let key = "sk-\"ä\"/+secret?canary~1";
        let redactor = knowing(&[key]);
        let mut texts = vec![
            serde_json::json!({ "message": format!("bad key {key}") }).to_string(),
            format!(
                "https://example.org/?key={}",
                utf8_percent_encode(key, IN_URLS)
            ),
        ];
        for before in ["", "a", "ab", "abc", "user:", "Bearer "] {
            for after in ["", "1", "12", "123"] {
                let text = format!("{before}{key}{after}");
                texts.push(STANDARD_NO_PAD.encode(&text));
                texts.push(URL_SAFE_NO_PAD.encode(&text));
            }
        }
        for text in texts {
            let redacted = redactor.redact(&text);
            assert!(redacted.contains(REDACTED), "{text}");
            assert!(
                text.len() - redacted.replace(REDACTED, "").len() >= key.len(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_log_line_is_redacted_before_it_is_written() {
        let mut log = Redacted {
            redactor: knowing(&["sk-secret-1"]),
            to: Vec::new(),
        };
        log.write_all(b"ERROR: bad key sk-secret-1 \xff\n").unwrap();
        let text = String::from_utf8(log.to).unwrap();
        assert_eq!(text, "ERROR: bad key [key redacted] \u{fffd}\n");
    }

    proptest! {
        #[test]
        fn untrusted_text_keeps_no_part_of_a_key(
            key in "[A-Za-z0-9_-]{8,30}", more in "[A-Za-z0-9_-]{1,30}", before in "[ -,\n]{0,9}", after in "[ -,\n]{0,9}",
        ) {
            // One key may begin like another, and be known before it.
            let longer = format!("{key}{more}");
            let redactor = knowing(&[&key, &longer]);
            let text = format!("{before}{longer}{after}{key}");
            prop_assert_eq!(redactor.redact(&text), format!("{before}{REDACTED}{after}{REDACTED}"));
        }
    }
}
