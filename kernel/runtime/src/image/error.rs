//! What can go wrong with an image, and what to do about it.

use std::path::PathBuf;

/// Why there is no image. Every message ends with the next step.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The agent's binary cannot be read.
    #[error("cannot read the agent binary {}: build it with `make`", path.display())]
    Agent {
        /// Where it was looked for.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// A name under `image.packages` is not a package name.
    #[error(
        "image.packages: {name:?} is not a package name: use names as `apt-cache search` shows them"
    )]
    Package {
        /// As written.
        name: String,
    },
    /// `image.base` is not an image reference.
    #[error("image.base: {name:?} is not an image reference: write it like `debian:bookworm-slim`")]
    Base {
        /// As written.
        name: String,
    },
    /// The base is not here, no registry gives it, and it cannot be made from
    /// Debian packages on this host.
    #[error(
        "the engine has no image {base} and no registry gave it ({reason}): on a machine with a registry run \
         `docker pull {base} && docker save {base} -o base.tar`, here `docker load -i base.tar`, or set image.base \
         to an image that `docker images` lists"
    )]
    NoBase {
        /// The base asked for.
        base: String,
        /// What the pull ended with.
        reason: String,
    },
    /// No registry answers, and the tool that makes a Debian base is missing.
    #[error(
        "the engine has no image {base} and no registry gave it ({reason}); it can be made from Debian packages: \
         run `apt-get install mmdebstrap`, then build again"
    )]
    NoMmdebstrap {
        /// The base asked for.
        base: String,
        /// What the pull ended with.
        reason: String,
    },
    /// Making a base from Debian packages failed.
    #[error(
        "making {base} from Debian packages failed: {detail}: check the host's apt sources with `apt-get update`"
    )]
    Bootstrap {
        /// The base asked for.
        base: String,
        /// The last lines mmdebstrap wrote.
        detail: String,
    },
    /// A step of a layer failed.
    #[error("building the {layer} layer failed: {detail}: the lines above show the step")]
    Step {
        /// Which layer.
        layer: super::Layer,
        /// What the engine reported, with the last lines of the step.
        detail: String,
    },
    /// A package that the base's package manager does not know.
    #[error(
        "image.packages: the base's distribution has no package {name}: look for its name with \
         `docker run --rm <base> sh -c 'apt-get update && apt-cache search <word>'` (`apk search`, `dnf search`)"
    )]
    NoPackage {
        /// Its name.
        name: String,
    },
    /// The engine's disk, or that of the temporary directory, is full.
    #[error(
        "no space left for the {layer} layer ({place}): free about 2 GB there, for example with `docker image prune` \
         and `docker container prune`, then build again: finished layers are kept"
    )]
    NoSpace {
        /// The layer that did not fit.
        layer: super::Layer,
        /// Which directory is on the full disk.
        place: String,
    },
    /// The engine program does not run in the finished image.
    #[error(
        "{program} does not run on {base}: {detail}: use a base like Debian 12 for this machine's processor, \
         or an engine of your own (`engine: {{command: …}}`)"
    )]
    EngineDoesNotRun {
        /// The program tried.
        program: String,
        /// The base it was laid on.
        base: String,
        /// Exit code and output.
        detail: String,
    },
    /// The caller ended the build.
    #[error("the build was cancelled: run it again, finished layers are kept")]
    Cancelled,
    /// The Docker engine refused or broke off a call.
    #[error("the Docker engine failed to {operation}: see `docker info` and the engine's log")]
    Engine {
        /// What was asked of it.
        operation: &'static str,
        /// What it said.
        #[source]
        source: bollard::errors::Error,
    },
    /// Something on this host failed.
    #[error("cannot {operation}: see the cause below")]
    Host {
        /// What was tried.
        operation: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

impl ImageError {
    /// Turns an engine's error into ours, naming what was asked.
    pub(super) fn engine(operation: &'static str) -> impl FnOnce(bollard::errors::Error) -> Self {
        move |source| Self::Engine { operation, source }
    }

    /// Turns an operating system's error into ours, naming what was tried.
    pub(super) fn host(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Host { operation, source }
    }
}

/// Whether a text of the engine or of a package tool says that a disk is full.
/// Neither has a code for it: the message of `ENOSPC` is all they pass on.
pub(super) fn says_disk_full(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("no space left on device")
        || text.contains("not enough free space")
        || text.contains("disk quota exceeded")
}

/// The package that apt, apk or dnf says it does not know. None has a code for it.
pub(super) fn unknown_package(text: &str) -> Option<String> {
    // Docker colours what was written to standard error, in pieces as they came.
    let ends = |c: char| c.is_whitespace() || c.is_control();
    text.lines().find_map(|line| {
        let rest = ["Unable to locate package ", "No match for argument: "]
            .iter()
            .find_map(|said| line.split_once(said).map(|(_, rest)| rest));
        // apk: `  nosuch (no such package):`
        let name = match rest {
            Some(rest) => rest.split(ends).next()?,
            None => line
                .split_once(" (no such package)")?
                .0
                .rsplit(ends)
                .next()?,
        };
        (!name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::unknown_package;

    #[test]
    fn package_managers_name_what_they_do_not_know() {
        let rows = [
            (
                "Reading…\nE: Unable to locate package nosuch\n",
                Some("nosuch"),
            ),
            (
                "ERROR: unable to select packages:\n  nosuch (no such package):\n",
                Some("nosuch"),
            ),
            (
                "No match for argument: nosuch\nError: Unable to find a match: nosuch",
                Some("nosuch"),
            ),
            (
                "\u{1b}[91mE: Unable to locate package nosuch\u{1b}[0m\n",
                Some("nosuch"),
            ),
            (
                "\u{1b}[91m  nosuch (no such package):\u{1b}[0m",
                Some("nosuch"),
            ),
            ("E: Failed to fetch http://x", None),
        ];
        for (text, name) in rows {
            assert_eq!(unknown_package(text).as_deref(), name, "{text}");
        }
    }
}
