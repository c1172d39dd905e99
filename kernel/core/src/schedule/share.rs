//! Slots by type of agent: some are kept for one type, the rest is lent to all.

use super::Full;
use crate::config::{AgentType, Types};

/// How the slots are shared out now.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    slots: u32,
    types: Types,
    used: [u32; AgentType::ALL.len()],
}

impl Shares {
    /// Where fewer slots were ordered than are kept, workers have one at least, and what
    /// is left is kept for sensors first.
    pub(super) fn of(slots: u32, mut types: Types) -> Self {
        let mut left = slots.saturating_sub(types.worker.min.max(1));
        for quota in [&mut types.sensor, &mut types.adversary] {
            quota.min = quota.min.min(left);
            left -= quota.min;
        }
        Self {
            slots,
            types,
            used: [0; AgentType::ALL.len()],
        }
    }

    /// A run of this type lives, wherever it took its slot from.
    pub(super) fn count(&mut self, agent: AgentType) {
        self.used[agent as usize] += 1;
    }

    /// Says what keeps a run of this type from a slot.
    pub(super) fn refusal(&self, agent: AgentType) -> Option<Full> {
        let used = self.used[agent as usize];
        let quota = self.types.of(agent);
        if let Some(max) = quota.max.filter(|max| used >= *max) {
            return Some(Full::Quota { agent, max });
        }
        if used < quota.min {
            return None;
        }
        let kept = AgentType::ALL.map(|other| {
            let min = self.types.of(other).min;
            min.saturating_sub(self.used[other as usize])
        });
        let kept: u32 = kept.iter().sum();
        let free = self.slots.saturating_sub(self.used.iter().sum());
        (free <= kept).then_some(Full::Kept { free })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Quota, Worker};
    use proptest::prelude::*;

    fn take(shares: &mut Shares, agent: AgentType) -> Option<Full> {
        let refusal = shares.refusal(agent);
        if refusal.is_none() {
            shares.count(agent);
        }
        refusal
    }

    #[test]
    fn what_is_kept_is_kept_and_the_rest_is_lent_and_handed_back() {
        let text = "slots: 4\ntypes: {worker: {min: 1, max: 3}, sensor: {min: 1}}\n";
        let config = Config::parse(text).unwrap();
        let mut shares = Shares::of(4, config.types);
        let (worker, sensor) = (AgentType::Worker, AgentType::Sensor);
        for _ in 0..3 {
            assert_eq!(take(&mut shares, worker), None);
        }
        let full = take(&mut shares, worker).unwrap();
        assert_eq!(full.to_string(), "waits for a worker slot: 3/3 used");
        // The one that is left is kept.
        let full = take(&mut shares, AgentType::Adversary).unwrap();
        assert_eq!(full, Full::Kept { free: 1 });
        assert_eq!(take(&mut shares, sensor), None);
        // Two workers end: one slot is kept for them no more than they use, so both are lent.
        shares.used[worker as usize] -= 2;
        assert_eq!(take(&mut shares, sensor), None);
        assert_eq!(take(&mut shares, sensor), None);
        // And come back as the others end.
        shares.used[sensor as usize] -= 2;
        assert_eq!(take(&mut shares, worker), None);
        assert_eq!(take(&mut shares, worker), None);
    }

    #[test]
    fn fewer_slots_than_are_kept_leave_workers_one() {
        let sensor = Quota { min: 2, max: None };
        for (slots, kept) in [(1, 0), (2, 1), (3, 2), (9, 2)] {
            let types = Types {
                sensor,
                ..Types::default()
            };
            let shares = Shares::of(slots, types);
            assert_eq!(shares.types.sensor.min, kept, "{slots}");
            assert_eq!(shares.refusal(AgentType::Worker), None, "{slots}");
        }
    }

    fn quota() -> impl Strategy<Value = Quota> {
        (0u32..4, proptest::option::of(0u32..6)).prop_map(|(min, max)| Quota {
            min,
            max: max.map(|max| max.max(min)),
        })
    }

    proptest! {
        /// Whoever comes and goes in whatever order: nobody is above a maximum, and who has
        /// fewer than are kept for it always finds one.
        #[test]
        fn no_quota_is_broken_and_what_is_kept_is_there(
            worker in quota(),
            sensor in quota(),
            adversary in quota(),
            more in 0u32..5,
            moves in proptest::collection::vec((0usize..3, any::<bool>()), 0..60),
        ) {
            let Quota { min, max } = worker;
            let worker = Worker { min, max, ..Worker::default() };
            let types = Types { worker, sensor, adversary };
            let slots = types.reserved().max(1) + more;
            let mut shares = Shares::of(slots, types);
            let types = shares.types;
            for (which, comes) in moves {
                let agent = AgentType::ALL[which];
                if comes {
                    take(&mut shares, agent);
                } else {
                    shares.used[which] = shares.used[which].saturating_sub(1);
                }
                prop_assert!(shares.used.iter().sum::<u32>() <= slots);
                for agent in AgentType::ALL {
                    let (used, quota) = (shares.used[agent as usize], types.of(agent));
                    prop_assert!(quota.max.is_none_or(|max| used <= max));
                    prop_assert!(used >= quota.min || shares.refusal(agent).is_none());
                }
                // Nothing is left empty that nobody keeps.
                let free = slots - shares.used.iter().sum::<u32>();
                let kept: u32 = AgentType::ALL
                    .iter()
                    .map(|a| types.of(*a).min.saturating_sub(shares.used[*a as usize]))
                    .sum();
                for agent in AgentType::ALL {
                    let below = types.of(agent).max.is_none_or(|max| shares.used[agent as usize] < max);
                    prop_assert!(free <= kept || !below || shares.refusal(agent).is_none());
                }
            }
        }
    }
}
