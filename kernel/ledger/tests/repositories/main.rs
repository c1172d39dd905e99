//! `base.git`, `door.git`, workspaces, the user's repository and merges, with
//! the real git in temporary directories.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod advance;
mod base;
mod change;
mod changes;
mod door;
mod fixture;
mod merge;
mod recover;
mod workspace;
