//! `factory plan`: what begins next, and why the rest does not.

use crate::{
    clock,
    factory::Factory,
    failure::Failure,
    views::{self, draft::DraftsView, standing::StandingView},
    wait::{self, Running},
};
use factory_core::{
    budget::{Limit, Spent},
    config::Slots,
    model::Job,
    plan::Observed,
    quantity::Milli,
    schedule,
};
use serde::Serialize;
use std::process::ExitCode;

/// The plan in JSON.
#[derive(Debug, Serialize)]
struct PlanView {
    /// Whether a factory runs; what starts is only what would, where none does.
    running: bool,
    /// Whether all agents are stopped.
    frozen: bool,
    slots: Share<u32>,
    /// Bytes.
    memory: Share<u64>,
    /// Thousandths of a processor core.
    milli_cpus: Share<u64>,
    budget: BudgetView,
    /// Issues that agents asked for and that are not filed yet.
    drafts: DraftsView,
    /// Every open issue, what begins first before the rest.
    issues: Vec<StandingView>,
}

#[derive(Debug, Serialize)]
struct Share<T> {
    used: T,
    /// Null where no factory has seen the container engine yet.
    total: Option<T>,
}

/// What models cost, and what they will.
#[derive(Debug, Serialize)]
struct BudgetView {
    /// Of today, until midnight UTC.
    today: Spent,
    /// What may be used in a day; null for what is not limited.
    per_day: Limit,
    /// Approved issues without a pull request.
    ahead: u64,
    /// Done jobs that the forecast is made from.
    done: u64,
    /// What those ahead will probably use; null where none was done yet.
    forecast: Option<Spent>,
}

impl BudgetView {
    fn of(factory: &Factory) -> Self {
        let state = &factory.state;
        let waits = |job: &&Job| !job.stage().waits_for_a_person();
        let ahead: Vec<&Job> = state.jobs.values().filter(waits).collect();
        let done = state.meta.done.unwrap_or_default();
        let each = |sum: u64| sum.checked_div(done.jobs).unwrap_or(0);
        let (micro_usd, tokens) = (each(done.spent.micro_usd), each(done.spent.tokens));
        // What a job under way has used already is behind it.
        let left = |job: &&Job| Spent {
            micro_usd: micro_usd.saturating_sub(job.spent.micro_usd),
            tokens: tokens.saturating_sub(job.spent.tokens),
        };
        let sum = ahead.iter().map(left).fold(Spent::default(), Spent::plus);
        Self {
            today: state.spent_today(clock::now()),
            per_day: state.config.config.budget.per_day,
            ahead: ahead.len() as u64,
            done: done.jobs,
            forecast: (done.jobs > 0).then_some(sum),
        }
    }

    fn show(&self) -> String {
        let limit = match self.per_day.is_none() {
            true => String::new(),
            false => format!(" of {}", self.per_day),
        };
        let ahead = match (self.forecast, self.ahead) {
            (_, 0) => String::new(),
            (Some(sum), n) => format!(
                "; the {n} ahead: probably {sum} (as the {} done before)",
                self.done
            ),
            (None, n) => format!("; the {n} ahead: unknown, none was done yet"),
        };
        let today = self.per_day.amount(&self.today);
        format!("models: {today} today{limit}{ahead}\n")
    }
}

/// Prints the plan.
pub fn run(factory: &Factory, json: bool) -> Result<ExitCode, Failure> {
    let running = wait::kernel(&factory.places)?;
    let view = view(factory, running);
    if json {
        views::print_json(&view)?;
    } else {
        views::print(&show(&view))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the kernel that runs, or ran last, sees of the engine.
pub(super) fn observed(factory: &Factory, running: Option<Running>) -> Observed {
    let seen = factory.state.seen();
    Observed {
        draining: running.is_some() && factory.state.meta.ending.is_some(),
        slots: seen.slots.filter(|_| running.is_some()),
        ..seen
    }
}

fn view(factory: &Factory, running: Option<Running>) -> PlanView {
    let state = &factory.state;
    let observed = observed(factory, running);
    let capacity = state.config.config.capacity(&observed.engine);
    let known = |total: u64| (total < u64::MAX >> 1).then_some(total);
    let slots = match (observed.slots, state.config.config.slots) {
        (None, Slots::Auto) if known(observed.engine.memory.0).is_none() => None,
        _ => Some(state.slots(&observed)),
    };
    let runs = || state.runs.values().map(|run| &run.requests);
    let mut issues: Vec<StandingView> = schedule::explain(state, &observed, clock::now())
        .iter()
        .filter_map(|(number, standing)| {
            let issue = state.issues.get(number)?;
            Some(StandingView::new(issue, standing))
        })
        .collect();
    issues.sort_by_key(StandingView::rank);
    PlanView {
        running: running.is_some(),
        frozen: state.meta.frozen.is_some(),
        slots: Share {
            used: u32::try_from(state.runs.len()).unwrap_or(u32::MAX),
            total: slots,
        },
        memory: Share {
            used: runs().map(|asked| asked.memory.0).sum(),
            total: known(capacity.memory.0),
        },
        milli_cpus: Share {
            used: runs().map(|asked| asked.cpus.0).sum(),
            total: known(capacity.cpus.0),
        },
        budget: BudgetView::of(factory),
        drafts: DraftsView::of(state, None, clock::now()),
        issues,
    }
}

fn show(view: &PlanView) -> String {
    let total = |total: Option<String>| total.unwrap_or_else(|| "?".to_owned());
    let mut out = format!(
        "slots: {}/{}  memory: {}/{}  cpus: {}/{}\n",
        view.slots.used,
        total(view.slots.total.map(|n| n.to_string())),
        gib(view.memory.used),
        total(view.memory.total.map(gib)),
        Milli(view.milli_cpus.used),
        total(view.milli_cpus.total.map(|n| Milli(n).to_string())),
    );
    if view.budget.today != Spent::default()
        || view.budget.done > 0
        || !view.budget.per_day.is_none()
    {
        out.push_str(&view.budget.show());
    }
    out.push_str(&view.drafts.show());
    if view.frozen {
        out.push_str("All agents are stopped; `factory resume` lets them work again.\n");
    } else if !view.running {
        out.push_str("The factory does not run; `factory start` begins what is first here.\n");
    }
    if view.issues.is_empty() {
        out.push_str("\nThere is no open issue: file one with `factory issue new`.\n");
        return out;
    }
    let rows: Vec<_> = view.issues.iter().map(StandingView::row).collect();
    out.push_str(&format!(
        "\n{}",
        views::table(["#", "PRIORITY", "STANDING", "TITLE"], &rows)
    ));
    out
}

/// Memory with one decimal, in GiB.
fn gib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 30;
    format!("{}.{}GiB", tenths / 10, tenths % 10)
}
