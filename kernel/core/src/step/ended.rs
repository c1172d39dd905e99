//! Ends of runs: which class they are of, and what follows.

use super::{checked, configured, job, reading, reported, tx::Tx, verify};
use crate::{
    breaker::{Breaker, Part},
    engine::{self, Verdict},
    event::Refusal,
    exit::{self, ExitClass, MAX_LOSSES, Retry},
    grant::Role,
    ids::{Oid, RunId},
    inbox::{EngineExit, RunEnd},
    model::{ContainerExit, EffectKind, Job, Next, PrState, Purpose, Resume, Run, Seconds, Stage},
    quantity::Bytes,
    text,
};

/// Longest output that is handed to the next run or shown in a story, in bytes.
pub(super) const OUTPUT_LIMIT: usize = 6 << 10;

/// A run whose container could not be made.
pub(super) fn spawn_failed(tx: &mut Tx<'_>, id: RunId, why: &str) -> Result<String, Refusal> {
    let (run, job) = match open_run(tx, id)? {
        Open::Wanted(run, job) => (run, job),
        Open::Over(note) => return Ok(note),
    };
    broke_off(
        tx,
        *run,
        *job,
        ExitClass::Lost,
        &format!("it could not be started: {why}"),
        Blame::Counts,
    )
}

/// A run whose container is not of this machine's factory.
pub(super) fn left_behind(tx: &mut Tx<'_>, id: RunId, why: &str) -> Result<String, Refusal> {
    match open_run(tx, id)? {
        Open::Wanted(run, job) => given_up(tx, *run, *job, None, ExitClass::Lost, why),
        Open::Over(note) => Ok(note),
    }
}

/// A run that we end and that is done again; one that came to its own end before counts as ended.
fn given_up(
    tx: &mut Tx<'_>,
    run: Run,
    job: Job,
    exit: Option<ContainerExit>,
    class: ExitClass,
    why: &str,
) -> Result<String, Refusal> {
    let by_itself = match run.grant.role {
        Role::Split | Role::Plan | Role::Code | Role::Review => run
            .end
            .as_ref()
            .is_some_and(|end| end.exit == EngineExit::Code(0)),
        Role::Check => exit.is_some_and(|exit| matches!(exit.code, 0 | 1)),
    };
    if by_itself {
        return settled(tx, run, job, exit);
    }
    broke_off(tx, run, job, class, why, Blame::Ours)
}

/// A run whose container ended.
pub(super) fn ended(
    tx: &mut Tx<'_>,
    id: RunId,
    exit: Option<ContainerExit>,
) -> Result<String, Refusal> {
    match open_run(tx, id)? {
        // Whoever concludes it, this kernel or the next: it was the factory that ended it.
        Open::Wanted(run, job) if run.stop_ordered && fits_a_stop(&run, exit) => {
            let why = "the factory was stopped";
            given_up(tx, *run, *job, exit, ExitClass::Killed, why)
        }
        Open::Wanted(run, job) if run.over_budget && !finished(&run) => over_budget(tx, *run, *job),
        Open::Wanted(run, job) => settled(tx, *run, *job, exit),
        Open::Over(note) => Ok(note),
    }
}

/// True where the engine says that it did what it could.
fn finished(run: &Run) -> bool {
    let mut end = run.end.iter();
    end.any(|end| engine::verdict(run, end) == Verdict::Finished)
}

/// A code run that was ended at the limit of its budget. Another one goes on from its
/// checkpoint, as long as there is money for the job.
fn over_budget(tx: &mut Tx<'_>, run: Run, mut job: Job) -> Result<String, Refusal> {
    let (id, class) = (run.id, ExitClass::OverBudget);
    // Nobody is to blame where what was left of the day was all that it had.
    if !run.grant.role.only_reads() {
        job.rounds += u32::from(tx.used_its_own(&run, &job));
    }
    let budget = run.grant.models.as_ref().map(|models| models.budget);
    let budget = budget.unwrap_or_default();
    let (retry, why) = match tx.has_nothing_left(&job, &run.purpose) {
        true => (Retry::Human, job::out_of_money(tx, &job)),
        false => (
            class.retry(),
            format!(
                "it used up its budget of {budget} ({})",
                budget.amount(&run.spent)
            ),
        ),
    };
    let from = job.stage().kind().as_str();
    let to = match run.grant.role.only_reads() {
        true => match retry {
            Retry::Human => job::needs_human(tx, job, &why)?,
            _ => reading::again(tx, job, &run, class, &why)?,
        },
        false => {
            let pushed = pushed_by(&run);
            failed(tx, &run, job, (class, retry), &why, pushed)?
        }
    };
    judge(tx, &run, class, "");
    tx.end_run(run, class, "budget used up".to_owned());
    Ok(format!("job {}: {from} -> {to} ({id}, {class})", id.job))
}

