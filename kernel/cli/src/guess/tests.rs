//! What is guessed from realistic files, and from hostile ones.

use super::*;
use factory_core::config::Config;
use std::collections::BTreeMap;

const TEMPLATE: &str = include_str!("../intent_templates/factory.yaml");

fn tree(files: &[(&str, &str)]) -> Tree {
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (*path, text.as_bytes()))
        .collect();
    tree_of_bytes(&files)
}

/// As `init` makes one from a commit.
fn tree_of_bytes(files: &[(&str, &[u8])]) -> Tree {
    let sizes = files
        .iter()
        .map(|(path, bytes)| (*path, bytes.len() as u64));
    let (names, skipped) = wanted(sizes);
    let contents = files
        .iter()
        .filter(|(path, _)| names.iter().any(|name| name == path))
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()));
    let contents: BTreeMap<_, _> = contents.collect();
    Tree::new(
        files.iter().map(|(path, _)| (*path).to_owned()),
        contents,
        skipped,
    )
}

const CARGO: &str =
    "[package]\nname = \"fd\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\n[dependencies]\n";
const LOCK: &str = "version = 3\n\n[[package]]\nname = \"fd\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"libc\"\n\
                    version = \"0.2.1\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
const VENDORED: &str = "[source.crates-io]\nreplace-with = \"vendored-sources\"\n[source.vendored-sources]\ndirectory = \"vendor\"\n";
const PYPROJECT: &str =
    "[project]\nname = \"x\"\ndependencies = []\n[tool.pytest.ini_options]\naddopts = \"-q\"\n";
const PACKAGE: &str =
    "{\n  \"name\": \"x\",\n  \"scripts\": {\n    \"test\": \"node --test\"\n  }\n}\n";
const JEST: &str = "{\"scripts\": {\"test\": \"jest\"}, \"devDependencies\": {\"jest\": \"29\"}}";
const MAKEFILE: &str = "CFLAGS := -O2\n.PHONY: all test\nall: x\n\nx: x.c\n\t$(CC) -o $@ $<\n\ntest: x\n\t./x --self-test\n";
const WORKFLOW: &str = "on: [push]\njobs:\n  test:\n    strategy:\n      matrix: {os: [ubuntu-latest]}\n    \
                        runs-on: ${{ matrix.os }}\n    steps:\n      - uses: actions/checkout@v4\n      \
                        - run: cargo clippy -- -D warnings\n      - run: |\n          cargo build\n          \
                        cargo test --all-features\n";

/// Files, the check with its packages, what it lacks, what else is found.
type Row<'a> = (
    &'a str,
    &'a [(&'a str, &'a str)],
    Option<&'a str>,
    &'a [&'a str],
    &'a [&'a str],
    &'a [&'a str],
);

