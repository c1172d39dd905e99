//! States that have a long past: archived jobs, written at one go.

use factory_core::{
    change::FileChange,
    ids::{IssueNo, PrNo, RunId},
    model::{Comment, Issue, Job, Pr, Run},
    state::{Delta, Put},
};
use std::{
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
};

/// What a job leaves in the archive.
pub struct Past {
    issue: Issue,
    comments: Vec<Comment>,
    pr: Pr,
    job: Job,
    runs: Vec<Run>,
}

impl Past {
    /// What the steps of one life archived.
    pub fn of(deltas: &[Delta]) -> Self {
        fn archived<V: Clone>(put: &Put<V>) -> Option<V> {
            match put {
                Put::Archived(value) => Some(value.clone()),
                Put::Live(_) | Put::Gone => None,
            }
        }
        let issue = deltas.iter().flat_map(|d| d.issues.values());
        let comments = deltas.iter().flat_map(|d| d.comments.values());
        let pr = deltas.iter().flat_map(|d| d.prs.values());
        let job = deltas.iter().flat_map(|d| d.jobs.values());
        let runs = deltas.iter().flat_map(|d| d.runs.values());
        Self {
            issue: issue.filter_map(archived).next().unwrap(),
            comments: comments.filter_map(archived).collect(),
            pr: pr.filter_map(archived).next().unwrap(),
            job: job.filter_map(archived).next().unwrap(),
            runs: runs.filter_map(archived).collect(),
        }
    }

    /// How many runs such a job has.
    pub fn runs(&self) -> u64 {
        self.runs.len() as u64
    }

    /// The same past of issue `number`.
    fn files(&self, number: u64) -> Vec<FileChange> {
        let (issue, pr) = (IssueNo(number), PrNo(number));
        let mut delta = Delta::default();
        for (k, comment) in (1..).zip(&self.comments) {
            let archived = Put::Archived(comment.clone());
            delta.comments.insert((issue, k), archived);
        }
        let past = Issue {
            number: issue,
            ..self.issue.clone()
        };
        delta.issues.insert(issue, Put::Archived(past));
        let past = Pr {
            number: pr,
            issue,
            ..self.pr.clone()
        };
        delta.prs.insert(pr, Put::Archived(past));
        let mut past = self.job.clone();
        past.pr = Some(pr);
        delta.jobs.insert(issue, Put::Archived(past));
        for run in &self.runs {
            let id = RunId {
                job: issue,
                k: run.id.k,
            };
            let mut past = run.clone();
            past.id = id;
            past.grant.run = id;
            delta.runs.insert(id, Put::Archived(past));
        }
        delta.files()
    }

    /// Writes one commit, `refs/state`, with `live` files and the past of so
    /// many jobs, and gives it. One pack, as after years of packing.
    pub fn write(&self, repository: &Path, live: &[FileChange], jobs: u64) -> git2::Oid {
        let mut git = Command::new("git")
            .arg("--git-dir")
            .arg(repository)
            .args(["-c", "core.fsync=none", "-c", "fastimport.unpackLimit=0"])
            .args(["fast-import", "--quiet"])
            .stdin(Stdio::piped())
            // It warns of a setting that is libgit2's.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut to = BufWriter::new(git.stdin.take().unwrap());
        let who = "bench <bench@localhost> 0 +0000";
        write!(to, "commit refs/state\ncommitter {who}\ndata 4\npast\n").unwrap();
        let mut put = |file: &FileChange| {
            // What it takes away was never there.
            let Some(bytes) = &file.content else { return };
            let (path, length) = (&file.path, bytes.len());
            write!(to, "M 644 inline {path}\ndata {length}\n").unwrap();
            to.write_all(bytes).unwrap();
            to.write_all(b"\n").unwrap();
        };
        live.iter().for_each(&mut put);
        for number in 1..=jobs {
            self.files(number).iter().for_each(&mut put);
        }
        drop(to);
        assert!(git.wait().unwrap().success(), "git fast-import failed");
        git2::Repository::open_bare(repository)
            .unwrap()
            .refname_to_id("refs/state")
            .unwrap()
    }
}
