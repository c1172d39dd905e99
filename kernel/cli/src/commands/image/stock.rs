//! `factory image list` and `factory image prune`.

use super::Wanted;
use crate::{
    clock, disk,
    failure::{Class, Failure},
    views,
};
use bollard::Docker;
use factory_ledger::places::Places;
use factory_runtime::image::{self, Removal, Stocked};
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// The names of images that this repository's configurations wanted, the present
/// one and earlier ones. What cannot be read counts as none: it can be made again.
pub struct Record {
    file: PathBuf,
    tags: BTreeSet<String>,
}

impl Record {
    /// Reads it.
    pub fn read(places: &Places) -> Self {
        let file = places.cache().join("images.json");
        let text = fs::read(&file).unwrap_or_default();
        Self {
            tags: serde_json::from_slice(&text).unwrap_or_default(),
            file,
        }
    }

    /// Whether an image was wanted before.
    pub fn holds(&self, tag: &str) -> bool {
        self.tags.contains(tag)
    }

    /// Writes down that these are wanted.
    pub fn add(&mut self, tags: Vec<String>) -> Result<(), Failure> {
        let before = self.tags.len();
        self.tags.extend(tags);
        match self.tags.len() == before {
            true => Ok(()),
            false => self.write(),
        }
    }

    fn forget(&mut self, tag: &str) -> Result<(), Failure> {
        match self.tags.remove(tag) {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&self) -> Result<(), Failure> {
        let text = serde_json::to_vec(&self.tags).map_err(|e| Failure::of(Class::Internal, e))?;
        Ok(fs::write(&self.file, text)?)
    }
}

/// Why an image is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Need {
    /// This repository's configuration wants it.
    Wanted,
    /// An earlier configuration of this repository wanted it.
    Earlier,
    /// Another factory's, or nobody's any more.
    Other,
}

/// The names of all images that these are made of.
fn tags(wanted: &[Wanted]) -> Result<Vec<String>, Failure> {
    let tags: Result<Vec<Vec<String>>, Failure> = wanted.iter().map(Wanted::tags).collect();
    Ok(tags?.concat())
}

fn need(tag: &str, wanted: &[String], record: &Record) -> Need {
    if wanted.iter().any(|name| name == tag) {
        Need::Wanted
    } else if record.holds(tag) {
        Need::Earlier
    } else {
        Need::Other
    }
}

/// One image, for programs.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    bytes: u64,
    created: i64,
    need: Need,
    used: bool,
}

/// `factory image list`.
pub async fn list(
    docker: &Docker,
    places: &Places,
    wanted: &[Wanted],
    json: bool,
) -> Result<(), Failure> {
    let (wanted, record) = (tags(wanted)?, Record::read(places));
    let stock = image::stock(docker).await?;
    let rows = stock.iter().map(|image| Row {
        name: &image.tag,
        bytes: image.bytes,
        created: image.created,
        need: need(&image.tag, &wanted, &record),
        used: image.used,
    });
    if json {
        return views::print_json(&rows.collect::<Vec<_>>()).map(drop);
    }
    let now = clock::now().0;
    let rows: Vec<[String; 5]> = rows
        .map(|row| {
            let need = match row.need {
                Need::Wanted => "this repository",
                Need::Earlier => "this repository, before",
                Need::Other => "",
            };
            let used = if row.used { "a container" } else { "" };
            [
                row.name.to_owned(),
                disk::shown(row.bytes),
                age(now - row.created),
                need.to_owned(),
                used.to_owned(),
            ]
        })
        .collect();
    let heading = ["IMAGE", "SIZE", "AGE", "WANTED BY", "USED BY"];
    views::print(&views::table(heading, &rows)).map(drop)
}

fn age(seconds: i64) -> String {
    let (number, unit) = match seconds.max(0) {
        s if s < 2 * 60 * 60 => (s / 60, "minutes"),
        s if s < 2 * 24 * 60 * 60 => (s / 60 / 60, "hours"),
        s => (s / 24 / 60 / 60, "days"),
    };
    format!("{number} {unit}")
}

/// `factory image prune`: what earlier configurations of this repository wanted;
/// with `all`, everything of ours that the present one does not want. Nothing
/// that a container is made from.
pub async fn prune(
    docker: &Docker,
    places: &Places,
    wanted: &[Wanted],
    all: bool,
) -> Result<(), Failure> {
    let (wanted, mut record) = (tags(wanted)?, Record::read(places));
    let stock = image::stock(docker).await?;
    let (mut go, mut kept, mut others) = (Vec::new(), Vec::new(), 0);
    for Stocked { tag, used, .. } in stock.into_iter() {
        match need(&tag, &wanted, &record) {
            Need::Wanted => {}
            Need::Other if !all => others += 1,
            Need::Earlier | Need::Other if used => kept.push(tag),
            Need::Earlier | Need::Other => go.push(tag),
        }
    }
    // Those that stand on others first.
    go.sort_by_key(|tag| !tag.starts_with("factory-agent:"));
    let waiting = || views::aside("an image is being built on this engine; waiting for it");
    let removals = match go.is_empty() {
        true => Vec::new(),
        false => image::remove(docker, &go, waiting).await?,
    };
    let mut lines = String::new();
    for (tag, removal) in go.iter().zip(removals) {
        match removal {
            Removal::Removed => lines.push_str(&format!("removed  {tag}\n")),
            Removal::Gone => {}
            Removal::Used => {
                kept.push(tag.clone());
                continue;
            }
        }
        record.forget(tag)?;
    }
    for tag in kept {
        lines.push_str(&format!("kept     {tag}  (a container is made from it)\n"));
    }
    if others > 0 {
        lines.push_str(&format!(
            "{others} more belong to other factories on this engine, or to nobody any more: \
             `factory image prune --all` removes them too, and who needs one builds it again\n"
        ));
    }
    if lines.is_empty() {
        lines.push_str("nothing to remove\n");
    }
    views::told(&lines)
}
