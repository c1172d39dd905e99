//! A temporary repository with its factory.

use factory_core::{
    event::{EffectResult, Event, GrantFacts, Now},
    ids::{IssueNo, Oid, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::{Change, ContainerExit, Purpose},
    state::State,
    step::step,
};
use factory_ledger::{
    places::{Places, home_id},
    state::StateRepo,
};
use serde_json::Value;
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// What is filed in these tests: its escapes must not reach a terminal.
pub const HOSTILE: &str = "look:\u{1b}[31mred\u{9b}2J\u{202e}\nsecond line";
pub const CONFIG: &str = "engine: {command: [sh, agent.sh]}\nslots: 3\n";

pub struct Lab {
    pub dir: TempDir,
}

pub struct Out {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What a terminal would obey, or nobody would see. The list is not the program's own.
fn is_hidden(c: char) -> bool {
    let ranges = [
        '\u{0}'..='\u{8}',
        '\u{b}'..='\u{1f}',
        '\u{7f}'..='\u{9f}',
        '\u{ad}'..='\u{ad}',
        '\u{61c}'..='\u{61c}',
        '\u{115f}'..='\u{1160}',
        '\u{180b}'..='\u{180f}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{3164}'..='\u{3164}',
        '\u{fe00}'..='\u{fe0f}',
        '\u{feff}'..='\u{feff}',
        '\u{fff9}'..='\u{fffb}',
        '\u{e0000}'..='\u{e0fff}',
    ];
    ranges.iter().any(|range| range.contains(&c))
}

/// Nothing hidden is in what a command wrote.
#[track_caller]
pub fn assert_shown(what: &str, written: &str) {
    let hidden = written.chars().find(|c| is_hidden(*c));
    assert!(hidden.is_none(), "{what}: {hidden:?} in {written:?}");
}

impl Out {
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        &self.stdout
    }

    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        let text = self.ok();
        for word in words {
            assert!(
                text.contains(word),
                "no `{word}` in:\n{text}{}",
                self.stderr
            );
        }
    }

    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no `{word}` in:\n{}",
                self.stderr
            );
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap()
    }
}

