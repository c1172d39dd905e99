//! What model calls cost, and how much of it is left.

use crate::{
    inbox::Usage,
    model::Seconds,
    quantity::{Milli, is_default},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Seconds of a day.
pub const DAY: Seconds = 24 * 3600;

/// List prices of a model, in US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Input that is not in a cache.
    pub input: Milli,
    /// Output.
    pub output: Milli,
    /// Input read from the provider's cache; as `input` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Milli>,
    /// Input written to the provider's cache; as `input` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Milli>,
}

/// Prices by the name of the model.
pub type Prices = BTreeMap<String, Price>;

/// The prices that ship: beginning of the model's name; input, output, cache read and
/// cache write in thousandths of a US dollar for a million tokens. Taken from the
/// providers' price lists of November 2026; `prices` in `factory.yaml` goes before them.
const LIST: [(&str, u64, u64, u64, u64); 13] = [
    ("claude-haiku-4-5", 1_000, 5_000, 100, 1_250),
    ("claude-opus-4-5", 5_000, 25_000, 500, 6_250),
    ("claude-opus-4-6", 5_000, 25_000, 500, 6_250),
    ("claude-opus-4-7", 5_000, 25_000, 500, 6_250),
    ("claude-opus-5-5", 4_000, 20_000, 200, 5_000),
    ("claude-opus-5", 5_000, 25_000, 500, 6_250),
    ("claude-sonnet-4-5", 3_000, 15_000, 300, 3_750),
    ("claude-sonnet-4-6", 3_000, 15_000, 300, 3_750),
    ("claude-sonnet-5", 2_000, 10_000, 200, 2_500),
    ("gpt-5.4-mini", 750, 4_500, 75, 750),
    ("gpt-5.4-nano", 200, 1_200, 20, 200),
    ("gpt-5.4", 2_500, 15_000, 250, 2_500),
    ("gpt-5.5", 5_000, 30_000, 500, 5_000),
];

/// The price of a model: the one that is given, or else the one that ships for the longest
/// beginning of its name, up to a `-` (a dated name, say).
pub fn price_of(model: &str, given: &Prices) -> Option<Price> {
    // A name may carry its provider: `openai/gpt-5.5`.
    let bare = model.rsplit('/').next().unwrap_or(model);
    let begins = |name: &str| {
        let rest = bare.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '@']))
    };
    if let Some(price) = given.get(model).or_else(|| given.get(bare)) {
        return Some(*price);
    }
    let listed = LIST.iter().filter(|(name, ..)| begins(name));
    let (_, input, output, read, write) = listed.max_by_key(|(name, ..)| name.len())?;
    Some(Price {
        input: Milli(*input),
        output: Milli(*output),
        cache_read: Some(Milli(*read)),
        cache_write: Some(Milli(*write)),
    })
}

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spent {
    /// Millionths of a US dollar, by the price table.
    pub micro_usd: u64,
    /// Tokens of all kinds.
    pub tokens: u64,
}

/// How much may be used: money, tokens, or both. What is not given is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd: Option<Milli>,
    /// Tokens of all kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

impl Spent {
    /// What one call used, by `price`; only its tokens where that is not known.
    pub fn of(usage: &Usage, price: Option<&Price>) -> Self {
        let read = usage.cache_read_tokens;
        let write = usage.cache_write_tokens;
        let tokens = [usage.input_tokens, usage.output_tokens, read, write];
        let tokens = tokens.into_iter().fold(0, u64::saturating_add);
        let micro_usd = price.map_or(0, |price| {
            let times = |tokens: u64, usd: Milli| u128::from(tokens) * u128::from(usd.0);
            let all = times(usage.input_tokens, price.input)
                + times(usage.output_tokens, price.output)
                + times(read, price.cache_read.unwrap_or(price.input))
                + times(write, price.cache_write.unwrap_or(price.input));
            // Dollars for a million tokens are millionths of a dollar for one.
            u64::try_from(all.div_ceil(1000)).unwrap_or(u64::MAX)
        });
        Self { micro_usd, tokens }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    /// True where nothing was used.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Limit {
    /// True where nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// True once nothing more may be used.
    pub fn is_reached(&self, spent: &Spent) -> bool {
        let usd = self.usd.is_some_and(|usd| spent.micro_usd >= micro(usd));
        usd || self.tokens.is_some_and(|tokens| spent.tokens >= tokens)
    }

    /// What was used, in words that can be compared with the limit's.
    pub fn amount(&self, spent: &Spent) -> String {
        match (self.usd, self.tokens) {
            (None, Some(_)) => format!("{} tokens", spent.tokens),
            (Some(_), Some(_)) => format!("{spent}, {} tokens", spent.tokens),
            (_, None) => spent.to_string(),
        }
    }

    /// What is left of it.
    #[must_use]
    pub fn less(&self, spent: &Spent) -> Self {
        Self {
            usd: self
                .usd
                .map(|usd| Milli(micro(usd).saturating_sub(spent.micro_usd) / 1000)),
            tokens: self
                .tokens
                .map(|tokens| tokens.saturating_sub(spent.tokens)),
        }
    }

    /// What both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let usd = least(self.usd.map(|usd| usd.0), other.usd.map(|usd| usd.0));
        Self {
            usd: usd.map(Milli),
            tokens: least(self.tokens, other.tokens),
        }
    }

    /// What may still be used of it, as if all of that were used.
    pub fn open(&self, spent: &Spent) -> Spent {
        let left = self.less(spent);
        Spent {
            micro_usd: left.usd.map_or(0, micro),
            tokens: left.tokens.unwrap_or(0),
        }
    }
}