/// True for an end that a run comes to when it is told to stop.
fn fits_a_stop(run: &Run, exit: Option<ContainerExit>) -> bool {
    match (&run.end, exit) {
        (Some(end), _) => end.exit == EngineExit::Stopped,
        (None, Some(exit)) => matches!(exit.code, 137 | 143) && !exit.oom,
        (None, None) => true,
    }
}

/// Whether a break counts towards giving up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Counts,
    Ours,
}

/// An open run with the job that waits for it, or one that is over, however it went.
enum Open {
    Wanted(Box<Run>, Box<Job>),
    Over(String),
}

fn open_run(tx: &mut Tx<'_>, id: RunId) -> Result<Open, Refusal> {
    let run = tx.run(id)?;
    if !run.is_open() {
        return Err(Refusal::Stale(format!("run {id}")));
    }
    Ok(match live_job_of(tx, &run) {
        Some(job) if run.outdated => Open::Over(outdated(tx, run, job)?),
        Some(job) => Open::Wanted(Box::new(run), Box::new(job)),
        None => {
            tx.end_run(run, ExitClass::Killed, "cancelled".to_owned());
            Open::Over(format!("run {id}: cancelled"))
        }
    })
}

/// A code run whose issue was edited. Only now is all known that it pushed.
fn outdated(tx: &mut Tx<'_>, run: Run, mut job: Job) -> Result<String, Refusal> {
    let id = run.id;
    let pushed = pushed_by(&run);
    let left = match &pushed {
        Some(commit) => format!("pushed {}", commit.short()),
        None => "pushed nothing".to_owned(),
    };
    job.story
        .push(format!("{id}: ended, since the issue was edited; {left}"));
    let to = match pushed {
        Some(commit) => publish(tx, job, &run, commit, Next::Anew)?,
        None => job::anew(tx, job)?,
    };
    tx.end_run(run, ExitClass::Killed, "the issue was edited".to_owned());
    Ok(format!("job {}: coding -> {to} ({id}, outdated)", id.job))
}

/// The job, where it still waits for this very run.
fn live_job_of(tx: &Tx<'_>, run: &Run) -> Option<Job> {
    let job = tx.job(run.id.job)?;
    let waits = match &run.purpose {
        Purpose::MergeTest { pr } => {
            let tests =
                |state| matches!(state, PrState::Testing { run: Some(id), .. } if id == run.id);
            *job.stage() == Stage::Proposed && tx.pr(*pr).is_ok_and(|pr| tests(pr.state))
        }
        purpose => {
            job.stage().run() == Some(run.id) && job.stage().purpose().as_ref() == Some(purpose)
        }
    };
    waits.then_some(job)
}

fn settled(
    tx: &mut Tx<'_>,
    run: Run,
    job: Job,
    exit: Option<ContainerExit>,
) -> Result<String, Refusal> {
    if let Some(class @ (ExitClass::OutOfMemory | ExitClass::Killed | ExitClass::Lost)) =
        exit::outside(&run, exit)
    {
        let why = match (class, exit) {
            (ExitClass::OutOfMemory, _) => format!("it ran out of memory ({})", run.limits.memory),
            (ExitClass::Killed, _) if run.end.is_some() => {
                "somebody told its container to stop".to_owned()
            }
            (_, None) => "its container vanished".to_owned(),
            (_, Some(exit)) => format!(
                "its container ended without a word (exit code {})",
                exit.code
            ),
        };
        return broke_off(tx, run, job, class, &why, Blame::Counts);
    }
    match (run.grant.role, run.end.clone()) {
        (Role::Code, Some(end)) => code_ended(tx, run, job, &end),
        (Role::Split | Role::Plan | Role::Review, Some(end)) => reading::ended(tx, run, job, &end),
        (Role::Split | Role::Plan | Role::Code | Role::Review, None) => broke_off(
            tx,
            run,
            job,
            ExitClass::Lost,
            "it ended without a word",
            Blame::Counts,
        ),
        (Role::Check, _) => checked::ended(tx, run, job, exit),
    }
}

