//! `factory gc`: packs our repositories and drops what is old enough.

use crate::{
    clock, disk,
    disk::Disk,
    factory::Factory,
    failure::{Class, Failure},
    retention,
    views::{self, count},
    wait,
};
use factory_ledger::pack::{self, Depth, Which};
use std::process::ExitCode;

/// Packs and drops, and prints what came of it.
pub fn run(factory: &mut Factory) -> Result<ExitCode, Failure> {
    let now = clock::now().0;
    let before = Disk::of(&factory.places);
    let lock = match wait::lock(&factory.places) {
        Ok(lock) => Some(lock),
        Err(failure) if failure.class() == Class::Busy => None,
        Err(failure) => return Err(failure),
    };
    factory.reload()?;
    let quiet = lock.is_some() && factory.state.runs.is_empty();
    let dropped = retention::drop_old(factory, now)?;
    let mut packed = Vec::new();
    let mut others = Vec::new();
    let depth = if quiet { Depth::Whole } else { Depth::Quick };
    let all = [
        (Which::State, "state.git"),
        (Which::Door, "door.git"),
        (Which::Base, "base.git"),
    ];
    for (which, name) in all {
        if which == Which::Base && !quiet {
            continue;
        }
        let places = &factory.places;
        if !which.dir(places).exists() {
            continue;
        }
        match pack::pack(places, which, depth, now)? {
            true => packed.push(name),
            false => others.push(name),
        }
    }
    if quiet {
        retention::freed(&factory.places, now)?;
    }
    let after = Disk::of(&factory.places);
    let mut out = format!(
        "dropped: {}, {}, {}\npacked:  {}\n",
        count(dropped.transcripts, "transcript"),
        match dropped.inboxes {
            1 => "1 inbox".to_owned(),
            n => format!("{n} inboxes"),
        },
        count(dropped.kept, "kept commit"),
        match packed.is_empty() {
            true => "nothing".to_owned(),
            false => packed.join(", "),
        },
    );
    if !others.is_empty() {
        let names = others.join(", ");
        out.push_str(&format!(
            "not packed, since the kernel does it now: {names}\n"
        ));
    }
    out.push_str(&format!(
        "disk:    {}, {} freed\n",
        disk::shown(after.total),
        disk::shown(before.total.saturating_sub(after.total)),
    ));
    if !quiet {
        out.push_str(
            "note:    while the factory runs or has live runs, base.git stays as it is and\n         \
             unreachable objects stay; run this again after `factory stop` to free more\n",
        );
    }
    views::told(&out)?;
    Ok(ExitCode::SUCCESS)
}
