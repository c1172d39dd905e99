//! Dependencies as people write them into issues.

use crate::{event::Refusal, ids::IssueNo, text};

/// What a line begins with that names what must be done before an issue.
const DEPENDS_ON: &str = "depends-on:";

/// The issues that lines `Depends-on: #3, #4` of a text name. A line that goes on with
/// words is prose.
pub fn written_dependencies(body: &str) -> Result<Vec<IssueNo>, Refusal> {
    let mut found = Vec::new();
    for line in body.lines() {
        let line = line.trim();
        let Some((head, rest)) = line.split_at_checked(DEPENDS_ON.len()) else {
            continue;
        };
        let names_one = rest
            .trim_start()
            .starts_with(|c: char| c == '#' || c.is_ascii_digit());
        if !head.eq_ignore_ascii_case(DEPENDS_ON) || !names_one {
            continue;
        }
        for name in rest.split(',') {
            let number = name.trim().strip_prefix('#').and_then(|n| n.parse().ok());
            found.push(number.ok_or_else(|| Refusal::Dependency(text::one_line(rest)))?);
        }
    }
    Ok(found)
}
