//! Numbers that a seed gives again.

use std::hash::{BuildHasher, Hasher, RandomState};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 31)) % end
    }
}

/// The seed in `FACTORY_SEED`, or a new one; printed, so that it can be given back.
pub fn seed() -> u64 {
    let given = std::env::var("FACTORY_SEED").unwrap_or_default();
    let seed = match given.trim() {
        // The hasher's keys are the system's random numbers.
        "" => RandomState::new().build_hasher().finish(),
        number => number.parse().unwrap(),
    };
    println!("seed: FACTORY_SEED={seed}");
    seed
}
