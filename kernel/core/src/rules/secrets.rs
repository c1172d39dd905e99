//! Secrets in text, found by the rules of the crate `nosecrets-rules`: patterns of tokens
//! and keys that their services publish. Which of them apply is [`applies`].

use super::Globs;
use aho_corasick::AhoCorasick;
use nosecrets_rules::{Rule, RuleValidate, Severity, load_builtin_rules};
use regex::bytes::Regex;
use std::{ops::Range, sync::LazyLock};

/// Rules below `critical` that apply as well: what they find has a form of its own. The
/// others go by words nearby, and find tokens that are none: passwords of local databases,
/// headers in tests, variables named after a token.
const OF_THEIR_OWN_FORM: [&str; 5] = [
    "github-app",
    "slack-webhook",
    "discord-webhook",
    "stripe-webhook-secret",
    "mailchimp-api-key",
];

/// Of a value that ends in fewer different characters than this in its last [`TAIL`], nobody
/// takes a password: it is `xxxx…` or `0000…`.
const LEAST_DIFFERENT: usize = 5;
/// Bytes of a value's end that are looked at.
const TAIL: usize = 16;

/// A secret that a text seems to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The rule's identifier, for example `aws-access-key`.
    pub rule: String,
    /// The line, from 1.
    pub line: u64,
    /// The secret's bytes in the text.
    pub range: Range<usize>,
}

/// Looks for secrets in a text. The error says why no rule can be used; nothing is to pass then.
pub fn find_secrets(text: &str) -> Result<Vec<Found>, String> {
    let secrets = secrets()?;
    let mut found = Vec::new();
    let mut start = 0;
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        let bare = line.trim_end_matches(['\n', '\r']);
        secrets.each(bare.as_bytes(), &mut |at, range| {
            found.push(Found {
                rule: secrets.kinds[at].id().to_owned(),
                line: number,
                range: start + range.start..start + range.end,
            });
        });
        start += line.len();
    }
    Ok(found)
}

/// All rules that apply.
pub(super) fn secrets() -> Result<&'static Secrets, String> {
    static SECRETS: LazyLock<Result<Secrets, String>> = LazyLock::new(Secrets::load);
    SECRETS.as_ref().map_err(Clone::clone)
}

/// True for a rule whose findings keep a push away.
fn applies(rule: &Rule) -> bool {
    rule.severity == Severity::Critical || OF_THEIR_OWN_FORM.contains(&rule.id.as_str())
}

/// A kind of secret.
pub(super) struct Kind {
    rule: Rule,
    pattern: Regex,
    charset: Option<Regex>,
    allow: Vec<Regex>,
    include: Globs,
    exclude: Globs,
}

/// Kinds of secrets, and the words without which a line holds none of them.
pub(super) struct Secrets {
    kinds: Vec<Kind>,
    keywords: AhoCorasick,
    /// The kinds of each keyword.
    kinds_of: Vec<Vec<usize>>,
}

