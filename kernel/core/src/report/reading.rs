//! What the reports of runs that only read have in common: bounds, secrets, and how they go out.

use super::{BadReport, Flaw, Found, LAYOUT, Object, SUMMARY_LIMIT, TEXT_LIMIT, check_text};
use super::{find_secrets, outgoing_text};
use crate::model::TITLE_LIMIT;
use serde::{Serialize, de::DeserializeOwned};

/// Most bytes of a line of a report, such as a step of a plan.
const LINE_LIMIT: usize = 2000;
/// Most bytes of a path in a report.
const PATH_LIMIT: usize = 500;

/// What a text of a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One line that becomes a title.
    Title,
    /// One paragraph.
    Line,
    /// Markdown.
    Prose,
    /// A path from the top of the repository.
    Path,
    /// A name within the report.
    Key,
}

/// A report that is checked text by text.
pub(super) trait Reading: DeserializeOwned + Serialize {
    /// What a good one looks like.
    const EXAMPLE: &'static str;

    /// Each text with its place and what it is.
    fn texts(&self) -> Vec<(String, &str, Kind)>;

    /// Those that people read, to be changed.
    fn prose_mut(&mut self) -> Vec<&mut String>;

    /// What is wrong with it as a whole.
    fn flaw(&self) -> Option<String>;
}

/// Checks a report; gives its canonical JSON text.
pub(super) fn validate<T: Reading>(text: &[u8]) -> Result<String, BadReport> {
    let wrong = |problem: String| BadReport::Wrong {
        problem,
        example: T::EXAMPLE,
    };
    // serde_json's message ends with line and column.
    let shape = |error: serde_json::Error| wrong(error.to_string());
    let Object(report): Object<T> = serde_json::from_slice(text).map_err(shape)?;
    for (place, text, kind) in report.texts() {
        let flaw = match kind {
            Kind::Title => check_text(text, TITLE_LIMIT, &[]).err(),
            Kind::Line => check_text(text, LINE_LIMIT, LAYOUT).err(),
            Kind::Prose if place == "summary" => summary_flaw(text),
            Kind::Prose => check_text(text, TEXT_LIMIT, LAYOUT).err(),
            Kind::Path => {
                if !is_within(text) {
                    return Err(wrong(format!(
                        "`{place}` is no path from the top of the repository; write for example `src/auth.py`"
                    )));
                }
                check_text(text, PATH_LIMIT, &[]).err()
            }
            Kind::Key => {
                if !is_key(text) {
                    return Err(wrong(format!(
                        "`{place}` is no name; write up to 32 lower-case letters, digits and dashes"
                    )));
                }
                None
            }
        };
        if let Some(flaw) = flaw {
            return Err(wrong(format!("`{place}` {flaw}")));
        }
        let found = find_secrets(text).map_err(|problem| BadReport::Unsearched { problem })?;
        if let Some(Found { rule, line, .. }) = found.into_iter().next() {
            return Err(BadReport::Secret { place, line, rule });
        }
    }
    if let Some(flaw) = report.flaw() {
        return Err(wrong(flaw));
    }
    serde_json::to_string(&report).map_err(shape)
}

fn summary_flaw(text: &str) -> Option<Flaw> {
    match check_text(text, usize::MAX, LAYOUT) {
        Err(flaw) => Some(flaw),
        Ok(()) if text.chars().count() > SUMMARY_LIMIT => Some(Flaw::Long {
            bytes: text.len(),
            limit: SUMMARY_LIMIT,
        }),
        Ok(()) => None,
    }
}

/// A report that [`validate`] accepted, as its texts go out.
pub(super) fn outgoing<T: Reading>(json: &str) -> Option<T> {
    let mut report: T = serde_json::from_str(json).ok()?;
    for text in report.prose_mut() {
        *text = outgoing_text(text);
    }
    Some(report)
}

