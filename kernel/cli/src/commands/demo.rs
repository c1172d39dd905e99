//! `factory demo`: the real loop in a temporary repository, with a scripted model.

use crate::{
    failure::{Class, Failure, INTERRUPTED},
    views,
};
use factory_testkit::{provider::Provider, scenario::Scenario};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The sample repository.
const FILES: [(&str, &str); 3] = [
    ("README.md", include_str!("../../demo/repo/README.md")),
    ("duration.sh", include_str!("../../demo/repo/duration.sh")),
    ("test.sh", include_str!("../../demo/repo/test.sh")),
];
/// The issue: its title as a heading, then its text.
const ISSUE: &str = include_str!("../../demo/issue.md");
/// What the model is made to say.
const SCENARIO: &str = include_str!("../../demo/scenario.yaml");
/// Where the gateway finds the model's key.
const KEY: &str = "FACTORY_DEMO_API_KEY";

/// `factory demo`.
pub fn run(options: crate::args::Demo) -> Result<ExitCode, Failure> {
    // An interrupt ends the child in the foreground; what it leaves is removed here.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let dir = tempfile::Builder::new()
        .prefix("factory-demo-")
        .tempdir()
        .map_err(|e| {
            Failure::of(Class::Internal, e)
                .help("set TMPDIR to a directory that can be written, with some 100 MB free")
        })?;
    let model = Model::start()?;
    let demo = Demo {
        repo: dir.path().join("duration"),
        interrupted,
    };
    let ended = demo.play(&model.base_url);
    drop(model);
    end(dir, &demo.repo, options.keep)?;
    let code = ended?;
    if code == 0 {
        how_to_go_on()?;
    }
    Ok(ExitCode::from(code))
}

/// Removes the temporary repository, or says where it is.
fn end(dir: TempDir, repo: &Path, keep: bool) -> Result<(), Failure> {
    if keep {
        let kept = dir.keep();
        return say(&format!(
            "\nThe repository is kept: {}\nTo remove it: rm -r {}",
            repo.display(),
            kept.display()
        ));
    }
    let path = dir.path().to_owned();
    dir.close().map_err(|e| {
        Failure::of(Class::Internal, e)
            .help(format!("remove it yourself: rm -r {}", path.display()))
    })?;
    say(
        "\nThe temporary repository is removed; no container or process is left. The image stays for next time.",
    )
}