/// What the job's next code run goes on from: the newest checkpoint that is not pushed work.
fn remember(job: &mut Job, run: &Run) {
    let old_session = engine::resumes_session(run);
    // A session that could not be gone on with called no model: the next run begins a new one.
    let unusable = old_session && run.usage.calls == 0;
    let session = (!unusable).then(|| run.session.clone());
    let intent = match &run.resume {
        Some(resume) if old_session => resume.intent.clone(),
        _ => run.intent.clone(),
    };
    job.resume = match &run.checkpoint {
        Some(checkpoint) => Some(Resume {
            run: run.id,
            checkpoint: checkpoint.clone(),
            engine: run.engine.clone(),
            start: run.grant.start.clone(),
            session,
            intent,
            finished: false,
        }),
        None => run.resume.clone().map(|resume| Resume {
            session: resume.session.filter(|_| !unusable),
            ..resume
        }),
    };
}

/// A run that did not come to its own end, and is tried again as its class says.
pub(super) fn broke_off(
    tx: &mut Tx<'_>,
    run: Run,
    mut job: Job,
    class: ExitClass,
    why: &str,
    blame: Blame,
) -> Result<String, Refusal> {
    let id = run.id;
    let line = format!("{id}: {class}: {}", text::one_line(why));
    job.story.push(text::trimmed(&line, 500));
    if blame == Blame::Counts {
        job.breaks += 1;
        if class.retry() == Retry::Again {
            job.losses += 1;
        }
        wait(&mut job, class, tx.now.0);
    }
    let stage = job.stage().due_again();
    if let Purpose::MergeTest { pr } = &run.purpose {
        let mut pr = tx.pr(*pr)?;
        if let PrState::Testing { run, .. } = &mut pr.state {
            *run = None;
        }
        tx.put_pr(pr);
    }
    tx.end_run(run.clone(), class, text::one_line(why));
    let doubled = job.memory.is_some();
    let gives_up = match class.retry() {
        Retry::Doubled if doubled => Some(format!(
            "It ran out of memory again, with twice the memory ({}). Raise `limits.memory` in factory.yaml.",
            run.limits.memory
        )),
        Retry::Doubled => {
            job.memory = Some(Bytes(run.limits.memory.0.saturating_mul(2)));
            None
        }
        Retry::None | Retry::Round | Retry::Again | Retry::Human => (job.losses >= MAX_LOSSES)
            .then(|| {
                format!(
                    "{} runs in a row were lost. The last one: {why}",
                    job.losses
                )
            }),
    };
    let pushed = pushed_by(&run);
    let to = match (gives_up, pushed, &run.purpose) {
        (Some(why), Some(commit), Purpose::Code) => {
            publish(tx, job, &run, commit, Next::Human { why })?
        }
        (Some(why), _, _) => job::needs_human(tx, job, &why)?,
        (None, pushed, Purpose::Code) => {
            remember(&mut job, &run);
            job.feedback = Some(format!("The run before you ({id}) broke off: {why}."));
            match pushed {
                // What it pushed is not lost: the next run starts from it.
                Some(commit) => publish(tx, job, &run, commit, Next::Code)?,
                None => {
                    job.enter(stage)?;
                    tx.put_job(job);
                    "queued".to_owned()
                }
            }
        }
        (None, _, Purpose::MergeTest { .. }) => {
            tx.put_job(job);
            "merge test due".to_owned()
        }
        (
            None,
            _,
            Purpose::Split | Purpose::Plan | Purpose::Check | Purpose::Review | Purpose::Verify,
        ) => {
            let due = stage.kind().as_str().to_owned();
            job.enter(stage)?;
            tx.put_job(job);
            configured::go_on(tx, id.job)?;
            due
        }
    };
    Ok(format!(
        "job {}: {id} {class}: {} -> {to}",
        id.job,
        text::one_line(why)
    ))
}

/// Exponential backoff after a break.
fn wait(job: &mut Job, class: ExitClass, now: Seconds) {
    job.not_before = Some(now + class.backoff(job.breaks)).filter(|at| *at > now);
}

/// What a run pushed beyond its start.
fn pushed_by(run: &Run) -> Option<Oid> {
    run.pushed
        .clone()
        .filter(|commit| *commit != run.grant.start)
}

