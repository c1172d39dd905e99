//! What a run may report, by role. A malformed report is answered with what is
//! wrong and an example, so that the engine can mend it.

use crate::grant::Role;
use serde::{Deserialize, Serialize};

/// Most bytes of a report.
pub const REPORT_LIMIT: usize = 64 << 10;
/// Most characters of a summary.
pub const SUMMARY_LIMIT: usize = 10_000;
/// What the report of a code run looks like.
pub const CODE_EXAMPLE: &str =
    r#"{"summary": "What was changed and why.", "notes": "What the reviewer should know."}"#;

/// The report of a code run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeReport {
    /// What was changed and why; at most [`SUMMARY_LIMIT`] characters, not blank.
    pub summary: String,
    /// What a reader should know beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// Why a report was not accepted. Its text is for the agent that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// Longer than [`REPORT_LIMIT`].
    #[error("the report has {bytes} bytes; at most {REPORT_LIMIT} are read. Write less")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No JSON object with the fields of the role.
    #[error(
        "the report is not as it should be: {problem}. An example of a good one: {CODE_EXAMPLE}"
    )]
    Shape {
        /// What is wrong and where.
        problem: String,
    },
    /// A summary without words.
    #[error("`summary` is blank. An example of a good report: {CODE_EXAMPLE}")]
    Blank,
    /// A summary beyond [`SUMMARY_LIMIT`].
    #[error(
        "`summary` has {characters} characters; at most {SUMMARY_LIMIT} are kept. Write less, or move details to `notes`"
    )]
    LongSummary {
        /// Its length.
        characters: usize,
    },
    /// The role has no report.
    #[error("a {role} run has no report; its verdict is the exit code of its checks", role = role.as_str())]
    NoReport {
        /// The role.
        role: Role,
    },
}

/// Checks the report `text` of a run with `role`; gives its canonical JSON text.
pub fn validate(role: Role, text: &[u8]) -> Result<String, BadReport> {
    if text.len() > REPORT_LIMIT {
        return Err(BadReport::TooLong { bytes: text.len() });
    }
    match role {
        Role::Check => Err(BadReport::NoReport { role }),
        Role::Code => {
            // serde_json's message ends with line and column.
            let shape = |error: serde_json::Error| BadReport::Shape {
                problem: error.to_string(),
            };
            let report: CodeReport = serde_json::from_slice(text).map_err(shape)?;
            let characters = report.summary.chars().count();
            if report.summary.trim().is_empty() {
                Err(BadReport::Blank)
            } else if characters > SUMMARY_LIMIT {
                Err(BadReport::LongSummary { characters })
            } else {
                serde_json::to_string(&report).map_err(shape)
            }
        }
    }
}

/// The text for people in a report that [`validate`] accepted.
pub fn summary(json: &str) -> Option<String> {
    let report: CodeReport = serde_json::from_str(json).ok()?;
    Some(match report.notes {
        Some(notes) => format!("{}\n\n{notes}", report.summary),
        None => report.summary,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_reports_come_back_as_canonical_json() {
        assert!(validate(Role::Code, CODE_EXAMPLE.as_bytes()).is_ok());
        let text = validate(Role::Code, b" {\n\"summary\" : \"Fixed \\u00fc\"}\n").unwrap();
        assert_eq!(text, "{\"summary\":\"Fixed ü\"}");
    }

    #[test]
    fn bad_reports_are_told_what_is_wrong_and_where() {
        let table: &[(&[u8], &str)] = &[
            (b"", "line 1 column 0"),
            (b"done", "line 1 column 1"),
            (b"[]", "line 1"),
            (b"{}", "missing field `summary`"),
            (b"{\"summary\": 7}", "expected a string at line 1 column 13"),
            (
                b"{\"summary\": \"x\",\n \"verdict\": 1}",
                "unknown field `verdict`, expected `summary` or `notes` at line 2",
            ),
            (b"{\"summary\": \" \\n\"}", "`summary` is blank"),
            (b"{\"summary\": \"x\"} trailing", "trailing characters"),
            (b"\xff\xfe", "line 1"),
        ];
        for (text, expected) in table {
            let error = validate(Role::Code, text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("An example"), "{error}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let summary = |n: usize| format!("{{\"summary\":\"{}\"}}", "ü".repeat(n));
        assert!(validate(Role::Code, summary(SUMMARY_LIMIT).as_bytes()).is_ok());
        let long = validate(Role::Code, summary(SUMMARY_LIMIT + 1).as_bytes()).unwrap_err();
        assert_eq!(
            long,
            BadReport::LongSummary {
                characters: SUMMARY_LIMIT + 1
            }
        );
        let huge = vec![b' '; REPORT_LIMIT + 1];
        assert_eq!(
            validate(Role::Code, &huge).unwrap_err(),
            BadReport::TooLong {
                bytes: REPORT_LIMIT + 1
            }
        );
    }

    #[test]
    fn checks_do_not_report() {
        let error = validate(Role::Check, CODE_EXAMPLE.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("exit code"), "{error}");
    }
}