impl Secrets {
    fn load() -> Result<Self, String> {
        let rules = load_builtin_rules().map_err(|error| error.to_string())?;
        let kinds: Vec<Kind> = rules
            .into_iter()
            .filter(applies)
            .map(Kind::new)
            .collect::<Result<_, _>>()?;
        let mut keywords: Vec<String> = Vec::new();
        let mut kinds_of: Vec<Vec<usize>> = Vec::new();
        for (at, kind) in kinds.iter().enumerate() {
            if kind.rule.keywords.is_empty() {
                return Err(format!("the rule `{}` names no keyword", kind.rule.id));
            }
            for keyword in &kind.rule.keywords {
                let keyword = keyword.to_ascii_lowercase();
                match keywords.iter().position(|known| *known == keyword) {
                    Some(known) => kinds_of[known].push(at),
                    None => {
                        keywords.push(keyword);
                        kinds_of.push(vec![at]);
                    }
                }
            }
        }
        let keywords = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(&keywords)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            kinds,
            keywords,
            kinds_of,
        })
    }

    /// The kinds that may be in a file of this name, by their place in the list.
    pub(super) fn kinds_in(&self, path: &[u8]) -> Vec<bool> {
        let may = |kind: &Kind| {
            (kind.include.is_empty() || kind.include.is_match(path)) && !kind.exclude.is_match(path)
        };
        self.kinds.iter().map(may).collect()
    }

    /// Calls for each secret of a line, which is without its end, with the kind's place.
    fn each(&self, line: &[u8], found: &mut dyn FnMut(usize, Range<usize>)) {
        let mut asked = vec![false; self.kinds.len()];
        let mut whole = Vec::new();
        for keyword in self.keywords.find_overlapping_iter(line) {
            for at in &self.kinds_of[keyword.pattern().as_usize()] {
                if std::mem::replace(&mut asked[*at], true) {
                    continue;
                }
                // Some patterns want white space behind the secret.
                if whole.is_empty() {
                    whole.extend_from_slice(line);
                    whole.push(b'\n');
                }
                self.kinds[*at].each(&whole, &mut |range| found(*at, range));
            }
        }
    }

    /// The kinds of secrets that a line holds, of those that `may` be there.
    pub(super) fn of_line(&self, line: &[u8], may: &[bool]) -> Vec<&Kind> {
        let mut found = vec![false; self.kinds.len()];
        self.each(line, &mut |at, _| found[at] = may[at]);
        let held = self.kinds.iter().zip(found);
        held.filter_map(|(kind, is_held)| is_held.then_some(kind))
            .collect()
    }
}

impl Kind {
    fn new(rule: Rule) -> Result<Self, String> {
        let wrong = |what: &str| format!("the rule `{}` cannot be used: {what}", rule.id);
        let compile = |pattern: &str| Regex::new(pattern).map_err(|e| wrong(&e.to_string()));
        let charset = rule.validate.as_ref().and_then(|v| v.charset.as_ref());
        let charset = charset.map(|charset| compile(&format!("^[{charset}]+$")));
        let allow = rule.allow.iter().flat_map(|allow| &allow.patterns);
        let allow = allow
            .map(|pattern| compile(pattern))
            .collect::<Result<_, _>>()?;
        let paths = rule.paths.clone().unwrap_or_default();
        let globs = |globs: Vec<String>| {
            let globs = Globs::new(globs).and_then(|globs| globs.check().map(|()| globs));
            globs.map_err(|what| wrong(&what))
        };
        Ok(Self {
            pattern: compile(&rule.pattern)?,
            charset: charset.transpose()?,
            allow,
            include: globs(paths.include)?,
            exclude: globs(paths.exclude)?,
            rule,
        })
    }

    /// The rule's identifier.
    pub(super) fn id(&self) -> &str {
        &self.rule.id
    }

    /// What it finds, for people.
    pub(super) fn name(&self) -> &str {
        &self.rule.name
    }

    fn each(&self, line: &[u8], found: &mut dyn FnMut(Range<usize>)) {
        for captures in self.pattern.captures_iter(line) {
            let Some(value) = captures.get(self.rule.capture).or_else(|| captures.get(0)) else {
                continue;
            };
            if self.is_secret(value.as_bytes()) {
                found(value.range());
            }
        }
    }

    fn is_secret(&self, value: &[u8]) -> bool {
        let values = || self.rule.allow.iter().flat_map(|allow| &allow.values);
        self.rule.validate.as_ref().is_none_or(|v| fits(v, value))
            && self
                .charset
                .as_ref()
                .is_none_or(|charset| charset.is_match(value))
            && !self.allow.iter().any(|allowed| allowed.is_match(value))
            && !values().any(|allowed| allowed.as_bytes() == value)
            && !is_placeholder(value)
    }
}

fn fits(validate: &RuleValidate, value: &[u8]) -> bool {
    let begins = |prefix: &String| value.starts_with(prefix.as_bytes());
    validate.length.is_none_or(|length| value.len() == length)
        && validate.min_length.is_none_or(|least| value.len() >= least)
        && validate.max_length.is_none_or(|most| value.len() <= most)
        && (validate.prefix.is_empty() || validate.prefix.iter().any(begins))
}