fn micro(usd: Milli) -> u64 {
    usd.0.saturating_mul(1000)
}

/// `$1.25`, and where money says nothing, tokens.
impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.micro_usd, self.tokens) {
            (0, tokens) => write!(f, "{tokens} tokens"),
            (micro, _) => {
                let cents = micro.div_ceil(10_000);
                write!(f, "${}.{:02}", cents / 100, cents % 100)
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.usd, self.tokens) {
            (None, None) => f.write_str("no limit"),
            (Some(usd), None) => write!(f, "${usd}"),
            (None, Some(tokens)) => write!(f, "{tokens} tokens"),
            (Some(usd), Some(tokens)) => write!(f, "${usd} or {tokens} tokens"),
        }
    }
}

/// What was used and done on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Today {
    /// The day, counted from 1970-01-01 (UTC).
    pub day: i64,
    /// What was used.
    pub spent: Spent,
    /// Pull requests that were opened.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_requests: u64,
    /// Issues that agents filed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub issues: u64,
    /// Comments that agents wrote.
    #[serde(default, skip_serializing_if = "is_default")]
    pub comments: u64,
}

impl Today {
    /// What holds on the day of `now`. A clock that is put back by less than a day gives
    /// nobody the money again.
    #[must_use]
    pub fn on(self, now: Seconds) -> Self {
        let day = now.div_euclid(DAY);
        match self.day - day {
            0 | 1 => self,
            _ => Self {
                day,
                ..Self::default()
            },
        }
    }

    /// Adds what was used at `now`.
    pub fn add(&mut self, now: Seconds, spent: Spent) {
        *self = self.on(now);
        self.spent = self.spent.plus(spent);
    }

    /// Counts a pull request that is opened at `now`.
    pub fn count_pull_request(&mut self, now: Seconds) {
        *self = self.on(now);
        self.pull_requests += 1;
    }

    /// Counts an issue that an agent files at `now`.
    pub fn count_issue(&mut self, now: Seconds) {
        *self = self.on(now);
        self.issues += 1;
    }

    /// Counts a comment that an agent writes at `now`.
    pub fn count_comment(&mut self, now: Seconds) {
        *self = self.on(now);
        self.comments += 1;
    }
}

/// The next midnight, UTC.
pub fn midnight_after(now: Seconds) -> Seconds {
    (now.div_euclid(DAY) + 1).saturating_mul(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_tokens_cost_what_the_table_says() {
        let price = price_of("claude-sonnet-4-5-20250929", &Prices::new());
        let usage = |input, output, read, write| Usage {
            input_tokens: input,
            output_tokens: output,
            cache_read_tokens: read,
            cache_write_tokens: write,
            ..Usage::default()
        };
        let cost = |u: Usage| Spent::of(&u, price.as_ref()).micro_usd;
        assert_eq!(cost(usage(1_000_000, 0, 0, 0)), 3_000_000);
        assert_eq!(cost(usage(0, 1_000_000, 0, 0)), 15_000_000);
        assert_eq!(cost(usage(0, 0, 1_000_000, 1_000_000)), 4_050_000);
        // Never rounded down to nothing.
        assert_eq!(cost(usage(0, 0, 1, 0)), 1);
        let all = Spent::of(&usage(1, 2, 3, 4), None);
        assert_eq!((all.micro_usd, all.tokens), (0, 10));
    }

    #[test]
    fn the_longest_name_wins_and_what_is_given_goes_before() {
        let none = Prices::new();
        let input = |model: &str, given: &Prices| price_of(model, given).map(|p| p.input.0);
        assert_eq!(input("gpt-5.4-mini-2026-03-05", &none), Some(750));
        assert_eq!(input("openai/gpt-5.4", &none), Some(2_500));
        assert_eq!(input("claude-opus-5-5", &none), Some(4_000));
        assert_eq!(input("gpt-5.45", &none), None);
        let own = Price {
            input: Milli(7),
            output: Milli(8),
            cache_read: None,
            cache_write: None,
        };
        let given = Prices::from([("gpt-5.4".to_owned(), own)]);
        assert_eq!(input("openai/gpt-5.4", &given), Some(7));
    }

    #[test]
    fn limits_are_the_least_of_what_is_given_and_days_begin_at_midnight() {
        let run = Limit {
            usd: Some(Milli(5_000)),
            tokens: None,
        };
        let day = Limit {
            usd: Some(Milli(2_000)),
            tokens: Some(10),
        };
        let used = Spent {
            micro_usd: 1_500_000,
            tokens: 4,
        };
        let left = run.and(&day.less(&used));
        assert_eq!(
            left,
            Limit {
                usd: Some(Milli(500)),
                tokens: Some(6)
            }
        );
        assert!(!left.is_reached(&Spent::default()));
        assert!(day.is_reached(&Spent {
            micro_usd: 0,
            tokens: 10
        }));
        assert!(!Limit::default().is_reached(&Spent {
            micro_usd: u64::MAX,
            tokens: u64::MAX
        }));
        let mut today = Today::default();
        today.add(DAY + 5, used);
        today.add(DAY + 6, used);
        assert_eq!(today.on(2 * DAY - 1).spent.tokens, 8);
        assert!(today.on(2 * DAY).spent.is_nothing());
        assert_eq!(midnight_after(DAY + 5), 2 * DAY);
        assert_eq!(midnight_after(2 * DAY), 3 * DAY);
    }
}
