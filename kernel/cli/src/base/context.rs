//! What is sent to the engine to build a base, and its name: a hash of what
//! goes into the image.

use super::{
    Recipe,
    dockerfile::sources,
    patterns::{self, Ignore},
};
use crate::failure::{Class, Failure};
use factory_ledger::{
    repo::{EntryKind, TreeEntry},
    user::UserRepo,
};
use factory_runtime::image::{OwnBase, OwnFile, own_tag};

/// Largest Dockerfile and `.dockerignore`, in bytes.
const LIMIT: u64 = 1 << 20;
/// Most bytes of a context: it is held in memory.
const MOST_BYTES: u64 = 256 << 20;

/// The name of the image that a recipe makes, and notes on it. A change of a
/// file that the Dockerfile does not name leaves the name as it is: else every
/// commit would want another image.
pub(super) fn name(user: &UserRepo, recipe: &Recipe) -> Result<(String, Vec<String>), Failure> {
    let text = text_of(user, recipe)?;
    let sources = sources(&text);
    let mut parts: Vec<String> = vec![text, recipe.target.clone().unwrap_or_default()];
    parts.extend(
        recipe
            .args
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    if !sources.named.is_empty() {
        let is_named = |path: &str| {
            sources
                .named
                .iter()
                .any(|source| patterns::names(source, path))
        };
        for (path, entry) in entries(user, recipe)? {
            if is_named(&path) {
                parts.push(format!("{path} {} {}", entry.executable, entry.oid));
            }
        }
    }
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    let notes = sources.whole.iter().map(|line| {
        format!(
            "{}: what `{line}` takes is not looked at for changes; the image is made anew when the Dockerfile changes",
            recipe.dockerfile
        )
    });
    Ok((own_tag(&parts), notes.collect()))
}

/// Everything for the engine.
pub(super) fn load(user: &UserRepo, recipe: &Recipe, name: &str) -> Result<OwnBase, Failure> {
    let entries = entries(user, recipe)?;
    let bytes: u64 = entries.iter().map(|(_, entry)| entry.size).sum();
    if bytes > MOST_BYTES {
        return Err(Failure::new(
            Class::Image,
            format!(
                "the build context of {} is {} MiB large, and at most {} MiB are sent",
                recipe.dockerfile,
                bytes >> 20,
                MOST_BYTES >> 20
            ),
        )
        .help("leave out what it does not need with a .dockerignore"));
    }
    let (paths, entries): (Vec<String>, Vec<TreeEntry>) = entries.into_iter().unzip();
    let contents = user.read_entries(&recipe.commit, &entries)?;
    let files = paths.into_iter().zip(entries).zip(contents);
    let files = files.map(|((path, entry), content)| match entry.kind {
        EntryKind::Link => OwnFile::link(path, content),
        EntryKind::File | EntryKind::Submodule => OwnFile::file(path, entry.executable, content),
    });
    Ok(OwnBase {
        tag: name.to_owned(),
        dockerfile: text_of(user, recipe)?,
        files: files.collect(),
        args: recipe.args.clone(),
        target: recipe.target.clone(),
    })
}

fn text_of(user: &UserRepo, recipe: &Recipe) -> Result<String, Failure> {
    let place = format!("{} (commit {})", recipe.dockerfile, recipe.commit.short());
    let wrong = |what: &str| {
        Failure::new(Class::Config, format!("{place} {what}"))
            .help("commit it on the target branch, or change what names it: image.dockerfile, or devcontainer.json")
    };
    let bytes = user.read_file(&recipe.commit, &recipe.dockerfile, LIMIT)?;
    let bytes = bytes.ok_or_else(|| wrong("is not there"))?;
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text"))
}

/// What is in the context, by its path there; without what `.dockerignore` leaves out.
fn entries(user: &UserRepo, recipe: &Recipe) -> Result<Vec<(String, TreeEntry)>, Failure> {
    let prefix = match recipe.context.as_str() {
        "" => String::new(),
        dir => format!("{dir}/"),
    };
    // A Dockerfile may have rules of its own; they go before.
    let places = [
        format!("{}.dockerignore", recipe.dockerfile),
        format!("{prefix}.dockerignore"),
    ];
    let mut ignore = Ignore::default();
    for place in places {
        if let Some(bytes) = user.read_file(&recipe.commit, &place, LIMIT)? {
            ignore = Ignore::read(&String::from_utf8_lossy(&bytes));
            break;
        }
    }
    let all = user.list_tree(&recipe.commit, &recipe.context)?;
    let inside = all.into_iter().filter_map(|entry| {
        let path = entry.path.strip_prefix(&prefix)?.to_owned();
        let is_sent = entry.kind != EntryKind::Submodule && !ignore.leaves_out(&path);
        is_sent.then_some((path, entry))
    });
    Ok(inside.collect())
}
