//! Identifiers: one newtype each, parsed once at the edge.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct BadId {
    /// What was given.
    pub text: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                match s.trim_start_matches('#').parse::<u64>() {
                    Ok(n) if n > 0 => Ok(Self(n)),
                    _ => Err(BadId { text: s.to_owned(), expected: $expected }),
                }
            }
        }
    };
}

number_id!(
    /// Number of an issue, and of the job that takes it from approved to done.
    IssueNo, "an issue number such as 7"
);
number_id!(
    /// Number of a pull request. Counted apart from issues.
    PrNo, "a pull request number such as 3"
);
number_id!(
    /// Rises with every kernel start. A kernel whose epoch is not the newest does nothing more;
    /// runs that carry an older one were granted by an earlier kernel and are adopted.
    Epoch, "an epoch"
);

/// Name of a run, `r<job>-<k>`: the k-th run of job (issue) `<job>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The job, which is the issue's number.
    pub job: IssueNo,
    /// Counts the runs of the issue, over all its jobs, from 1.
    pub k: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{}", self.job, self.k)
    }
}

impl FromStr for RunId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            text: s.to_owned(),
            expected: "a run such as r7-1",
        };
        let (job, k) = s
            .strip_prefix('r')
            .and_then(|r| r.split_once('-'))
            .ok_or_else(bad)?;
        let id = Self {
            job: IssueNo(job.parse().map_err(|_| bad())?),
            k: k.parse().map_err(|_| bad())?,
        };
        // Only the canonical spelling: ids are used as ref and file names.
        if id.to_string() == s && id.k > 0 {
            Ok(id)
        } else {
            Err(bad())
        }
    }
}

/// A Git object id: 40 lower-case hexadecimal digits (SHA-1 repositories only).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(String);

impl Oid {
    /// What Git writes for "no object".
    pub fn zero() -> Self {
        Self("0".repeat(40))
    }

    /// True for the all-zero id.
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    /// All 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first ten digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Oid {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        if s.len() == 40 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadId {
                text: s.to_owned(),
                expected: "a full Git object id",
            })
        }
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(RunId);
serde_as_text!(Oid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_have_one_spelling() {
        assert_eq!("r12-3".parse::<RunId>().unwrap().to_string(), "r12-3");
        for bad in [
            "r12", "r12-", "r012-3", "r1-03", "r1-0", "12-3", "r1-1 ", "../r1-1", "r1-1/x",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn oids_are_forty_lower_case_digits() {
        assert!(
            "0123456789abcdef0123456789abcdef01234567"
                .parse::<Oid>()
                .is_ok()
        );
        assert!(
            "0123456789ABCDEF0123456789abcdef01234567"
                .parse::<Oid>()
                .is_err()
        );
        assert!("abc".parse::<Oid>().is_err());
        assert!(Oid::zero().is_zero());
    }
}
