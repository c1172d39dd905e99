//! Where things are inside the container, and what every child process is told.

use factory_core::wire;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Prefix for every path below, so that tests run without a container.
const ROOT_ENV: &str = "FACTORY_AGENT_ROOT";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's paths.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// The real places, or those below the test root.
    pub fn from_env() -> Self {
        Self {
            root: std::env::var_os(ROOT_ENV).map_or_else(|| "/".into(), PathBuf::from),
        }
    }

    /// Those below a folder.
    #[cfg(test)]
    pub fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// An absolute path of the container, where it is for this process.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn in_run_dir(&self, name: &str) -> PathBuf {
        self.at(wire::RUN_DIR).join(name)
    }

    /// `run.yaml`.
    pub fn run_file(&self) -> PathBuf {
        self.in_run_dir("run.yaml")
    }

    /// The task's text, standard input of the engine.
    pub fn brief(&self) -> PathBuf {
        self.in_run_dir("brief.md")
    }

    /// The gateway's socket for this run.
    pub fn socket(&self) -> PathBuf {
        self.in_run_dir("gw.sock")
    }

    /// The work tree.
    pub fn workspace(&self) -> PathBuf {
        self.at(wire::WORKSPACE)
    }

    /// Where results are left.
    pub fn out(&self) -> PathBuf {
        self.at(wire::OUT_DIR)
    }

    /// The run's report, as the engine leaves it.
    pub fn report(&self) -> PathBuf {
        self.out().join("report.json")
    }

    /// Home of the engine.
    pub fn state(&self) -> PathBuf {
        self.at(wire::STATE_DIR)
    }

    /// The environment every child starts from: nothing of the agent's own but
    /// PATH and the Git identity, which the kernel put there.
    pub fn base_env(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), path),
            ("HOME".into(), self.state().into()),
            ("TMPDIR".into(), "/tmp".into()),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        env.extend(std::env::vars_os().filter(|(name, _)| {
            name.to_str()
                .is_some_and(|n| n.starts_with("GIT_AUTHOR_") || n.starts_with("GIT_COMMITTER_"))
        }));
        env
    }

    /// `program` as it must be given to exec: a relative path means one below
    /// the work tree, whatever the order of chdir and lookup.
    pub fn program(&self, program: &str) -> PathBuf {
        let path = Path::new(program);
        if program.contains('/') && path.is_relative() {
            self.workspace().join(path)
        } else {
            path.to_owned()
        }
    }
}