/// Records the move of the work branch from where the run found it to what the run pushed.
fn publish(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    commit: Oid,
    then: Next,
) -> Result<String, Refusal> {
    let kind = EffectKind::MoveBranch {
        issue: job.issue,
        branch: job.branch.clone(),
        old: run.branch_tip.clone(),
        new: commit.clone(),
    };
    tx.put_effect(format!("branch-{}", run.id), kind);
    job.unchecked = (then != Next::Check).then(|| commit.clone());
    job.enter(Stage::Publishing { commit, then })?;
    tx.put_job(job);
    Ok("publishing".to_owned())
}

fn code_ended(tx: &mut Tx<'_>, run: Run, mut job: Job, end: &RunEnd) -> Result<String, Refusal> {
    let id = run.id;
    job.rounds += 1;
    job.feedback = None;
    reported::summarise(&mut job, &run, end);
    let filed = match finished(&run) {
        true => reported::file(tx, &mut job, &run)?,
        false => String::new(),
    };
    let pushed = pushed_by(&run);
    let (class, outcome, to) = match (engine::verdict(&run, end), pushed) {
        (Verdict::Finished, Some(commit)) => {
            came_to_its_end(&mut job);
            job.resume = session_of(&run);
            let (outcome, then) = match &end.push_problem {
                None => (format!("pushed {}", commit.short()), Next::Check),
                // What it says is done is not all there.
                Some(problem) => {
                    job.feedback = Some(format!(
                        "The run before you ({id}) pushed {}, which is on your branch; a later push of it was refused: {problem}\nMake what is missing, commit it on top and `git push`.",
                        commit.short()
                    ));
                    let what = text::trimmed(&text::one_line(problem), 300);
                    let short = commit.short();
                    (
                        format!("pushed {short}; a later push was refused: {what}"),
                        Next::Code,
                    )
                }
            };
            job.story.push(format!("{id}: {outcome}"));
            (
                ExitClass::Ok,
                outcome,
                publish(tx, job, &run, commit, then)?,
            )
        }
        (Verdict::Finished, None)
            if job.unchecked.as_ref() == Some(&run.grant.start) && end.push_problem.is_none() =>
        {
            came_to_its_end(&mut job);
            job.resume = session_of(&run);
            job.unchecked = None;
            let commit = run.grant.start.clone();
            let outcome = format!("added nothing to {}", commit.short());
            job.story.push(format!("{id}: {outcome}"));
            job.checked = job.checked.filter(|checked| checked.commit == commit);
            let checked = tx.config().checks.is_empty() || job.checked.is_some();
            let to = match job.asked_to_split && checked {
                _ if verify::adds_nothing(tx, &job)? => verify::look_again(tx, job, Some(commit))?,
                // One that was asked to become smaller, and cannot.
                true if job.is_approved(&commit) => job::to_opening(tx, job, commit)?,
                true => job::to_review(tx, job, commit)?,
                false => job::to_check(tx, job, commit)?,
            };
            (ExitClass::Ok, outcome, to)
        }
        // It says that nothing is to be added to what is merged.
        (Verdict::Finished, None)
            if end.push_problem.is_none()
                && run.report.is_some()
                && verify::says_it_is_there(tx, &job, &run)? =>
        {
            came_to_its_end(&mut job);
            job.resume = session_of(&run);
            job.story
                .push(format!("{id}: added nothing to what is merged"));
            let to = verify::look_again(tx, job, None)?;
            (ExitClass::Ok, "added nothing".to_owned(), to)
        }
        (Verdict::Finished, None) => {
            came_to_its_end(&mut job);
            job.resume = None;
            if run.handed_nothing_in() {
                remember(&mut job, &run);
            }
            let problem = end
                .push_problem
                .as_deref()
                .map(|p| format!(" {p}"))
                .unwrap_or_default();
            let why = format!("{id} ended without pushing a commit.{problem}");
            let words = text::trimmed(&last_words(&run, end), OUTPUT_LIMIT);
            job.story.push(text::trimmed(&text::one_line(&why), 500));
            let feedback = format!(
                "The run before you ({id}) ended without pushing a commit.{problem} Its last words were:\n\n{words}\n\nMake the change, commit it and `git push`."
            );
            (
                ExitClass::Ok,
                "pushed nothing".to_owned(),
                job::another_round(tx, job, feedback)?,
            )
        }
        (Verdict::Failed { why }, pushed) => {
            let class = exit::outside(&run, None).unwrap_or(ExitClass::EngineError);
            let to = failed(tx, &run, job, (class, class.retry()), &why, pushed)?;
            (class, "broke off".to_owned(), to)
        }
        (Verdict::Refused { why }, pushed) => {
            let class = ExitClass::Refused;
            let to = failed(tx, &run, job, (class, class.retry()), &why, pushed)?;
            (class, "refused".to_owned(), to)
        }
    };
    judge(tx, &run, class, &outcome);
    tx.end_run(run, class, outcome);
    Ok(format!(
        "job {}: coding -> {to} ({id}, {class}){filed}",
        id.job
    ))
}

