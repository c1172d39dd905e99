//! What a configuration file may say, and what is said of one that is wrong.

use super::*;

#[test]
fn empty_is_default_and_default_round_trips() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    assert_eq!(
        Config::parse("# only a comment\n").unwrap(),
        Config::default()
    );
    let text = serde_saphyr::to_string(&Config::default()).unwrap();
    assert_eq!(Config::parse(&text).unwrap(), Config::default(), "{text}");
}

#[test]
fn the_documented_shapes_parse() {
    let config = Config::parse(
        "version: 1\nslots: 8\nforge: local\nengine: {command: [\"sh\", \"./agent.sh\"]}\n\
         models: {anthropic: {base_url: \"https://example.org\", key_env: TEAM_API_KEY}}\n\
         image: {base: \"debian:bookworm-slim\", packages: [python3]}\nchecks: [\"make test\"]\n\
         gates: {issues: auto, merge: human}\nrounds: 3\nruntime: io.containerd.runc.v2\n\
         limits: {memory: 1GiB, cpus: 1.5, pids: 100, disk: 2GiB, wall: 10m}\nbudget: {per_run: {usd: 2.5}}\nbranch_prefix: bots/a\n",
    )
    .unwrap();
    assert_eq!(config.slots, Slots::Fixed(8));
    assert_eq!(config.runtime.as_deref(), Some("io.containerd.runc.v2"));
    assert_eq!(
        config.engine,
        EngineKind::Command(vec!["sh".into(), "./agent.sh".into()])
    );
    assert_eq!(
        config.limits,
        Limits {
            memory: Bytes(1 << 30),
            cpus: Milli(1500),
            pids: 100,
            disk: Bytes(2 << 30),
            wall: Seconds(600),
            stall: Seconds(600)
        }
    );
    assert_eq!(config.budget.per_run.usd, Some(Milli(2500)));
    let text = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(Config::parse(&text).unwrap(), config, "{text}");
}

#[test]
fn what_agents_file_in_a_day_is_limited_also_where_nobody_says_how() {
    let per_day = |text: &str| {
        let config = Config::parse(text).unwrap();
        let again = serde_saphyr::to_string(&config).unwrap();
        assert_eq!(Config::parse(&again).unwrap(), config, "{again}");
        let PerDay {
            issues, comments, ..
        } = config.types.worker.per_day;
        (issues, comments)
    };
    assert_eq!(per_day(""), (20, 50));
    assert_eq!(per_day("types: {worker: {per_day: {issues: 0}}}"), (0, 50));
    let both = "types: {worker: {per_day: {issues: 1000, comments: 0}}}";
    assert_eq!(per_day(both), (1000, 0));
}

#[test]
fn a_budget_in_tokens_needs_no_price() {
    for text in [
        "engine: codex\nmodel: house-model\n",
        "engine: codex\nmodel: house-model\nbudget: {per_run: {tokens: 5}, per_day: {tokens: 50}}\n",
        "engine: codex\nmodel: house-model\nprices: {house-model: {input: 1, output: 2.5}}\nbudget: {per_day: {usd: 5}}\n",
        "engine: {command: [sh]}\nbudget: {per_day: {usd: 5}}\n",
    ] {
        let config = Config::parse(text).unwrap();
        let again = serde_saphyr::to_string(&config).unwrap();
        assert_eq!(Config::parse(&again).unwrap(), config, "{again}");
    }
}

