//! The real binary as pid 1 of namespaces of its own, with a real Git
//! repository served over HTTP by a small gateway.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it has to be"
)]

mod checkpoint;
mod checks;
mod disk;
mod door;
mod engine;
mod gateway;
mod hand_in;
mod lab;
mod resume;
mod stall;