/// True for a path that stays in the repository, and that can be shown.
fn is_within(path: &str) -> bool {
    let leads_out = path.starts_with('/') || path.split('/').any(|part| part == "..");
    // It is shown as code.
    !path.trim().is_empty() && !path.contains('`') && !leads_out
}

fn is_key(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&key.len()) && key.bytes().all(plain)
}

/// Says that a list is too short or too long.
pub(super) fn count(field: &str, count: usize, least: usize, most: usize) -> Option<String> {
    if count < least {
        Some(format!(
            "`{field}` has {count} entries; at least {least} are needed"
        ))
    } else if count > most {
        Some(format!(
            "`{field}` has {count} entries; at most {most} are taken. Keep what matters most"
        ))
    } else {
        None
    }
}

/// Each text of a list, with its place.
pub(super) fn each<'a>(
    field: &str,
    list: &'a [String],
    kind: Kind,
) -> impl Iterator<Item = (String, &'a str, Kind)> {
    let field = field.to_owned();
    let numbered = list.iter().enumerate();
    numbered.map(move |(n, text)| (format!("{field}[{n}]"), text.as_str(), kind))
}

#[cfg(test)]
mod tests {
    use super::super::{PlanReport, ReviewReport, SplitReport, validate};
    use super::Reading;
    use crate::grant::Role;