#[test]
fn usual_repositories() {
    let rows: &[Row] = &[
        ("nothing known", &[("README", "")], None, &[], &[], &[]),
        (
            "a crate without dependencies",
            &[("Cargo.toml", CARGO)],
            Some("cargo test --offline"),
            &["cargo"],
            &[],
            &[],
        ),
        (
            "a crate with a dependency",
            &[("Cargo.toml", CARGO), ("Cargo.lock", LOCK)],
            Some("cargo test --offline"),
            &["cargo"],
            &["without a network (libc): run `cargo vendor`"],
            &[],
        ),
        (
            "the same, vendored",
            &[
                ("Cargo.toml", CARGO),
                ("Cargo.lock", LOCK),
                (".cargo/config.toml", VENDORED),
            ],
            Some("cargo test --offline"),
            &["cargo"],
            &[],
            &[],
        ),
        (
            "dependencies without a lock file",
            &[(
                "Cargo.toml",
                "[workspace]\nmembers = [\"a\"]\n[package]\nname = \"x\"\n[dependencies]\nserde = \"1\"\nown = {path = \"a\"}\n",
            )],
            Some("cargo test --offline --workspace"),
            &["cargo"],
            &["(serde)"],
            &[],
        ),
        (
            "a new edition",
            &[(
                "Cargo.toml",
                "[package]\nname = \"x\"\nedition = \"2024\"\n",
            )],
            Some("cargo test --offline"),
            &["cargo"],
            &["edition 2024 in Cargo.toml needs Rust 1.85"],
            &[],
        ),
        (
            "CI beside a crate",
            &[
                ("Cargo.toml", CARGO),
                (".github/workflows/ci.yml", WORKFLOW),
            ],
            Some("cargo test --offline"),
            &["cargo"],
            &[],
            &["cargo clippy -- -D warnings", "cargo test --all-features"],
        ),
        (
            "a Go module",
            &[("go.mod", "// x\nmodule example.org/x\n\ngo 1.19\n")],
            Some("go test ./..."),
            &["golang-go"],
            &[],
            &[],
        ),
        (
            "a Go module with modules",
            &[(
                "go.mod",
                "module example.org/x\ngo 1.22\nrequire (\n\tgolang.org/x/text v0.3.0 // indirect\n)\nrequire a.example/b v1.0.0\n",
            )],
            Some("go test ./..."),
            &["golang-go"],
            &[
                "(a.example/b, golang.org/x/text): run `go mod vendor`",
                "go.mod is for Go 1.22",
            ],
            &[],
        ),
        (
            "pytest by its settings",
            &[
                ("pyproject.toml", PYPROJECT),
                ("src/x/__init__.py", ""),
                ("tests/test_x.py", ""),
            ],
            Some("PYTHONPATH=src python3 -m pytest"),
            &["python3", "python3-pytest"],
            &[],
            &[],
        ),
        (
            "pytest in a setup.py, and requirements",
            &[
                ("setup.py", "setup(extras_require={'dev': ['pytest']})"),
                (
                    "requirements.txt",
                    "# ours\nRequests>=2 ; python_version < '4'\n-r other.txt\n",
                ),
                ("x/__init__.py", ""),
                ("x/test_x.py", ""),
            ],
            Some("python3 -m pytest"),
            &["python3", "python3-pytest"],
            &["without a network (requests)"],
            &[],
        ),
        (
            "tests of pytest's kind that nothing else names",
            &[
                ("setup.cfg", "[options]\n"),
                ("tests/test_x.py", "def test_x():\n    pass\n"),
            ],
            Some("python3 -m pytest"),
            &["python3", "python3-pytest"],
            &[],
            &[],
        ),
        (
            "unittest",
            &[("setup.py", ""), ("tests/test_x.py", "import unittest\n")],
            Some("python3 -m unittest discover -s tests"),
            &["python3"],
            &[],
            &[],
        ),
        (
            "unittest in a package",
            &[
                ("tests/__init__.py", ""),
                ("tests/test_x.py", "import unittest\n"),
            ],
            Some("python3 -m unittest discover"),
            &["python3"],
            &[],
            &[],
        ),
        (
            "Python without tests",
            &[("setup.py", "pytest"), ("x.py", "")],
            None,
            &[],
            &[],
            &[],
        ),
        (
            "Python of tomorrow",
            &[
                (
                    "pyproject.toml",
                    "[project]\nrequires-python = \">=3.13\"\n",
                ),
                ("test_x.py", "import unittest\n"),
            ],
            Some("python3 -m unittest discover"),
            &["python3"],
            &["requires-python in pyproject.toml is 3.13"],
            &[],
        ),
        (
            "node's own test runner",
            &[("package.json", PACKAGE)],
            Some("node --test"),
            &["nodejs"],
            &[],
            &[],
        ),
        (
            "jest",
            &[("package.json", JEST)],
            Some("npm test"),
            &["nodejs", "npm"],
            &["node_modules is not in the repository"],
            &[],
        ),
        (
            "what npm init leaves",
            &[(
                "package.json",
                "{\"scripts\": {\"test\": \"echo \\\"Error: no test specified\\\" && exit 1\"}}",
            )],
            None,
            &[],
            &[],
            &[],
        ),
        (
            "make and C",
            &[("Makefile", MAKEFILE), ("x.c", "")],
            Some("make test"),
            &["build-essential", "make"],
            &[],
            &[],
        ),
        (
            "make around cargo, with both usual names",
            &[
                (
                    "Makefile",
                    "test check: lint\n\tcargo test\nlint:\n\tshellcheck x\n",
                ),
                ("Cargo.toml", CARGO),
            ],
            Some("make test"),
            &["cargo", "make", "shellcheck"],
            &[],
            &["make check", "cargo test --offline"],
        ),
        (
            "make around cargo by a variable",
            &[
                (
                    "Makefile",
                    "CARGO ?= cargo\ntest:\n\t$(CARGO) test ${MORE}\n",
                ),
                ("Cargo.toml", CARGO),
                ("Cargo.lock", LOCK),
            ],
            Some("make test"),
            &["cargo", "make"],
            &["run `cargo vendor`"],
            &["cargo test --offline"],
        ),
        (
            "a target that needs a network gives way",
            &[
                ("Makefile", "test:\n\tdocker compose run test\n"),
                ("Cargo.toml", CARGO),
            ],
            Some("cargo test --offline"),
            &["cargo"],
            &[],
            &["make test"],
        ),
        (
            "no target",
            &[("Makefile", "test := x\nattest:\n\ttrue\n")],
            None,
            &[],
            &[],
            &[],
        ),
        (
            "what lacks nothing comes first",
            &[
                ("Cargo.toml", CARGO),
                ("Cargo.lock", LOCK),
                ("package.json", PACKAGE),
            ],
            Some("node --test"),
            &["nodejs"],
            &[],
            &["cargo test --offline"],
        ),
        (
            "GitLab alone",
            &[(
                ".gitlab-ci.yml",
                "stages: [test]\nunit:\n  script:\n    - pip install x\n    - pytest -q tests\n",
            )],
            Some("pytest -q tests"),
            &["python3", "python3-pytest"],
            &[],
            &[],
        ),
        (
            "a script",
            &[("test.sh", "")],
            Some("bash ./test.sh"),
            &[],
            &[],
            &[],
        ),
    ];
    for (name, files, check, packages, lacks, others) in rows {
        let guessed = guess(&tree(files));
        let found = guessed.check.clone();
        assert_eq!(found.as_ref().map(|c| c.command.as_str()), *check, "{name}");
        let found = found.unwrap_or_else(|| Candidate::new("", String::new(), &[]));
        let needs: Vec<_> = found.packages.iter().copied().collect();
        assert_eq!(needs, *packages, "{name}");
        assert_eq!(found.lacks.len(), lacks.len(), "{name}: {:?}", found.lacks);
        for part in *lacks {
            assert!(
                found.lacks.iter().any(|lack| lack.contains(part)),
                "{name}: {part}: {:?}",
                found.lacks
            );
        }
        let also: Vec<_> = guessed
            .others
            .iter()
            .map(|other| other.command.as_str())
            .collect();
        assert_eq!(also, *others, "{name}");
        assert_eq!(guessed.skipped, [""; 0], "{name}");

        // It is read back as it was meant.
        let text = fill(TEMPLATE, &guessed);
        let config = Config::parse(&text).unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"));
        let checks: Vec<_> = config.checks.iter().map(String::as_str).collect();
        assert_eq!(checks, Vec::from_iter(*check), "{name}");
        let written: Vec<_> = config.image.packages.iter().map(String::as_str).collect();
        assert_eq!(written, *packages, "{name}");
        for because in guessed
            .check
            .iter()
            .chain(&guessed.others)
            .map(|c| &c.because)
        {
            assert!(
                text.contains(because.as_str()),
                "{name}: {because} is not in\n{text}"
            );
            assert!(
                told(&guessed).join("\n").contains(because.as_str()),
                "{name}"
            );
        }
    }
}

