//! Issues as they are shown.

use super::{draft::DraftsView, line, run, section, span, stamp};
use crate::{clock, factory::Factory, failure::Failure, views::archive};
use factory_core::{
    event::Now,
    ids::IssueNo,
    model::{Comment, Issue, IssueState, Job, Run, Stage},
};
use serde::Serialize;

/// An issue in JSON.
#[derive(Debug, Serialize)]
pub struct IssueView {
    /// Its number.
    pub number: u64,
    /// One line.
    pub title: String,
    /// `proposed`, `approved` or `closed`.
    pub state: &'static str,
    /// Who approved or closed it.
    pub by: Option<String>,
    /// Labels, sorted.
    pub labels: Vec<String>,
    /// Issues that must be done before.
    pub depends_on: Vec<u64>,
    /// Paths that it says it will touch.
    pub touches: Vec<String>,
    /// Who filed it.
    pub author: String,
    /// The run whose agent filed it; only a person approves it then.
    pub run: Option<String>,
    /// When it was filed, RFC 3339.
    pub created: String,
    /// Where its job stands, such as `coding` or `needs-human`
    /// ([`factory_core::model::StageKind::as_str`]); none without a job.
    pub stage: Option<&'static str>,
    /// Its pull request.
    pub pr: Option<u64>,
    /// The instruction that it is a part of.
    pub parent: Option<u64>,
    /// What must be true when it is done.
    pub acceptance: Vec<String>,
    /// What is asked for; Markdown.
    pub body: String,
    /// The issues of an instruction, in their order; only in `show`, and none of another issue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<ChildView>>,
    /// Oldest first; only in `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comments: Option<Vec<CommentView>>,
    /// Issues that its runs asked for and that are not filed yet; only in `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drafts: Option<DraftsView>,
    /// The job that works on it, or the last one that did; only in `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
    /// Its runs, oldest first; only in `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<run::RunView>>,
}

/// An issue of an instruction in JSON.
#[derive(Debug, Serialize)]
pub struct ChildView {
    /// Its number.
    pub number: u64,
    /// One line.
    pub title: String,
    /// Where it stands, such as `coding (r2-1)`, `pr 2`, `done` or `closed`.
    pub standing: String,
}

/// A comment in JSON.
#[derive(Debug, Serialize)]
pub struct CommentView {
    /// Who wrote it; `factory` for the kernel.
    pub author: String,
    /// The run whose agent wrote it.
    pub run: Option<String>,
    /// When, RFC 3339.
    pub at: String,
    /// Markdown.
    pub text: String,
}

/// A job in JSON.
#[derive(Debug, Serialize)]
pub struct JobView {
    /// As in [`IssueView::stage`].
    pub stage: &'static str,
    /// The run that the stage waits for.
    pub run: Option<String>,
    /// Work branch.
    pub branch: String,
    /// Code runs so far.
    pub rounds: u32,
    /// The pull request.
    pub pr: Option<u64>,
    /// What the next code run is told.
    pub feedback: Option<String>,
    /// One line per run.
    pub story: Vec<String>,
}

/// Everything about one issue.
pub struct Whole {
    issue: Issue,
    comments: Vec<Comment>,
    /// The live job, or the archived one.
    job: Option<Job>,
    /// True while the job works on it.
    live: bool,
    runs: Vec<Run>,
    drafts: DraftsView,
    /// The issues of an instruction; none of another issue.
    children: Option<Vec<ChildView>>,
}

