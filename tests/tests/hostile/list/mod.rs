//! The attacks.

mod host;
pub mod limits;
mod network;
mod objects;
mod pushes;
mod rights;
mod secrets;
pub mod time;

use crate::attack::Attack;

/// All of them, in the order of the table.
pub fn all() -> Vec<&'static Attack> {
    [
        time::ALL,
        network::ALL,
        host::ALL,
        rights::ALL,
        secrets::ALL,
        pushes::ALL,
        objects::ALL,
        limits::ALL,
    ]
    .into_iter()
    .flatten()
    .collect()
}