#[test]
fn errors_name_line_and_next_step() {
    for (text, line, what, help) in [
        (
            "slots: 2\nslot: 3\n",
            2,
            "unknown key `slot`",
            "did you mean `slots`?",
        ),
        (
            "gates:\n  merge: robot\n",
            2,
            "`robot` is not a value here",
            "known here: human, auto",
        ),
        (
            "limits: {wall: 45}\n",
            1,
            "`45` is not a length of time",
            "write a length of time",
        ),
        ("slots: 0\n", 1, "slots must be from 1", "write a number"),
        (
            "slots: 1\ntiers: {low: {rounds: 0}}\n",
            0,
            "tiers.low.rounds is 0",
            "from 1 to 100",
        ),
        (
            "slots: 1\ntiers: {high: {limits: {memory: 1MiB}}}\n",
            2,
            "memory is 1MiB",
            "at least 64MiB",
        ),
        (
            "tiers: {lo: {}}\n",
            1,
            "unknown key `lo`",
            "did you mean `low`?",
        ),
        (
            "stages: {review: {engin: codex}}\n",
            1,
            "unknown key `engin`",
            "did you mean `engine`?",
        ),
        (
            "auto_merge: {min_confidence: 2}\n",
            1,
            "`2` is not a number from 0 to 1",
            "0.9",
        ),
        (
            "models: {anthropic: {}}\nstages: {review: {engine: codex}}\n",
            1,
            "engine `codex` calls models over the API `responses`",
            "openai: {key_env: OPENAI_API_KEY}",
        ),
        (
            "budget: {per_run: {usd: 6}}\nstages: {review: {model: house-model}}\n",
            0,
            "no price of the model `house-model` is known",
            "prices: {\"house-model\":",
        ),
        (
            "rounds: 2\nbranch_prefix: \"a b\"\n",
            2,
            "cannot begin a branch name",
            "letters",
        ),
        (
            "models:\n  anthropic: {base_url: \"http://example.org\"}\n",
            0,
            "would show the key",
            "https",
        ),
        (
            "models: {anthropic: {base_url: \"https://x\", key_env: SECRET_TOKEN}}\n",
            0,
            "does not end in _API_KEY",
            "_API_KEY",
        ),
        (
            "slots: 2\nengine: codecs\n",
            2,
            "`codecs` is not a value here",
            "did you mean `codex`?",
        ),
        (
            "engine: {comand: [sh]}\n",
            1,
            "unknown key `comand`",
            "did you mean `command`?",
        ),
        (
            "models: {opnai: {}}\n",
            1,
            "`opnai` is not a value here",
            "did you mean `openai`?",
        ),
        (
            "engine: codex\nmodels: {anthropic: {key_env: TEAM_API_KEY}}\n",
            2,
            "engine `codex` calls models over the API `responses` of openai, and `models` names no provider of it, only anthropic",
            "openai: {key_env: OPENAI_API_KEY}",
        ),
        (
            "models: {openai: [{key_env: A_API_KEY}, {base_url: \"http://example.org/v1\"}]}\n",
            0,
            "would show the key",
            "https",
        ),
        (
            "models: {anthropic: []}\n",
            0,
            "list of providers is empty",
            "",
        ),
        (
            "image: {dockerfile: \"../Dockerfile\"}\n",
            0,
            "leads out of the repository",
            "relative to its top",
        ),
        (
            "image: {base: x, dockerfile: Dockerfile}\n",
            0,
            "names both a base and a dockerfile",
            "one of them",
        ),
        (
            "slots: 2\nbudget: {per_day: {usd: -5}}\n",
            2,
            "`-5` is not a positive number",
            "for example `usd: 2.5`",
        ),
        (
            "budget: {per_day: {tokens: -5}}\n",
            1,
            "",
            "budget: {per_run",
        ),
        (
            "engine: codex\nmodel: house-model\nbudget: {per_day: {usd: 5}}\n",
            3,
            "budget.per_run is in dollars, and no price of the model `house-model` is known",
            "prices: {\"house-model\":",
        ),
        ("prices: {m: {input: 3}}\n", 1, "", ""),
        ("checks: [\n", 0, "", ""),
        (
            "slots: 1\nlimits: {wall: 5000000000000000h}\n",
            2,
            "wall is 5000000000000000h",
            "at most 720h",
        ),
        (
            "limits: {cpus: 0.001}\n",
            1,
            "cpus is 0.001",
            "at least 0.01",
        ),
        (
            "slots: 1\nlimits: {disk: 1MiB}\n",
            2,
            "disk is 1MiB",
            "at least 64MiB",
        ),
        (
            "slots: 1\nruntime: \"../runsc\"\n",
            2,
            "runtime `../runsc` is not the name of a runtime",
            "for example `runtime: runsc`",
        ),
        (
            "runtime: [runsc]\n",
            1,
            "`[runsc]` is not a value of `runtime`",
            "that `docker info` lists",
        ),
        (
            "limits: {disk: lots}\n",
            1,
            "`lots` is not an amount",
            "for example `disk: 10GiB`",
        ),
        (
            "types: {worker: {max: 0}}\n",
            1,
            "types.worker.max is 0: nothing could be worked on",
            "1 or more",
        ),
        (
            "slots: 2\ntypes: {sensor: {min: 1}, adversary: {min: 1}}\n",
            2,
            "the types reserve all 2 slots, and none for workers",
            "lower a min",
        ),
        (
            "types: {worker: {per_day: {pull_requests: 0}}}\n",
            1,
            "types.worker.per_day.pull_requests is 0: nothing could be worked on",
            "1 or more",
        ),
        (
            "slots: 2\ntypes:\n  worker: {min: 3, max: 2}\n",
            3,
            "types.worker.min is 3, above its max of 2",
            "a min of at most 2",
        ),
        (
            "slots: 2\ntypes:\n  sensor:\n    max: 3\n",
            3,
            "types.sensor.max is 3, and there are 2 slots",
            "at most 2",
        ),
        (
            "types: {worker: {min: 2}, sensor: {min: 1}}\nslots: 2\n",
            1,
            "the types reserve 3 slots together, and there are 2",
            "raise `slots`",
        ),
        (
            "types: {workr: {min: 2}}\n",
            1,
            "unknown key `workr`",
            "did you mean `worker`?",
        ),
        (
            "types: {worker: {max: -1}}\n",
            1,
            "`-1` is not a value of `max`",
            "0 or more",
        ),
        (
            "types: {worker: {per_day: {prs: 1}}}\n",
            1,
            "unknown key `prs`",
            "pull_requests",
        ),
        (
            "types: {worker: {per_day: 5}}\n",
            1,
            "`5` is not a value of `per_day`",
            "for example `types: {worker: {",
        ),
        (
            "types:\n  worker:\n    min: 1\n\n    per_day: many\n",
            5,
            "`many` is not a value of `per_day`",
            "for example `types: {worker: {",
        ),
        (
            "types: {worker: {min: 1}}\nbudget: {per_day: 5}\n",
            2,
            "`5` is not a value of `per_day`",
            "for example `budget: {",
        ),
        (
            "{types: {worker: {min: 1}}, budget: {per_day: 5}}\n",
            1,
            "`5` is not a value of `per_day`",
            "for example `budget: {",
        ),
        (
            "types: {worker: {per_day: {issues: -1}}}\n",
            1,
            "`-1` is not a value of `issues`",
            "a whole number, 0 or more",
        ),
        (
            "slots: 2\ntypes:\n  worker:\n    per_day:\n      comments: 1.5\n",
            5,
            "`1.5` is not a value of `comments`",
            "a whole number, 0 or more",
        ),
        (
            "types: {worker: {per_day: {comments: 99999999999}}}\n",
            1,
            "`99999999999` is not a value of `comments`",
            "a whole number",
        ),
        (
            "slots: 2\ntypes:\n  worker: {per_day: {issues: 1001}}\n",
            3,
            "types.worker.per_day.issues is 1001",
            "at most 1000",
        ),
        (
            "types: {worker: {per_day: {isues: 1}}}\n",
            1,
            "unknown key `isues`",
            "did you mean `issues`?",
        ),
        (
            "gates: {issues: [1]}\n",
            1,
            "`[1]` is not a value of `issues`",
            "`human` or `auto`",
        ),
        (
            "protected:\n  - deploy/**\n  - \"a[\"\n",
            2,
            "the glob `a[` is wrong: unclosed character class",
            "a list of globs",
        ),
        (
            "protected: deploy\n",
            1,
            "`deploy` is not a value of `protected`",
            "a list of globs",
        ),
        (
            "secrets: {allow: [tests]}\n",
            1,
            "unknown key `allow`",
            "known here: allow_in",
        ),
        (
            "secrets: {allow_in: [\"!a\"]}\n",
            1,
            "the glob `!a` begins with `!`",
            "`secrets: {allow_in:",
        ),
        (
            "types: {sensor: {per_day: {pull_requests: 1}}}\n",
            1,
            "unknown key `per_day`",
            "known here: min, max",
        ),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(line == 0 || error.line == line, "{text}: {error:?}");
        assert!(
            error.what.contains(what) && error.help.contains(help),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn what_decides_over_the_work_is_protected_by_default() {
    let config = Config::default();
    for (path, glob) in [
        (".github/workflows/ci.yml", Some(".github/workflows/**")),
        ("factory.yaml", Some("factory.yaml")),
        ("principles/0001-a.md", Some("principles/**")),
        ("prohibitions/0001-a.md", Some("prohibitions/**")),
        ("intent/a.md", Some("intent/**")),
        ("postmortems/0001-a.md", Some("postmortems/**")),
        ("docs/CLAUDE.md", Some("CLAUDE.md")),
        (".claude/settings.json", Some(".claude/**")),
        (".factory/agents/judge.md", Some(".factory/agents/**")),
        ("src/a.rs", None),
    ] {
        assert_eq!(
            config.protected.first_match(path.as_bytes()),
            glob,
            "{path}"
        );
    }
    let none = Config::parse("protected: []\n").unwrap();
    assert!(none.protected.is_empty());
}
