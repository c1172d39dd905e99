//! What is taken of the report of a code run.

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
        (b"[]", "invalid type: sequence, expected an object at line 1"),
        (br#"["All of it.", "", []]"#, "expected an object at line 1"),
        (
            br#"{"summary": "x", "issues": [["a", "b"]]}"#,
            "invalid type: sequence, expected an object at line 1",
        ),
        (b"{}", "missing field `summary`"),
        (b"{\"summary\": 7}", "expected a string at line 1 column 13"),
        (
            b"{\"summary\": \"x\",\n \"verdict\": 1}",
            "unknown field `verdict`, expected one of `summary`, `notes`, `issues`, `comments` at line 2",
        ),
        (b"{\"summary\": \" \\n\"}", "`summary` is blank"),
        (b"{\"summary\": \"x\"} trailing", "trailing characters"),
        (
            br#"{"summary": "x", "issues": {"title": "a"}}"#,
            "expected a sequence",
        ),
        (
            br#"{"summary": "x", "issues": [{"title": "a"}]}"#,
            "missing field `body` at line 1 column 42",
        ),
        (
            br#"{"summary": "x", "issues": [{"title": "a", "body": "b", "labels": ["priority/critical"]}]}"#,
            "unknown field `labels`",
        ),
        (
            br#"{"summary": "x", "issues": [{"title": "a", "body": "b"}, {"title": " ", "body": "b"}]}"#,
            "`issues[1].title` is blank",
        ),
        (
            br#"{"summary": "x", "issues": [{"title": "a\nb", "body": "b"}]}"#,
            "`issues[0].title` holds the control character U+000A",
        ),
        (
            br#"{"summary": "x", "issues": [{"title": "a", "body": "\u001b[31m"}]}"#,
            "`issues[0].body` holds the control character U+001B",
        ),
        (
            br#"{"summary": "x", "comments": ["fine", "\t\n"]}"#,
            "`comments[1]` is blank",
        ),
        (
            br#"{"summary": "x", "comments": "one"}"#,
            "expected a sequence",
        ),
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
    let filed = |issues: usize, title: usize, text: usize, comments: usize| {
        let draft = Draft {
            title: "t".repeat(title),
            body: "b".repeat(text),
        };
        let report = CodeReport {
            summary: "x".to_owned(),
            notes: None,
            issues: vec![draft; issues],
            comments: vec!["c".repeat(text); comments],
        };
        let text = serde_json::to_string(&report).unwrap();
        let checked = validate(Role::Code, text.as_bytes());
        assert!(checked.is_err() || parse(&checked.clone().unwrap()) == Some(report));
        checked.map_err(|problem| problem.to_string())
    };
    filed(ISSUES_LIMIT, TITLE_LIMIT, 9, COMMENTS_LIMIT).unwrap();
    filed(1, 1, TEXT_LIMIT, 4).unwrap();
    for (bad, says) in [
        (filed(11, 1, 1, 0), "`issues` has 11 entries; at most 10"),
        (filed(0, 1, 1, 6), "`comments` has 6 entries; at most 5"),
        (
            filed(1, TITLE_LIMIT + 1, 1, 0),
            "`issues[0].title` has 301 bytes; at most 300",
        ),
        (
            filed(1, 1, TEXT_LIMIT + 1, 0),
            "`issues[0].body` has 10241 bytes",
        ),
        (
            filed(0, 1, TEXT_LIMIT + 1, 1),
            "`comments[0]` has 10241 bytes",
        ),
    ] {
        let said = bad.unwrap_err();
        assert!(said.contains(says), "{said}");
    }
    let huge = vec![b' '; REPORT_LIMIT + 1];
    assert_eq!(
        validate(Role::Code, &huge).unwrap_err(),
        BadReport::TooLong {
            bytes: REPORT_LIMIT + 1
        }
    );
}

/// No token of anybody, put together here so that nobody takes this file for a leak.
fn token() -> String {
    format!("gh{}_{}", 'p', "aZ3kQ9xL7mB2vN8cT5rW1yH6jD4fS0gPqEuI")
}

#[test]
fn a_secret_is_refused_wherever_it_stands_and_told_without_it() {
    let token = token();
    let report = |text: &str| {
        let text = text.replace("TOKEN", &token);
        validate(Role::Code, text.as_bytes())
    };
    for (text, place, line) in [
        (r#"{"summary": "x\ny TOKEN"}"#, "summary", 2),
        (r#"{"summary": "x", "notes": "TOKEN"}"#, "notes", 1),
        (
            r#"{"summary": "x", "issues": [{"title": "TOKEN", "body": "b"}]}"#,
            "issues[0].title",
            1,
        ),
        (
            r#"{"summary": "x", "issues": [{"title": "a", "body": "\n\nTOKEN"}]}"#,
            "issues[0].body",
            3,
        ),
        (
            r#"{"summary": "x", "comments": ["a", "`TOKEN`"]}"#,
            "comments[1]",
            1,
        ),
    ] {
        let said = report(text).unwrap_err().to_string();
        let start = format!("`{place}` holds a secret in line {line} (no secret: github-pat).");
        assert!(said.starts_with(&start), "{said}");
        assert!(!said.contains(&token), "{said}");
    }
    assert!(report(r#"{"summary": "the token in .env"}"#).is_ok());
}

#[test]
fn what_goes_out_holds_no_secret() {
    let token = token();
    let pem = format!("-----BEGIN {}PRIVATE KEY-----", "RSA ");
    for (text, expected) in [
        (
            format!("a {token} @b {token}"),
            "a [secret removed: github-pat] `@b` [secret removed: github-pat]",
        ),
        (
            format!("a\n{pem}\nMIIE\n-----END RSA PRIVATE KEY-----\nb"),
            "a\n[secret removed: private-key]\nb",
        ),
        (
            format!("a\n{pem}\nMIIE"),
            "a\n[secret removed: private-key]",
        ),
    ] {
        assert_eq!(outgoing_text(&text), expected);
    }
}

#[test]
fn no_secret_of_a_line_hides_another() {
    let token = token();
    let stripe = format!("sk_{}_{}", "live", "4eC39HqLyjWDarjtT1zdp7dc");
    let webhook = "https://hooks.slack.com/services/";
    let webhook = format!(
        "{webhook}T0{0}/B0{0}/{1}",
        "A1B2C3D4", "aZ3kQ9xL7mB2vN8cT5rW1yH6"
    );
    let all = [&token, &stripe, &webhook];
    for (a, b, c) in [(0, 1, 0), (1, 0, 1), (0, 2, 1), (2, 1, 0), (1, 2, 1)] {
        let said = outgoing_text(&format!("{} {} {} end", all[a], all[b], all[c]));
        assert_eq!(said.matches("[secret removed: ").count(), 3, "{said}");
        assert!(!all.iter().any(|one| said.contains(*one)), "{said}");
        assert!(said.ends_with(" end"), "{said}");
    }
}

#[test]
fn checks_do_not_report() {
    let error = validate(Role::Check, CODE_EXAMPLE.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("exit code"), "{error}");
}
