//! The pure core of factory.
//!
//! Everything that decides lives here and nothing that acts: no I/O, no clock,
//! no randomness, no async. The shell in `kernel/cli` feeds events into
//! [`step::step`], commits the changes it returns, and performs the actions
//! that [`plan::plan`] derives.

pub mod agents;
pub mod breaker;
pub mod brief;
pub mod budget;
pub mod change;
pub mod config;
pub mod container;
pub mod engine;
pub mod event;
pub mod evidence;
pub mod exit;
pub mod grant;
pub mod history;
pub mod ids;
pub mod inbox;
pub mod model;
pub mod plan;
pub mod quantity;
pub mod report;
pub mod route;
pub mod rules;
pub mod schedule;
pub mod state;
pub mod step;
pub mod text;
pub mod wire;