#[test]
fn reasons_name_file_and_line() {
    let reason = |files: &[(&str, &str)]| guess(&tree(files)).check.map(|check| check.because);
    let rows: &[(&[(&str, &str)], &str)] = &[
        (
            &[("Cargo.toml", "# ours\n[package]\nname = \"x\"\n")],
            "Cargo.toml:2: a Rust package",
        ),
        (&[("go.mod", "\nmodule x\n")], "go.mod:2: a Go module"),
        (
            &[("package.json", PACKAGE)],
            "package.json:4: its test script is `node --test`",
        ),
        (&[("Makefile", MAKEFILE)], "Makefile:8: the target `test`"),
        (
            &[(".gitlab-ci.yml", "a:\n  script: pytest\n")],
            ".gitlab-ci.yml:2: CI runs it",
        ),
        (
            &[("pyproject.toml", PYPROJECT), ("test_x.py", "")],
            "pyproject.toml:4: settings of pytest",
        ),
    ];
    for (files, because) in rows {
        assert_eq!(reason(files).as_deref(), Some(*because));
    }
}

#[test]
fn hostile_files_are_passed_over_with_a_word() {
    let huge = vec![b'#'; (1 << 20) + 1];
    let deep = "[".repeat(100_000);
    let anchors = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n";
    let rows: &[(&str, &[u8], &str)] = &[
        (
            "Cargo.toml",
            &huge,
            "Cargo.toml: 1048577 bytes are too many",
        ),
        (
            "Cargo.toml",
            b"\xff\xfe[package]",
            "Cargo.toml: not UTF-8 text",
        ),
        (
            "Cargo.toml",
            b"[package]\nname = \n",
            "Cargo.toml:2: no TOML",
        ),
        ("Cargo.toml", b"[package", "Cargo.toml:1: no TOML"),
        (
            "package.json",
            b"{\n\"scripts\": ,\n}",
            "package.json:2: no JSON",
        ),
        ("package.json", deep.as_bytes(), "package.json:1: no JSON"),
        ("go.mod", b"go 1.19\n", "go.mod: names no module"),
        (
            ".github/workflows/a.yml",
            b"jobs:\n  a: [\n",
            ".github/workflows/a.yml:",
        ),
        (
            ".github/workflows/a.yml",
            deep.as_bytes(),
            ".github/workflows/a.yml:",
        ),
        (".gitlab-ci.yml", b"a: {b\n", ".gitlab-ci.yml:"),
    ];
    for (path, bytes, part) in rows {
        // What else is there counts all the same.
        let guessed = guess(&tree_of_bytes(&[(path, bytes), ("test.sh", b"")]));
        assert_eq!(guessed.skipped.len(), 1, "{path} {part}: {guessed:?}");
        assert!(
            guessed.skipped[0].starts_with(part),
            "{part}: {:?}",
            guessed.skipped
        );
        assert!(told(&guessed).join("\n").contains(part), "{part}");
        assert_eq!(
            guessed.check.map(|c| c.command).as_deref(),
            Some("bash ./test.sh"),
            "{path}"
        );
    }
    // Strange, but readable: nothing is guessed from it, and nothing breaks.
    let strange: &[(&str, &str)] = &[
        ("package.json", "[1]"),
        ("package.json", "{\"scripts\": \"test\"}"),
        (
            "Cargo.toml",
            "package = 1\nworkspace = []\ndependencies = 3\ntarget = [1]\n",
        ),
        ("Makefile", "\ttest\n:::\n=:\n\t\n"),
        (".gitlab-ci.yml", anchors),
        (".github/workflows/a.yml", "on: push\n"),
    ];
    for (path, text) in strange {
        let guessed = guess(&tree(&[(path, text)]));
        let text = fill(TEMPLATE, &guessed);
        assert!(Config::parse(&text).is_ok(), "{path}: {text}");
    }
}

#[test]
fn what_a_repository_says_stays_in_its_place() {
    let package =
        "{\"scripts\": {\"test\": \"node x.js \\\"#\\u0007\\u001b[2J\\\"\\nrounds: 99\"}}";
    let workflow = "jobs:\n  a:\n    steps:\n      - run: \"pytest \\\"a: b\\\" # 'x'\"\n      - run: \"pytest \\e[2J\"\n";
    let files = [
        ("package.json", package),
        (".github/workflows/a.yml", workflow),
    ];
    let guessed = guess(&tree(&files));
    let text = fill(TEMPLATE, &guessed);
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.rounds, 5, "{text}");
    assert_eq!(config.checks, ["pytest \"a: b\" # 'x'"], "{text}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text}"
    );
}

#[test]
fn only_a_few_files_are_looked_into() {
    let names: Vec<String> = (0..1000).map(|n| format!("test_{n}.py")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let (looked_into, _) = wanted(files);
    assert_eq!(looked_into.len(), 3);
    assert!(
        wanted([("vendor/x/test_a.py", 1), ("sub/Cargo.toml", 1)])
            .0
            .is_empty()
    );
}