impl Whole {
    /// Reads it from the state or its archive; none for an unknown number.
    pub fn read(factory: &Factory, number: IssueNo) -> Result<Option<Self>, Failure> {
        let state = &factory.state;
        let (issue, comments) = match state.issues.get(&number) {
            Some(issue) => (issue.clone(), state.comments_of(number).cloned().collect()),
            None => match archive::issue(factory, number)? {
                Some(issue) => (issue, archive::comments(factory, number)?),
                None => return Ok(None),
            },
        };
        let live = state.jobs.get(&number).cloned();
        let mut runs = archive::runs_of(factory, number)?;
        runs.extend(
            state
                .runs
                .values()
                .filter(|run| run.id.job == number)
                .cloned(),
        );
        runs.sort_by_key(|run| run.id);
        Ok(Some(Self {
            children: children(factory, &issue)?,
            issue,
            comments,
            live: live.is_some(),
            job: match live {
                Some(job) => Some(job),
                None => archive::job(factory, number)?,
            },
            runs,
            drafts: DraftsView::of(state, Some(number), clock::now()),
        }))
    }

    /// For programs.
    pub fn detail(self) -> IssueView {
        let comments = self.comments.iter().map(|comment| CommentView {
            author: comment.author.clone(),
            run: comment.run.map(|run| run.to_string()),
            at: stamp(comment.at),
            text: comment.text.clone(),
        });
        IssueView {
            comments: Some(comments.collect()),
            job: self.job.as_ref().map(|job| JobView {
                stage: job.stage().kind().as_str(),
                run: job.stage().run().map(|run| run.to_string()),
                branch: job.branch.clone(),
                rounds: job.rounds,
                pr: job.pr.map(|pr| pr.0),
                feedback: job.feedback.clone(),
                story: job.story.clone(),
            }),
            runs: Some(self.runs.iter().map(run::RunView::from).collect()),
            drafts: Some(self.drafts),
            children: self.children,
            ..view(&self.issue, self.job.as_ref().filter(|_| self.live))
        }
    }

    /// For people.
    pub fn show(&self, now: Now) -> String {
        let (issue, number) = (&self.issue, self.issue.number);
        let live = self.job.as_ref().filter(|_| self.live);
        let mut out = format!(
            "issue {number}: {}\n{}\n",
            line(&issue.title),
            line(&standing(issue, live, now))
        );
        let mut field = |name: &str, value: &str| {
            out.push_str(&format!("{name:8} {}\n", line(value)));
        };
        let of_agent = match issue.run {
            Some(run) => format!(" (an agent, on issue {})", run.job),
            None => String::new(),
        };
        let by = format!("by {}{of_agent}", issue.author);
        field("filed", &format!("{by}, {}", clock::show(issue.created)));
        if !issue.labels.is_empty() {
            field("labels", &issue.labels.join(", "));
        }
        if !issue.depends_on.is_empty() {
            let names: Vec<_> = issue.depends_on.iter().map(|on| format!("#{on}")).collect();
            field("depends", &format!("on {}", names.join(", ")));
        }
        if !issue.touches.is_empty() {
            let paths = issue.touches.iter().map(|path| match path.as_str() {
                "" => ".",
                path => path,
            });
            field("touches", &paths.collect::<Vec<_>>().join(", "));
        }
        if let Some(parent) = issue.parent {
            field(
                "part of",
                &format!("#{parent} (`factory issue show {parent}`)"),
            );
        }
        if let Some(job) = self.job.as_ref().filter(|job| !job.branch.is_empty()) {
            field("branch", &job.branch);
            let merged = issue.merged.as_ref().map(|merged| merged.pr);
            if let Some(pr) = job.pr.or(merged) {
                field("pr", &format!("{pr} (`factory pr show {pr}`)"));
            }
        }
        section(&mut out, "What is asked for:", &issue.body);
        let acceptance = issue.acceptance.iter().map(|a| format!("- {}", line(a)));
        let acceptance: Vec<String> = acceptance.collect();
        section(&mut out, "What must be true then:", &acceptance.join("\n"));
        let children = self.children.iter().flatten().map(|child| {
            let (number, standing) = (child.number, line(&child.standing));
            format!("#{number}  {standing}  {}", line(&child.title))
        });
        let children: Vec<String> = children.collect();
        section(&mut out, "Its issues:", &children.join("\n"));
        if let Some(job) = &self.job {
            let story: Vec<String> = job.story.iter().map(|l| line(l)).collect();
            section(&mut out, "What happened so far:", &story.join("\n"));
        }
        let runs: Vec<String> = self
            .runs
            .iter()
            .map(|run| {
                format!(
                    "{}  {}  {}",
                    run.id,
                    run::purpose(run),
                    run::standing(run, now)
                )
            })
            .collect();
        section(&mut out, "Runs:", &runs.join("\n"));
        let why = self.drafts.why();
        let heading = format!("Issues of its agents that are not filed yet ({why}):");
        section(&mut out, &heading, &self.drafts.lines());
        for comment in &self.comments {
            let heading = format!(
                "Comment by {}, {}:",
                line(&comment.author),
                clock::show(comment.at)
            );
            section(&mut out, &heading, &comment.text);
        }
        if let Some(next) = next_step(issue, live) {
            out.push_str(&format!("\n{next}\n"));
        }
        out
    }
}