    fn refused(role: Role, text: &str) -> String {
        match validate(role, text.as_bytes()) {
            Ok(taken) => panic!("{taken} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_examples_are_good_ones() {
        for (role, example) in [
            (Role::Plan, PlanReport::EXAMPLE),
            (Role::Review, ReviewReport::EXAMPLE),
            (Role::Split, SplitReport::EXAMPLE),
        ] {
            let taken = validate(role, example.as_bytes()).unwrap();
            // What was taken is taken again, as it is.
            assert_eq!(validate(role, taken.as_bytes()).unwrap(), taken);
        }
    }

    #[test]
    fn what_the_schema_wants_is_what_is_wanted() {
        for (role, example) in [
            (Role::Code, super::super::CODE_EXAMPLE),
            (Role::Plan, PlanReport::EXAMPLE),
            (Role::Review, ReviewReport::EXAMPLE),
            (Role::Split, SplitReport::EXAMPLE),
        ] {
            let schema: serde_json::Value =
                serde_json::from_str(super::super::schema(role).unwrap()).unwrap();
            let example: serde_json::Value = serde_json::from_str(example).unwrap();
            let taken = |value: &serde_json::Value| validate(role, value.to_string().as_bytes());
            assert!(taken(&example).is_ok());
            let properties = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().unwrap();
            for key in example.as_object().unwrap().keys() {
                assert!(properties.contains_key(key), "{role:?}: {key}");
                let mut less = example.clone();
                less.as_object_mut().unwrap().remove(key);
                let wanted = required.iter().any(|name| name == key);
                // Without remarks no changes can be asked for, which no schema says.
                if !(role == Role::Review && key == "comments") {
                    assert_eq!(taken(&less).is_err(), wanted, "{role:?}: {key}");
                }
            }
            let mut more = example.clone();
            more["verdicts"] = serde_json::json!(1);
            assert_eq!(schema["additionalProperties"], false);
            assert!(taken(&more).is_err());
        }
    }

    #[test]
    fn bad_ones_are_told_what_is_wrong_and_where() {
        let review = |rest: &str| format!("{{\"confidence\": 0.9, \"summary\": \"x\", {rest}}}");
        let part = |key: &str, rest: &str| {
            format!(
                "{{\"key\": \"{key}\", \"title\": \"T {key}\", \"body\": \"b\", \"acceptance\": [\"a\"], \"complexity\": \"low\"{rest}}}"
            )
        };
        let split = |parts: &[String]| {
            format!("{{\"summary\": \"s\", \"issues\": [{}]}}", parts.join(", "))
        };
        let token = format!("ghp_{}", "aB3dE6gH9jK2".repeat(3));
        let table = [
            (Role::Review, "[]".to_owned(), "expected an object"),
            (
                Role::Review,
                review(r#""verdict": "fine""#),
                "unknown variant `fine`, expected one of `approve`",
            ),
            (
                Role::Review,
                review(r#""verdict": "request_changes""#),
                "does not say which",
            ),
            (
                Role::Review,
                r#"{"verdict": "approve", "confidence": 1.5, "summary": "x"}"#.to_owned(),
                "`1.5` is not a number from 0 to 1",
            ),
            (
                Role::Review,
                review(
                    r#""verdict": "approve", "comments": [{"path": "a.py", "severity": "blocker", "text": "No."}]"#,
                ),
                "it approves, and says of `a.py`",
            ),
            (
                Role::Review,
                review(
                    r#""verdict": "reject", "comments": [{"path": "../a", "severity": "note", "text": "No."}]"#,
                ),
                "`comments[0].path` is no path",
            ),
            (
                Role::Review,
                review(
                    r#""verdict": "reject", "comments": [{"path": "a", "line": 0, "severity": "note", "text": "No."}]"#,
                ),
                "`comments[0].line` is 0",
            ),
            (
                Role::Review,
                review(r#""verdict": "reject", "comments": [["a", 1, "note", null, "No."]]"#),
                "expected an object",
            ),
            (
                Role::Plan,
                r#"{"summary": "x", "steps": []}"#.to_owned(),
                "at least 1 are needed",
            ),
            (
                Role::Plan,
                r#"{"summary": " ", "steps": ["a"]}"#.to_owned(),
                "`summary` is blank",
            ),
            (
                Role::Plan,
                format!("{{\"summary\": \"x\", \"steps\": [\"use {token}\"]}}"),
                "`steps[0]` holds a secret",
            ),
            (Role::Split, split(&[]), "`issues` has 0 entries"),
            (
                Role::Split,
                split(&[part("a", ""), part("a", "")]),
                "`issues[1].key` is that of another",
            ),
            (
                Role::Split,
                split(&[part("A b", "")]),
                "`issues[0].key` is no name",
            ),
            (
                Role::Split,
                split(&[
                    part("a", ", \"depends_on\": [\"b\"]"),
                    part("b", ", \"depends_on\": [\"a\"]"),
                ]),
                "`issues[0].depends_on` names `b`, which does not come before `a`",
            ),
            (
                Role::Split,
                split(&[part("a", ", \"depends_on\": [\"a\"]")]),
                "does not come before",
            ),
            (
                Role::Split,
                split(&[part("a", ", \"depends_on\": [\"z\"]")]),
                "is no key of an issue here",
            ),
            (
                Role::Split,
                split(&vec![part("a", ""); 1]).replace("[\"a\"]", "[]"),
                "`issues[0].acceptance` has 0",
            ),
        ];
        for (role, text, said) in table {
            let error = refused(role, &text);
            assert!(error.contains(said), "no `{said}` in {error}");
        }
        let many: Vec<String> = (0..13).map(|n| part(&format!("k{n}"), "")).collect();
        assert!(refused(Role::Split, &split(&many)).contains("at most 12"));
    }

    #[test]
    fn what_goes_out_tells_nobody() {
        let json = validate(
            Role::Review,
            br#"{"verdict": "reject", "confidence": 1, "summary": "Ask @ann, see #12."}"#,
        );
        let out: ReviewReport = super::outgoing(&json.unwrap()).unwrap();
        assert!(!out.summary.contains(" @ann"), "{}", out.summary);
        let json = validate(
            Role::Review,
            br#"{"verdict": "reject", "confidence": 1, "summary": "x", "comments": [{"path": "a", "severity": "note", "rule": "@ann", "text": "y"}]}"#,
        );
        let out: ReviewReport = super::outgoing(&json.unwrap()).unwrap();
        assert!(!out.text().contains("(@ann)"), "{}", out.text());
    }
}
