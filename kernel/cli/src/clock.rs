//! The one place where the time of day is read.

use factory_core::{event::Now, model::Seconds};
use jiff::Timestamp;
use std::time::Duration;

/// UTC in whole seconds since 1970.
pub fn now() -> Now {
    Now(Timestamp::now().as_second() + offset())
}

#[cfg(not(feature = "failpoints"))]
fn offset() -> i64 {
    0
}

/// Seconds by which a test puts the clock forward or back: what the file that
/// `FACTORY_TEST_CLOCK` names holds at the moment.
#[cfg(feature = "failpoints")]
fn offset() -> i64 {
    let file = std::env::var_os("FACTORY_TEST_CLOCK");
    file.and_then(|file| std::fs::read_to_string(file).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// How long it is until a time of the state; nothing where it has passed. A
/// clock that is set back meanwhile makes a wait longer, so none is longer than
/// a minute: who waits looks again.
pub fn until(seconds: Seconds) -> Duration {
    let left = seconds.saturating_sub(now().0);
    Duration::from_secs(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(60))
}

/// A time of the state, for people: UTC to the second.
pub fn show(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}
