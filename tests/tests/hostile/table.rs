//! `docs/hostile.md`, made of the list.

use crate::attack::Attack;
use std::path::PathBuf;

/// Where it is kept.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/hostile.md")
}

/// The page where no attack got through and every control did.
pub fn page(attacks: &[&Attack]) -> String {
    let controls = attacks.iter().filter(|attack| attack.no_control.is_none());
    let mut text = format!(
        "# What a hostile agent tries\n\n\
        {} attacks, 0 through. Each is an engine that really tries it, in the container of a real run; what \
        came of it is looked at from outside. {} of them have a control: the same attack with its wall \
        taken away, and nothing else, gets through, so the test would see it. `make hostile` plays all \
        of them and writes this page. What it is to prove is in [threat-model.md](threat-model.md).\n\n\
        | attack | tries | wall | result | control |\n| --- | --- | --- | --- | --- |\n",
        attacks.len(),
        controls.count(),
    );
    for Attack {
        name,
        tries,
        wall,
        no_control,
        ..
    } in attacks
    {
        let control = match no_control {
            None => "gets through".to_owned(),
            Some(why) => format!("none: {why}"),
        };
        text.push_str(&format!(
            "| `{name}` | {tries} | {} | held | {control} |\n",
            wall.words()
        ));
    }
    text
}