/// The issues of an instruction, and where each stands; none of another issue.
fn children(factory: &Factory, issue: &Issue) -> Result<Option<Vec<ChildView>>, Failure> {
    let Some(instruction) = &issue.instruction else {
        return Ok(None);
    };
    let state = &factory.state;
    let mut children = Vec::new();
    for number in &instruction.children {
        let child = match state.issues.get(number) {
            Some(child) => Some(child.clone()),
            None => archive::issue(factory, *number)?,
        };
        children.extend(child.map(|child| ChildView {
            number: number.0,
            standing: word(&child, state.jobs.get(number)),
            title: child.title,
        }));
    }
    Ok(Some(children))
}

/// An issue as `list` gives it; `job` is the one that works on it now.
pub fn view(issue: &Issue, job: Option<&Job>) -> IssueView {
    let (state, by, pr) = match &issue.state {
        IssueState::Proposed => ("proposed", None, None),
        IssueState::Approved { by } => ("approved", Some(by.clone()), None),
        IssueState::Closed { by, pr, .. } => ("closed", Some(by.clone()), *pr),
    };
    IssueView {
        number: issue.number.0,
        title: issue.title.clone(),
        state,
        by,
        labels: issue.labels.clone(),
        depends_on: issue.depends_on.iter().map(|on| on.0).collect(),
        touches: issue.touches.clone(),
        author: issue.author.clone(),
        run: issue.run.map(|run| run.to_string()),
        created: stamp(issue.created),
        stage: job.map(|job| job.stage().kind().as_str()),
        pr: pr
            .or(job.and_then(|job| job.pr))
            .or(issue.merged.as_ref().map(|merged| merged.pr))
            .map(|pr| pr.0),
        parent: issue.parent.map(|parent| parent.0),
        acceptance: issue.acceptance.clone(),
        body: issue.body.clone(),
        children: None,
        comments: None,
        drafts: None,
        job: None,
        runs: None,
    }
}

/// Where an issue stands, for a column of a table.
pub fn word(issue: &Issue, job: Option<&Job>) -> String {
    match (&issue.state, job) {
        (IssueState::Closed { pr: Some(_), .. }, _) => "done".to_owned(),
        (IssueState::Closed { pr: None, .. }, _) => "closed".to_owned(),
        (IssueState::Approved { .. }, Some(job)) => match (job.stage(), job.pr) {
            (Stage::Proposed, Some(pr)) => format!("pr {pr}"),
            (stage, _) => match stage.run() {
                Some(run) => format!("{} ({run})", stage.kind().as_str()),
                None => stage.kind().as_str().to_owned(),
            },
        },
        (IssueState::Approved { .. }, None) => "approved".to_owned(),
        (IssueState::Proposed, _) => "proposed".to_owned(),
    }
}

