//! The laboratory of the end-to-end tests: an installed copy of the real
//! program, a user's repository, the real container engine, a scripted model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests use it, and a test ends at what it did not expect"
)]

mod canary;
mod day;
mod disk;
mod end;
mod engine;
mod lab;
mod model;
mod own_engine;
mod process;
mod start;

pub use canary::{Held, Looked, Search};
pub use day::within_one_day;
pub use disk::Filler;
pub use end::{Difference, End, live_state, state_files, words};
pub use engine::{EventLog, Leftovers, docker};
pub use lab::{Lab, Said};
pub use model::Model;
pub use own_engine::{EngineSetup, OwnEngine};
pub use process::{Found, kill, processes, reap};
pub use start::{Ended, Start};