/// True for what documentation shows in a secret's place.
fn is_placeholder(value: &[u8]) -> bool {
    let is_example = |part: &[u8]| part.eq_ignore_ascii_case(b"example");
    let mut different = [false; 256];
    for byte in value.iter().rev().take(TAIL) {
        different[usize::from(*byte)] = true;
    }
    let different = different.into_iter().filter(|is_there| *is_there).count();
    different < LEAST_DIFFERENT || value.windows(b"example".len()).any(is_example)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look like chance, without being one of anybody's keys.
    fn noise(alphabet: &str, length: usize) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        (0..length)
            .map(|n| letters[(n * 7 + n / 5) % letters.len()])
            .collect()
    }

    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const HEX: &str = "0123456789abcdef";

    fn rules_of(text: &str) -> Vec<String> {
        let found = find_secrets(text).unwrap();
        found.into_iter().map(|found| found.rule).collect()
    }

    #[test]
    fn every_rule_can_be_used_and_those_that_apply_are_known() {
        let secrets = secrets().unwrap_or_else(|what| panic!("{what}"));
        let ids: Vec<&str> = secrets.kinds.iter().map(Kind::id).collect();
        for id in OF_THEIR_OWN_FORM
            .iter()
            .chain(&["aws-access-key", "private-key"])
        {
            assert!(ids.contains(id), "{id}");
        }
        for id in [
            "generic-secret",
            "password-assignment",
            "basic-auth",
            "postgres-connection-uri",
        ] {
            assert!(!ids.contains(&id), "{id}");
        }
    }

    #[test]
    fn tokens_are_found_with_their_line_and_place() {
        let aws = format!("AKIA{}", noise("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16));
        let github = format!("ghp_{}", noise(LETTERS, 36));
        let text = format!("first\r\nkey = {aws}\nü {github}");
        let found = find_secrets(&text).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            (found[0].rule.as_str(), found[0].line),
            ("aws-access-key", 2)
        );
        assert_eq!(text[found[0].range.clone()], aws);
        assert_eq!((found[1].rule.as_str(), found[1].line), ("github-pat", 3));
        assert_eq!(text[found[1].range.clone()], github);
    }

    #[test]
    fn a_secret_at_the_end_of_a_line_is_one() {
        let key = noise("abcdefghijklmnopqrstuvwxyz0123456789/+", 40);
        let text = format!("aws_secret_access_key = {key}");
        assert_eq!(rules_of(&text), ["aws-secret-key"]);
    }

    #[test]
    fn services_private_keys_and_webhooks_are_found() {
        for (rule, text) in [
            (
                "stripe-secret-key",
                format!("sk_live_{}", noise(LETTERS, 24)),
            ),
            ("gcp-api-key", format!("AIza{}", noise(LETTERS, 35))),
            ("gitlab-pat", format!("glpat-{}", noise(LETTERS, 20))),
            ("npm-token", format!("npm_{}", noise(LETTERS, 36))),
            ("github-app", format!("ghs_{}", noise(LETTERS, 36))),
            ("twilio-api-key", format!("SK{}", noise(HEX, 32))),
            (
                "slack-webhook",
                format!(
                    "https://hooks.slack.com/services/T0AB1CD2E/B0AB1CD2E/{}",
                    noise(LETTERS, 24)
                ),
            ),
            (
                "private-key",
                format!("-----BEGIN {}PRIVATE KEY-----", "RSA "),
            ),
        ] {
            assert_eq!(rules_of(&text), [rule], "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_passes() {
        let text = r#"
            AKIAIOSFODNN7EXAMPLE
            aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
            token: ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
            sk_live_000000000000000000000000
            DATABASE_URL=postgres://app:app@localhost:5432/app
            Authorization: Basic dXNlcjpwYXNzd29yZA==
            password = "correct horse battery staple"
            api_key = "test_key_for_the_unit_tests"
            secret = os.environ["SECRET_KEY_OF_THE_SERVICE"]
            render_token_list = build_the_list_of_all_tokens()
            integrity sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==
            -----BEGIN PUBLIC KEY-----
            -----BEGIN CERTIFICATE-----
            task risk ask 0123456789abcdef0123456789abcdef
        "#;
        assert_eq!(find_secrets(text).unwrap(), []);
    }
}