/// Where an issue stands, as a sentence.
fn standing(issue: &Issue, job: Option<&Job>, now: Now) -> String {
    match (&issue.state, job) {
        (IssueState::Proposed, _) => "waits for approval".to_owned(),
        (IssueState::Closed { by, at, pr }, _) => {
            let done = match pr {
                Some(pr) => format!("done by pull request {pr}, merged"),
                None => "closed".to_owned(),
            };
            format!("{done} by {by}, {}", clock::show(*at))
        }
        (IssueState::Approved { by }, None) => format!("approved by {by}"),
        (IssueState::Approved { by }, Some(job)) => {
            let rests = job.rests_until(now).map(|at| span(at - now.0));
            let waits = job.stage().is_due();
            let now = match (job.stage(), rests) {
                _ if waits && job.held_by.is_some() => {
                    format!("held by {}", job.held_by.as_deref().unwrap_or_default())
                }
                _ if waits && !issue.depends_on.is_empty() => {
                    let names: Vec<_> = issue.depends_on.iter().map(|n| format!("#{n}")).collect();
                    format!("waits until {} is done", names.join(", "))
                }
                (stage, Some(rests)) if stage.is_due() => {
                    format!("try {} begins in {rests}", job.breaks + 1)
                }
                (Stage::Queued, _) => {
                    "waits for its turn (`factory plan` says for what)".to_owned()
                }
                (Stage::Coding { run }, _) => format!("{run} works on it"),
                (Stage::Publishing { .. }, _) => "its work branch is being moved".to_owned(),
                (Stage::CheckDue { .. }, _) => "waits for a slot for its checks".to_owned(),
                (Stage::Checking { run, .. }, _) => format!("{run} checks it"),
                (Stage::SplitDue, _) => "waits for a slot to be split into issues".to_owned(),
                (Stage::Splitting { run }, _) => format!("{run} splits it into issues"),
                (Stage::SplitReady, _) => "its issues wait for your approval".to_owned(),
                (Stage::Children, _) => "its issues are worked on".to_owned(),
                (Stage::PlanDue, _) => "waits for a slot for its plan".to_owned(),
                (Stage::Planning { run }, _) => format!("{run} plans it"),
                (Stage::PlanReady, _) => "its plan waits for your approval".to_owned(),
                (Stage::ReviewDue { .. }, _) => "waits for a slot for its review".to_owned(),
                (Stage::Reviewing { run, .. }, _) => format!("{run} reviews it"),
                (Stage::Opening { .. }, _) => "its pull request is about to open".to_owned(),
                (Stage::Proposed, _) => "its pull request is open".to_owned(),
                (Stage::VerifyDue, _) => {
                    "is merged; waits for a slot to be looked at on the target".to_owned()
                }
                (Stage::Verifying { run }, _) => {
                    format!("is merged; {run} looks at it on the target")
                }
                (Stage::NeedsHuman, _) => "a person must look at it".to_owned(),
            };
            format!("approved by {by}; {now}")
        }
    }
}

/// What a person can do about it now.
fn next_step(issue: &Issue, job: Option<&Job>) -> Option<String> {
    let number = issue.number;
    let needs_human = job.is_some_and(|job| *job.stage() == Stage::NeedsHuman);
    match &issue.state {
        IssueState::Proposed if issue.merged.is_some() => Some(format!(
            "`factory issue approve {number}` goes on from what is merged; `factory issue close {number}` closes it as done"
        )),
        IssueState::Proposed => Some(format!(
            "`factory issue approve {number}` lets a worker build it"
        )),
        IssueState::Approved { .. } if needs_human => Some(format!(
            "`factory issue approve {number}` tries again; `factory issue comment {number} --body \"…\"` tells the next run something first; `factory issue close {number}` {}",
            match &issue.merged {
                Some(merged) => format!("closes it as done by pull request {}", merged.pr),
                None => "gives it up".to_owned(),
            }
        )),
        IssueState::Approved { .. } => match job.map(Job::stage) {
            Some(Stage::PlanReady) => Some(format!(
                "`factory issue approve {number}` lets a worker build it by this plan; `factory issue edit {number}` has it planned anew"
            )),
            Some(Stage::SplitReady) => Some(format!(
                "`factory issue approve {number}` approves all its issues; `factory issue close {number}` gives them up"
            )),
            _ => None,
        },
        IssueState::Closed { .. } => None,
    }
}