impl Lab {
    pub fn new(config: &str) -> Self {
        let lab = Self {
            dir: TempDir::with_prefix("factory-commands-").unwrap(),
        };
        std::fs::create_dir(lab.dir.path().join("home")).unwrap();
        std::fs::create_dir(lab.repo()).unwrap();
        lab.git(&["init", "-q", "-b", "main"]);
        lab.git(&["config", "user.name", "Ann"]);
        lab.git(&["config", "user.email", "ann@example.invalid"]);
        if !config.is_empty() {
            std::fs::write(lab.repo().join("factory.yaml"), config).unwrap();
            lab.git(&["add", "."]);
        }
        lab.git(&["commit", "-q", "--allow-empty", "-m", "Start"]);
        lab
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path().join("home"))
            // No test may reach a container engine.
            .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
            .current_dir(self.repo());
        command
    }

    pub fn git(&self, args: &[&str]) -> String {
        let out = self.command("git").args(args).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub fn factory(&self, args: &[&str]) -> Out {
        self.factory_with(args, "")
    }

    pub fn factory_with(&self, args: &[&str], input: &str) -> Out {
        let mut child = self
            .command(env!("CARGO_BIN_EXE_factory"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads no input may have ended before.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let out = child.wait_with_output().unwrap();
        let out = Out {
            code: out.status.code().unwrap(),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        };
        // A patch is for `git apply`, to which every byte counts.
        if args.first() != Some(&"pr") || args.get(1) != Some(&"diff") {
            assert_shown(&format!("{args:?}"), &out.stdout);
        }
        assert_shown(&format!("{args:?}"), &out.stderr);
        out
    }

    pub fn ledger(&self) -> (Places, StateRepo, State, Oid) {
        let mut places = Places::discover(&self.repo()).unwrap();
        let store = StateRepo::open(&places).unwrap();
        let head = store.head().unwrap().unwrap();
        let state = State::decode(&store.read_live(&head).unwrap()).unwrap();
        let home = home_id(&state.meta.repository, &places.state_git()).unwrap();
        places.settle_sockets(&home).unwrap();
        (places, store, state, head)
    }

    /// Journals what a kernel would.
    pub fn journal(&self, event: Event) {
        let (_, store, state, head) = self.ledger();
        let made = step(&state, event, Now(1_795_226_401)).unwrap();
        store
            .commit(
                Some(&head),
                &made.delta.files(),
                &made.message(),
                1_795_226_401,
            )
            .unwrap();
    }

    pub fn tip(&self, rev: &str) -> Oid {
        self.git(&["rev-parse", rev]).parse().unwrap()
    }

    /// A commit on a work branch that adds `file`.
    pub fn work(&self, branch: &str, file: &str) -> Oid {
        self.git(&["checkout", "-q", "-B", branch, "main"]);
        std::fs::write(self.repo().join(file), "new\n\u{1b}[2Jline\n").unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", "Work"]);
        let commit = self.tip("HEAD");
        self.git(&["checkout", "-q", "main"]);
        commit
    }

    pub fn facts(&self) -> GrantFacts {
        GrantFacts {
            fresh_session: false,
            home: "01234567".to_owned(),
            start: self.tip("main"),
            merge_target: None,
            branch_tip: None,
            intent: self.tip("main"),
            image: "sha256:0".to_owned(),
        }
    }

    pub fn grant(&self, issue: u64) -> RunId {
        self.journal(Event::RunGranted {
            job: IssueNo(issue),
            purpose: Purpose::Code,
            slot: 0,
            facts: self.facts(),
        });
        let (_, _, state, _) = self.ledger();
        let run = *state.runs.keys().next_back().unwrap();
        self.journal(Event::RunRunning { run });
        run
    }

    /// Takes an approved issue to its open pull request.
    pub fn propose(&self, issue: u64, commit: &Oid) -> RunId {
        let run = self.grant(issue);
        let usage = Usage {
            model: "m".to_owned(),
            status: 200,
            input_tokens: 10,
            output_tokens: 5,
            ..Usage::default()
        };
        let end = RunEnd {
            exit: EngineExit::Code(0),
            last_output: format!("all done {HOSTILE}"),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        };
        let old = Oid::zero();
        let new = commit.clone();
        let json = r#"{"summary":"I did it."}"#.to_owned();
        let entries = [
            InboxEntry::Usage(usage),
            InboxEntry::Push { old, new },
            InboxEntry::Report { json },
            InboxEntry::End(end),
        ];
        self.journal(Event::Inbox {
            run,
            entries: entries.map(|entry| (commit.clone(), entry)).to_vec(),
        });
        let exit = Some(ContainerExit {
            code: 0,
            oom: false,
        });
        self.journal(Event::ContainerEnded { run, exit });
        self.journal(Event::RunCollected { run });
        self.opened(run, commit);
        run
    }

    /// The branch of a run's job is moved to what it pushed, and its pull request opens:
    /// nobody checks or reviews here.
    pub fn opened(&self, run: RunId, commit: &Oid) {
        let (_, _, state, _) = self.ledger();
        let mut config = state.config.config.clone();
        for tier in [
            &mut config.tiers.low,
            &mut config.tiers.medium,
            &mut config.tiers.high,
        ] {
            tier.review = Some(false);
        }
        if config != state.config.config {
            self.journal(Event::ConfigLoaded {
                commit: None,
                config: Box::new(config),
            });
        }
        self.journal(Event::EffectDone {
            key: format!("branch-{run}"),
            result: EffectResult::Moved {
                change: Change::default(),
            },
        });
        self.journal(Event::Compared {
            job: run.job,
            commit: commit.clone(),
            conflicts: Vec::new(),
        });
    }
}
