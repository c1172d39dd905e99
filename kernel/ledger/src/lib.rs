//! Git as the database: state, inbox, base and door repositories, workspaces, merges.

pub mod advance;
pub mod base;
pub mod change;
pub mod changes;
pub mod door;
pub mod failpoint;
pub mod git;
pub mod history;
pub mod inbox;
pub mod incoming;
pub mod lock;
pub mod mark;
pub mod merge;
mod outgoing;
pub mod pack;
pub mod places;
mod repair;
pub mod repo;
pub mod restore;
pub mod sockets;
pub mod state;
pub mod store;
pub mod sync;
pub mod user;
pub mod workspace;
