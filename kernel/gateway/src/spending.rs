//! What a run has used of its budget. Beyond it, at most one call is under way.

use crate::api::lenient;
use factory_core::{
    budget::{Limit, Spent},
    grant::ModelGrant,
    ids::Oid,
    inbox::{InboxEntry, Usage},
};
use serde::{Deserialize, de::IgnoredAny};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most tokens of an answer whose request names no limit.
const LONG_ANSWER: u64 = 32_000;
/// More tokens than any model takes in.
const LONGEST_INPUT: u64 = 10_000_000;

/// The spending of one run.
#[derive(Default)]
pub(crate) struct Spending {
    state: Mutex<State>,
    settled: Notify,
}

#[derive(Default)]
struct State {
    spent: Spent,
    /// What the calls under way may use at most, each.
    under_way: Vec<Spent>,
    told: bool,
}

/// A call that was let through. It is under way until this is dropped, counted or not.
pub(crate) struct Ticket {
    spending: Arc<Spending>,
    most: Spent,
}

impl Spending {
    /// What an inbox tells.
    pub(crate) fn of(models: Option<&ModelGrant>, entries: &[(Oid, InboxEntry)]) -> Self {
        let mut state = State::default();
        for (_, entry) in entries {
            match entry {
                InboxEntry::Usage(usage) => {
                    let spent = models.map(|models| models.spent(usage));
                    state.spent = state.spent.plus(spent.unwrap_or_default());
                }
                InboxEntry::OverBudget => state.told = true,
                InboxEntry::Push { .. }
                | InboxEntry::Checkpoint { .. }
                | InboxEntry::Report { .. }
                | InboxEntry::End(_) => {}
            }
        }
        Self {
            state: Mutex::new(state),
            settled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through that may use `most`, once no other one could take the run beyond
    /// its limit. None where that is reached.
    pub(crate) async fn admit(self: &Arc<Self>, limit: &Limit, most: Spent) -> Option<Ticket> {
        loop {
            let settled = self.settled.notified();
            {
                let mut state = self.lock();
                if limit.is_reached(&state.spent) {
                    return None;
                }
                let promised = state
                    .under_way
                    .iter()
                    .fold(state.spent, |all, one| all.plus(*one));
                if state.under_way.is_empty() || !limit.is_reached(&promised) {
                    state.under_way.push(most);
                    let spending = Arc::clone(self);
                    return Some(Ticket { spending, most });
                }
            }
            settled.await;
        }
    }

    /// Counts what a call used.
    pub(crate) fn add(&self, spent: Spent) {
        let mut state = self.lock();
        state.spent = state.spent.plus(spent);
    }

    /// True the first time: the kernel is to be told that the budget is used up.
    pub(crate) fn is_news(&self) -> bool {
        !std::mem::replace(&mut self.lock().told, true)
    }

    /// The kernel could not be told.
    pub(crate) fn untold(&self) {
        self.lock().told = false;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.spending.lock();
        if let Some(at) = state.under_way.iter().position(|one| *one == self.most) {
            state.under_way.swap_remove(at);
        }
        drop(state);
        self.spending.settled.notify_waiters();
    }
}

/// What a call may use at most: two bytes of text make a token at least, and a provider
/// keeps to the limit in the request.
pub(crate) fn most_of(models: &ModelGrant, model: &str, body: &[u8]) -> Spent {
    #[derive(Deserialize)]
    struct Request {
        #[serde(default, deserialize_with = "lenient")]
        max_tokens: Option<u64>,
        #[serde(default, deserialize_with = "lenient")]
        max_output_tokens: Option<u64>,
        #[serde(default, deserialize_with = "lenient")]
        max_completion_tokens: Option<u64>,
        #[serde(default, deserialize_with = "lenient")]
        n: Option<u64>,
        #[serde(default, deserialize_with = "lenient")]
        best_of: Option<u64>,
        previous_response_id: Option<IgnoredAny>,
        conversation: Option<IgnoredAny>,
    }
    let (each, answers, unseen) = match serde_json::from_slice::<Request>(body) {
        Ok(named) => {
            let limits = [named.max_tokens, named.max_output_tokens];
            let each = limits
                .into_iter()
                .flatten()
                .chain(named.max_completion_tokens);
            // What the provider adds of its own is not seen here.
            let adds = named.previous_response_id.is_some() || named.conversation.is_some();
            (
                each.max().unwrap_or(LONG_ANSWER),
                named.n.max(named.best_of).unwrap_or(1).max(1),
                if adds { LONGEST_INPUT } else { 0 },
            )
        }
        // A key twice, say: the provider may read what we do not.
        Err(_) => (LONG_ANSWER, 1, LONGEST_INPUT),
    };
    let usage = Usage {
        model: model.to_owned(),
        input_tokens: (body.len() / 2) as u64 + unseen,
        output_tokens: each.saturating_mul(answers),
        ..Usage::default()
    };
    models.spent(&usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_core::quantity::Milli;

    fn dollars(n: u64) -> Spent {
        Spent {
            micro_usd: n * 1_000_000,
            tokens: 0,
        }
    }

    #[test]
    fn a_call_may_use_what_its_request_asks_for() {
        let models: ModelGrant = serde_json::from_value(serde_json::json!({
            "api": "chat-completions", "base_url": "https://x", "key_env": "X_API_KEY",
            "budget": {"tokens": 5}, "model": "m",
        }))
        .unwrap();
        let most = |body: &str| most_of(&models, "m", body.as_bytes()).tokens;
        let plain = r#"{"max_tokens":19}"#;
        assert_eq!(most(plain), 19 + plain.len() as u64 / 2);
        assert!(most(r#"{"max_tokens":19,"n":100}"#) > 1900);
        assert!(most(r#"{"max_tokens":1e3}"#) > 1000);
        assert!(most(r#"{"max_tokens":1,"max_completion_tokens":700}"#) > 700);
        for odd in ["no json", r#"{"n":1,"n":100}"#] {
            assert!(most(odd) > LONGEST_INPUT, "{odd}");
        }
        assert!(most(r#"{"previous_response_id":"r"}"#) > LONGEST_INPUT);
        assert!(most(r#"{"max_tokens":18446744073709551615,"n":9}"#) > 9 << 39);
    }

    #[tokio::test]
    async fn one_call_at_most_goes_beyond_the_limit() {
        let spending = Arc::new(Spending::default());
        let limit = Limit {
            usd: Some(Milli(10_000)),
            tokens: None,
        };
        // Small ones go beside each other.
        let one = spending.admit(&limit, dollars(2)).await.unwrap();
        let two = spending.admit(&limit, dollars(2)).await.unwrap();
        // This one may reach the limit; so whoever comes behind it waits.
        let three = spending.admit(&limit, dollars(9)).await.unwrap();
        let mut four = Box::pin(spending.admit(&limit, dollars(1)));
        assert!(futures_util::poll!(&mut four).is_pending());
        drop((one, two));
        assert!(futures_util::poll!(&mut four).is_ready(), "13 became 9");
        let mut five = Box::pin(spending.admit(&limit, dollars(1)));
        let pending = futures_util::poll!(&mut five).is_pending();
        assert!(!pending, "the fourth left at once");
        spending.add(dollars(11));
        drop(three);
        assert!(spending.admit(&limit, dollars(1)).await.is_none());
        assert!(spending.is_news() && !spending.is_news());
    }
}