fn how_to_go_on() -> Result<(), Failure> {
    say("
Now with a real model, in a repository of yours:

    export ANTHROPIC_API_KEY=...       # or OPENAI_API_KEY; no agent ever sees it
    factory init                       # writes factory.yaml and the intent layer: look at them
    git commit -m \"Add factory\"        # what is committed counts
    factory doctor                     # says what is missing, and what mends it
    factory issue new --title \"...\"    # then: factory issue approve 1
    factory start                      # then: factory pr list, factory pr merge 1")
}

/// The sample repository and what is done in it.
struct Demo {
    repo: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    /// The whole story; gives the exit code of its first step that failed.
    fn play(&self, base_url: &str) -> Result<u8, Failure> {
        say(&format!(
            "This is a demonstration in a temporary repository, {}.

The MODEL IS SCRIPTED: what it says was written beforehand and comes from this very
program, so no key and no account is needed. All else is real: Claude Code runs in
a container without network and without any key, edits, tests, commits and pushes;
the checks run in another container, the review in a third; git does the merge.
The first time, the image that agents run in has to be built.",
            self.repo.display()
        ))?;
        self.make_repository(base_url)?;
        let (title, body) = ISSUE
            .strip_prefix("# ")
            .and_then(|text| text.split_once('\n'))
            .unwrap_or((ISSUE, ""));
        let steps: [(&str, &[&str]); 5] = [
            (
                "A person files an issue, and says that it shall be built.",
                &["issue", "new", "--title", title, "--body", body.trim()],
            ),
            ("", &["issue", "approve", "1"]),
            (
                "The factory works until only a person can go on.",
                &["start", "--until-idle"],
            ),
            (
                "There is a pull request now: its checks passed, and another agent reviewed it. A person reads it, and merges it.",
                &["pr", "show", "1"],
            ),
            ("", &["pr", "merge", "1"]),
        ];
        for (why, args) in steps {
            if !why.is_empty() {
                say(&format!("\n== {why}"))?;
            }
            let code = self.factory(args)?;
            if self.interrupted.load(Ordering::Relaxed) {
                return Ok(INTERRUPTED);
            }
            if code != 0 {
                views::aside(&format!(
                    "\nThe demonstration ends here: `factory {}` ended with exit code {code}.",
                    args[0]
                ));
                return Ok(code);
            }
        }
        say("\n== What it comes to, in git:")?;
        self.show_git(&["log", "--graph", "--format=%h %an: %s"])?;
        self.show_git(&["diff", "HEAD^", "HEAD"])?;
        Ok(0)
    }

    fn make_repository(&self, base_url: &str) -> Result<(), Failure> {
        std::fs::create_dir(&self.repo)?;
        let config = format!(
            "engine: claude\nchecks: [\"sh test.sh\"]\nmodels:\n  anthropic: {{base_url: \"{base_url}\", key_env: {KEY}}}\n"
        );
        let config = ("factory.yaml", config.as_str());
        for (name, text) in FILES.into_iter().chain([config]) {
            std::fs::write(self.repo.join(name), text)?;
        }
        self.git(&["init", "--quiet", "--initial-branch=main"])?;
        self.git(&["config", "user.name", "Demo"])?;
        self.git(&["config", "user.email", "demo@example.org"])?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", "Print durations"])
    }

    /// Git in the sample repository, whatever the user's own git is set to do.
    fn git_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(&self.repo)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null());
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        command
    }

    fn git(&self, args: &[&str]) -> Result<(), Failure> {
        let output = self.git_command(args).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::new(
            Class::Internal,
            format!(
                "git {} failed: {}",
                args[0],
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        ))
    }

    fn show_git(&self, args: &[&str]) -> Result<(), Failure> {
        say(&format!("\n$ git {}", shown(args)))?;
        let output = self.git_command(args).output()?;
        say(String::from_utf8_lossy(&output.stdout).trim_end())
    }

    /// This very program in the sample repository; gives its exit code.
    fn factory(&self, args: &[&str]) -> Result<u8, Failure> {
        say(&format!("\n$ factory {}", shown(args)))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(args)
            .current_dir(&self.repo)
            .stdin(Stdio::null());
        // The user's keys and repository have no part in this.
        let foreign = |name: &OsString| {
            name.to_str()
                .is_some_and(|name| name.ends_with("_API_KEY") || name.starts_with("GIT_"))
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        command
            .env("XDG_CONFIG_HOME", self.repo.with_file_name("config"))
            .env(KEY, "made-up-for-the-demonstration");
        let status = command.status()?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(Class::Internal.code()))
    }
}

/// Arguments as one would type them; long ones are shortened.
fn shown(args: &[&str]) -> String {
    let word = |arg: &&str| {
        let first = arg.lines().next().unwrap_or_default();
        let more = if arg.lines().count() > 1 { " ..." } else { "" };
        if arg.contains([' ', '\n', '%']) {
            format!("\"{}{more}\"", first.replace('`', "\\`"))
        } else {
            (*arg).to_owned()
        }
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A paragraph on standard output.
fn say(text: &str) -> Result<(), Failure> {
    views::print(&format!("{text}\n")).map(drop)
}

/// The scripted model on a thread of its own; ends with this value.
struct Model {
    base_url: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    fn start() -> Result<Self, Failure> {
        let internal =
            |e: factory_testkit::scenario::ScenarioError| Failure::of(Class::Internal, e);
        let scenario =
            Scenario::parse(SCENARIO, "the scenario of the demonstration").map_err(internal)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ready, started) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                match Provider::start(scenario).await {
                    Ok(provider) => {
                        if ready.send(Ok(provider.base_url())).is_ok() {
                            // Told, or dropped: both mean the end.
                            ended.await.ok();
                        }
                        provider.stop().await;
                    }
                    Err(error) => {
                        if let Err(lost) = ready.send(Err(error)) {
                            tracing::error!(error = ?lost.0, "the scripted model did not start");
                        }
                    }
                }
            });
        });
        let base_url = started
            .recv()
            .map_err(|e| Failure::of(Class::Internal, e))?
            .map_err(|e| Failure::of(Class::Internal, e))?;
        Ok(Self {
            base_url,
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scripted model broke");
        }
    }
}
