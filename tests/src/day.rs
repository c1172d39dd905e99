//! Days, which begin at midnight UTC for everybody.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// More seconds than a test that counts by days takes.
const ROOM: u64 = 5 * 60;

/// Returns once the day that it is has room for a whole test. One that begins shortly
/// before midnight would else find a new day's room in the middle.
#[expect(
    clippy::disallowed_methods,
    reason = "it is the time itself that is waited for"
)]
pub fn within_one_day() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    thread::sleep(Duration::from_secs(until_next(now.as_secs())));
}

/// Seconds to wait at this time.
fn until_next(now: u64) -> u64 {
    match DAY - now % DAY {
        left if left < ROOM => left,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_comes_shortly_before_midnight_waits_for_it() {
        for (now, wait) in [
            (0, 0),
            (DAY - ROOM, 0),
            (DAY - ROOM + 1, ROOM - 1),
            (3 * DAY - 1, 1),
        ] {
            assert_eq!(until_next(now), wait, "{now}");
        }
    }
}