/// What the end of a code run says of the parts that others need as well.
pub(super) fn judge(tx: &mut Tx<'_>, run: &Run, class: ExitClass, outcome: &str) {
    let blamed = Part::blamed(class, run.usage.last_status);
    let now = tx.now.0;
    let breakers = &mut tx.meta().breakers;
    if class == ExitClass::Ok {
        breakers.clear();
    }
    if run.usage.last_status == 200 {
        breakers.remove(&Part::Provider);
    }
    if let Some(part) = blamed {
        let status = match (part, run.usage.last_status) {
            (Part::Provider, status) => format!(", status {status}"),
            (Part::Agent, _) => String::new(),
        };
        let why = format!("{}: {class}, {outcome}{status}", run.id);
        let next = Breaker::after(breakers.get(&part), run.id.job, why, now);
        breakers.insert(part, next);
    }
}

/// A code run whose engine failed, and what that leads to; what it pushed is kept.
fn failed(
    tx: &mut Tx<'_>,
    run: &Run,
    mut job: Job,
    (class, retry): (ExitClass, Retry),
    why: &str,
    pushed: Option<Oid>,
) -> Result<String, Refusal> {
    let id = run.id;
    remember(&mut job, run);
    let line = format!("{id}: {class}: {}", text::one_line(why));
    job.story.push(text::trimmed(&line, 500));
    match (retry, pushed) {
        (Retry::Human, Some(commit)) => {
            let why = why.to_owned();
            publish(tx, job, run, commit, Next::Human { why })
        }
        (Retry::Human, None) => job::needs_human(tx, job, why),
        (Retry::None | Retry::Round | Retry::Again | Retry::Doubled, pushed) => {
            job.breaks += 1;
            job.losses = 0;
            wait(&mut job, class, tx.now.0);
            let feedback = format!(
                "The run before you ({id}) broke off: {}",
                text::trimmed(why, OUTPUT_LIMIT)
            );
            match pushed {
                Some(commit) => {
                    job.feedback = Some(format!(
                        "{feedback}\nWhat it pushed is on your branch; go on from there."
                    ));
                    publish(tx, job, run, commit, Next::Code)
                }
                None => job::another_round(tx, job, feedback),
            }
        }
    }
}

/// Nothing is owed to earlier breaks any more.
pub(super) fn came_to_its_end(job: &mut Job) {
    job.breaks = 0;
    job.losses = 0;
    job.not_before = None;
}

/// The session of a run that came to its own end, for another round to go on in.
fn session_of(run: &Run) -> Option<Resume> {
    let checkpoint = run.checkpoint.clone().filter(|_| run.keeps_its_session())?;
    let intent = match &run.resume {
        Some(resume) if engine::resumes_session(run) => resume.intent.clone(),
        _ => run.intent.clone(),
    };
    Some(Resume {
        run: run.id,
        checkpoint,
        engine: run.engine.clone(),
        start: run.grant.start.clone(),
        session: Some(run.session.clone()),
        intent,
        finished: true,
    })
}

/// What the engine said last, for people and for the next run.
fn last_words(run: &Run, end: &RunEnd) -> String {
    let stderr = end.stderr_tail.trim();
    let result = serde_json::from_str::<serde_json::Value>(&end.last_output)
        .ok()
        .and_then(|v| v.get("result").and_then(|r| r.as_str()).map(str::to_owned));
    match result {
        Some(words) => words,
        None if end.last_output.trim().is_empty() && stderr.is_empty() => {
            format!("(nothing; see `factory run logs {}`)", run.id)
        }
        None => format!("{}\n{stderr}", end.last_output.trim())
            .trim()
            .to_owned(),
    }
}
