//! `factory init`: configuration and intent layer, staged and not committed.

use crate::{
    args::Init,
    commands::{
        image::{build, interrupt, wanted},
        processes::{log_to_stderr, on_this_thread},
    },
    factory::{Factory, branch_in_the_way, parse_config, target_of},
    failure::{Class, Failure, INTERRUPTED, RED},
    guess::{self, Guesses, Tree},
    keys, probe,
    room::Subject,
    trial::{self, Verdict},
    views,
};
use factory_core::{
    config::{self, Config},
    engine::{ENGINES, Engine},
    ids::Oid,
};
use factory_ledger::{
    git::{Git, GitError},
    places::Places,
    repo::EntryKind,
    user::UserRepo,
};
use factory_runtime::{
    Runtime,
    docker::{self, DockerRuntime},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Branch names begin with this unless a branch is in the way.
const PREFIX: &str = "factory";
/// The line of the template that names it.
const PREFIX_LINE: &str = "#branch_prefix: factory\n";
/// The lines of the template that name the engine and its model.
const ENGINE_LINES: &str = "#engine: claude\n#model: claude-sonnet-4-5\n";
/// The template of `factory.yaml`.
const CONFIG: &str = include_str!("../intent_templates/factory.yaml");
/// The intent layer's first files. One is written where its folder holds no Markdown yet.
const INTENT: [(&str, &str, &str); 4] = [
    (
        "intent",
        "README.md",
        include_str!("../intent_templates/intent.md"),
    ),
    (
        "principles",
        "0001-a-change-comes-with-its-test.md",
        include_str!("../intent_templates/principle.md"),
    ),
    (
        "prohibitions",
        "0001-no-secret-in-the-repository.md",
        include_str!("../intent_templates/prohibition.md"),
    ),
    (
        "postmortems",
        "README.md",
        include_str!("../intent_templates/postmortems.md"),
    ),
];

/// `factory init`.
pub fn run(cwd: &Path, options: Init) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let places = Places::discover(cwd)?;
    let here = target_of(&places)?;
    let Some(top) = places.work_tree() else {
        return Err(Failure::new(
            Class::Repository,
            format!("{} is not in a work tree", cwd.display()),
        )
        .help("change into the work tree that the files are to be written to"));
    };
    let user = UserRepo::open(places.common_dir());
    let prefix = free_prefix(&user)?;
    let guesses = match user.tip(&here)? {
        Some(tip) => guess_at(&user, &tip)?,
        None => Guesses::default(),
    };
    // What is wrong with it would be said by `start` only, and the engine written here be another.
    keys::file()?;
    let engine = keys::engine(keys::is_set);
    let mut made = Made::new(top);
    let mut kept = Vec::new();
    let done = write_all(&mut made, &prefix, engine, &guesses, &mut kept)
        .and_then(|()| made.stage())
        // Keeps the branch that is checked out now as the one to work for.
        .and_then(|()| Factory::open(cwd));
    let factory = match done {
        Ok(factory) => factory,
        Err(failure) => {
            made.take_back();
            return Err(failure);
        }
    };
    let (target, prefix) = (factory.state.meta.target.as_str(), prefix.as_str());
    let told = Told {
        made: &made,
        kept: &kept,
        prefix,
        engine,
        guesses: &guesses,
        target,
        here: &here,
    };
    views::told(&told.text())?;
    match options.try_checks {
        true => try_checks(&factory, top),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// What a commit's files say of its checks.
fn guess_at(user: &UserRepo, commit: &Oid) -> Result<Guesses, Failure> {
    let entries = user.list_tree(commit, "")?;
    let files: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File)
        .collect();
    let sizes = files.iter().map(|file| (file.path.as_str(), file.size));
    let (wanted, skipped) = guess::wanted(sizes);
    let contents = match wanted.is_empty() {
        true => BTreeMap::new(),
        false => {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            user.read_files(commit, &wanted, u64::MAX)?
        }
    };
    let names = files.into_iter().map(|file| file.path);
    Ok(guess::guess(&Tree::new(names, contents, skipped)))
}

/// Runs the checks of the `factory.yaml` that lies here, committed or not, on
/// the commit that agents would start from.
fn try_checks(factory: &Factory, top: &Path) -> Result<ExitCode, Failure> {
    let file = top.join(config::FILE);
    let text = fs::read_to_string(&file).map_err(|error| {
        Failure::new(
            Class::Config,
            format!("cannot read {}: {error}", file.display()),
        )
        .help("make it a file that you may read")
    })?;
    let config = parse_config(config::FILE, &text)?;
    if config.checks.is_empty() {
        return Err(
            Failure::new(Class::Refused, "there are no checks to try").help(format!(
                "name the commands that must pass under `checks` in {}, then run `factory init --try` again",
                config::FILE
            )),
        );
    }
    let target = factory.state.meta.target.as_str();
    let verdict = on_this_thread(async {
        let connection = docker::connect().await?;
        let client = connection.client.clone();
        let runtime = DockerRuntime::new(connection).await?;
        probe::check_runtime(&runtime.engine().await?, config.runtime.as_deref())?;
        let wanted = wanted(&config, &factory.user, &factory.target_tip()?)?;
        let Some(image) = build(&client, &factory.places, &wanted).await? else {
            return Ok(Verdict::Interrupted);
        };
        let subject = Subject {
            places: &factory.places,
            home: &factory.home,
            image: image.as_str(),
            runtime: config.runtime.as_deref(),
            limits: config.limits,
        };
        let at = factory.target_tip()?;
        views::print(&format!(
            "Trying the checks on branch {target} (commit {}), in a container without a network:\n",
            at.short()
        ))?;
        for check in &config.checks {
            views::print(&format!("  {check}\n"))?;
        }
        let checks = config.checks.as_slice();
        trial::run(
            &runtime,
            &factory.user,
            target,
            checks,
            &subject,
            interrupt()?,
        )
        .await
    })?;
    views::print(&format!("\n{verdict}\n"))?;
    Ok(match verdict {
        Verdict::Green => ExitCode::SUCCESS,
        Verdict::Red(_) => {
            views::print(&format!(
                "Mend it before an agent works: change `checks` or `image` in {}, or the project itself.\n",
                config::FILE
            ))?;
            ExitCode::from(RED)
        }
        Verdict::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// A prefix that no branch is in the way of: where `factory` is a branch, none can be `factory/x`.
fn free_prefix(user: &UserRepo) -> Result<String, Failure> {
    let mut prefix = PREFIX.to_owned();
    let mut k = 1;
    while branch_in_the_way(user, &prefix)?.is_some() {
        prefix = match k {
            1 => format!("{PREFIX}-work"),
            _ => format!("{PREFIX}-work-{k}"),
        };
        k += 1;
    }
    Ok(prefix)
}

fn write_all(
    made: &mut Made,
    prefix: &str,
    engine: Option<&Engine>,
    guesses: &Guesses,
    kept: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut config = match prefix {
        PREFIX => CONFIG.to_owned(),
        other => CONFIG.replace(PREFIX_LINE, &format!("branch_prefix: {other}\n")),
    };
    if let Some(engine) = engine.filter(|engine| **engine != *ENGINES[0]) {
        let lines = format!("engine: {}\n#model: {}\n", engine.name, engine.model);
        config = config.replace(ENGINE_LINES, &lines);
    }
    let config = guess::fill(&config, guesses);
    if !made.write(config::FILE, &config)? {
        kept.push(config::FILE.to_owned());
    }
    for (dir, name, text) in INTENT {
        let path = format!("{dir}/{name}");
        if has_markdown(&made.top.join(dir))? || !made.write(&path, text)? {
            kept.push(format!("{dir}/"));
        }
    }
    Ok(())
}

fn has_markdown(dir: &Path) -> Result<bool, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(cannot("read", dir, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| cannot("read", dir, error))?;
        if entry.file_name().as_encoded_bytes().ends_with(b".md") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Failure {
    Failure::new(
        Class::Repository,
        format!("cannot {what} {}: {error}", path.display()),
    )
    .help("nothing was changed; mend it and run `factory init` again")
}

/// What this call made, so that all of it can be taken back.
struct Made {
    top: PathBuf,
    /// Relative to `top`.
    files: Vec<String>,
    dirs: Vec<PathBuf>,
    staged: bool,
}

impl Made {
    fn new(top: &Path) -> Self {
        Self {
            top: top.to_owned(),
            files: Vec::new(),
            dirs: Vec::new(),
            staged: false,
        }
    }

    /// Writes a new file; false when there is one.
    fn write(&mut self, path: &str, text: &str) -> Result<bool, Failure> {
        let full = self.top.join(path);
        if let Some(dir) = full.parent().filter(|dir| *dir != self.top) {
            match fs::create_dir(dir) {
                Ok(()) => self.dirs.push(dir.to_owned()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot("make", dir, error)),
            }
        }
        let mut file = match fs::File::create_new(&full) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(cannot("write", &full, error)),
        };
        self.files.push(path.to_owned());
        file.write_all(text.as_bytes())
            .map_err(|error| cannot("write", &full, error))?;
        Ok(true)
    }

    /// Stages exactly these files, even where a rule ignores them or a sparse checkout leaves them out.
    fn stage(&mut self) -> Result<(), Failure> {
        if self.files.is_empty() {
            return Ok(());
        }
        self.git(&["add", "--force", "--sparse", "--"])
            .map_err(|error| {
                Failure::new(
                    Class::Repository,
                    format!("cannot stage the new files: {}", said(&error)),
                )
                .help("nothing was changed; mend it and run `factory init` again")
            })?;
        self.staged = true;
        Ok(())
    }

    fn git(&self, arguments: &[&str]) -> Result<(), GitError> {
        Git::new(&self.top)
            .call(["--literal-pathspecs"])
            .args(arguments)
            .args(&self.files)
            .run()
            .map(drop)
    }

    /// Leaves the repository as it was found.
    fn take_back(&self) {
        // A `git add` that fails has staged nothing.
        if self.staged
            && let Err(error) = self.git(&[
                "rm",
                "--cached",
                "--force",
                "--quiet",
                "--sparse",
                "--ignore-unmatch",
                "--",
            ])
        {
            views::aside(&format!(
                "factory: the new files are still staged: {}",
                said(&error)
            ));
        }
        let files = self.files.iter().map(|path| {
            let path = self.top.join(path);
            (fs::remove_file(&path), path)
        });
        let dirs = self
            .dirs
            .iter()
            .map(|dir| (fs::remove_dir(dir), dir.clone()));
        for (removed, path) in files.chain(dirs) {
            if let Err(error) = removed {
                views::aside(&format!(
                    "factory: cannot remove {}: {error}",
                    path.display()
                ));
            }
        }
    }
}

/// Git's own words; our call of it means nothing to people.
fn said(error: &GitError) -> String {
    match error {
        GitError::Failed { stderr, .. } if !stderr.is_empty() => stderr.clone(),
        other => other.to_string(),
    }
}

/// What was done and what comes next.
struct Told<'a> {
    made: &'a Made,
    kept: &'a [String],
    prefix: &'a str,
    engine: Option<&'static Engine>,
    guesses: &'a Guesses,
    target: &'a str,
    here: &'a str,
}

impl Told<'_> {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        let (target, here, prefix) = (self.target, self.here, self.prefix);
        let wrote_config = self.made.files.iter().any(|path| path == config::FILE);
        for path in &self.made.files {
            lines.push(format!("wrote   {path}"));
        }
        for path in self.kept {
            lines.push(format!("kept    {path}  (it was there)"));
        }
        lines.push(format!(
            "target  {target}  (the branch that work is done for)"
        ));
        if wrote_config {
            lines.push(self.engine_line());
        }
        if target != here {
            lines.push(format!(
                "\nYou are on {here}: what is written here counts once it is on {target}.\n\
                 To work for {here} instead: factory start --target {here}"
            ));
        }
        if wrote_config {
            lines.push(String::new());
            lines.extend(guess::told(self.guesses));
            if prefix != PREFIX {
                lines.push(format!(
                    "\nA branch `{PREFIX}` is there, so work branches are called {prefix}/…: see branch_prefix in {}.",
                    config::FILE
                ));
            }
        } else if prefix != PREFIX && written_prefix(&self.made.top).as_deref() == Some(PREFIX) {
            lines.push(format!(
                "\nA branch `{PREFIX}` is there: write `branch_prefix: {prefix}` into {}.",
                config::FILE
            ));
        }
        let commit =
            "  git commit -m 'Add factory'            the new files are staged, not committed";
        let next = [
            "  factory init --try                     do the checks pass as things are?",
            "  factory doctor                         is everything there that is needed?",
            "  factory issue new -t 'What is wanted'  then: factory issue approve 1",
            "  factory start\n",
        ];
        lines.push("\nNext:".to_owned());
        lines.extend((!self.made.files.is_empty()).then(|| commit.to_owned()));
        lines.extend(next.map(str::to_owned));
        lines.join("\n")
    }

    /// The engine that is written down, and why.
    fn engine_line(&self) -> String {
        let key = |engine: &Engine| engine.api.vendor().key_env();
        match self.engine {
            Some(engine) => format!(
                "engine  {}  ({} is set; `engine` in {} changes it)",
                engine.name,
                key(engine),
                config::FILE
            ),
            None => {
                let first = ENGINES[0];
                let others: Vec<&Engine> = ENGINES
                    .into_iter()
                    .filter(|engine| key(engine) != key(first))
                    .collect();
                let names: Vec<&str> = others.iter().map(|engine| engine.name).collect();
                let keys: BTreeSet<&str> = others.iter().map(|engine| key(engine)).collect();
                let keys: Vec<&str> = keys.into_iter().collect();
                format!(
                    "engine  {}  (`factory start` will need {}; with {} as `engine` in {} it needs {})",
                    first.name,
                    key(first),
                    names.join(" or "),
                    config::FILE,
                    keys.join(" or ")
                )
            }
        }
    }
}

/// The prefix in a `factory.yaml` that was there before; a broken one is for `doctor` to name.
fn written_prefix(top: &Path) -> Option<String> {
    let text = fs::read_to_string(top.join(config::FILE)).ok()?;
    Some(Config::parse(&text).ok()?.branch_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_says_what_the_defaults_are() {
        assert_eq!(Config::parse(CONFIG).unwrap(), Config::default());
        // A `#` directly before a key: the default, written out.
        let written_out: String = CONFIG
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let mut parsed = Config::parse(&written_out).unwrap();
        // Two keys whose defaults depend on the engine.
        assert_eq!(parsed.model(), Config::default().model());
        assert_eq!(parsed.providers(), Config::default().providers());
        parsed.model = None;
        parsed.models.clear();
        assert_eq!(parsed, Config::default());

        let keys = serde_json::to_value(Config::default()).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            let line = written_out
                .lines()
                .find(|line| line.starts_with(&format!("{key}:")))
                .unwrap_or_else(|| panic!("{key} is not in the template"));
            for below in value.as_object().into_iter().flat_map(|map| map.keys()) {
                assert!(
                    line.contains(&format!("{below}:")),
                    "{key}.{below} is not in the template"
                );
            }
        }
    }

    #[test]
    fn another_prefix_is_written() {
        assert_eq!(CONFIG.matches(PREFIX_LINE).count(), 1);
        assert_eq!(CONFIG.matches(ENGINE_LINES).count(), 1);
        let text = CONFIG.replace(PREFIX_LINE, "branch_prefix: factory-work\n");
        assert_eq!(Config::parse(&text).unwrap().branch_prefix, "factory-work");
    }
}
