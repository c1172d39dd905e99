//! The one door of agents: models, git, reports.
//!
//! One unix socket per run leads here. What a run may do through it is its
//! [`Grant`](factory_core::grant::Grant), read from the state when the gateway
//! starts and whenever it is woken; the gateway keeps no other memory. What a
//! run does is written to its inbox before the run gets its answer.

mod api;
pub mod client;
mod control;
pub mod door;
mod error;
mod failpoint;
pub mod git;
pub mod http;
pub mod keys;
mod listen;
mod models;
mod relay;
mod server;
mod spending;
mod sse;
pub mod stores;
mod transcript;
#[cfg(test)]
mod untrusted;
mod upstream;

pub use api::provider_path;
pub use error::GatewayError;
pub use keys::{Keys, Redactor};
pub use server::{GatewayOptions, Grants, run};
pub use stores::{Clock, Stores, Timing};
pub use upstream::reach;
