//! The report of a run: `report.json`, written by the engine, handed in once.

use crate::{
    door::{Door, HOLD},
    places::Places,
};
use bytes::Bytes;
use factory_core::{
    grant::Role,
    report::{BadReport, validate},
    wire::{PATH_REPORT, Refusal},
};
use hyper::{Method, StatusCode};
use rustix::fs::{Mode, OFlags};
use std::{
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

/// A longer report is refused.
const MAX_REPORT: u64 = 64 * 1024;

/// A report that cannot be handed in.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It cannot be read.
    #[error("the report {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A directory, link, pipe or device.
    #[error("the report {} is not a plain file; write the JSON text itself there", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// More than 64 KiB.
    #[error("the report is longer than {} KiB; shorten it", MAX_REPORT / 1024)]
    TooLong,
    /// Not JSON.
    #[error(
        "the report is not JSON ({source}); write one JSON value as your role's instructions show it"
    )]
    NotJson {
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// Not as its role wants it.
    #[error(transparent)]
    Bad(#[from] BadReport),
    /// It cannot be written.
    #[error("the report cannot be written to {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Reads at most [`MAX_REPORT`] bytes.
fn bounded(from: impl Read, path: &Path) -> Result<Vec<u8>, ReportError> {
    let mut text = Vec::new();
    let read = from.take(MAX_REPORT + 1).read_to_end(&mut text);
    read.map_err(|source| ReportError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if text.len() as u64 > MAX_REPORT {
        Err(ReportError::TooLong)
    } else {
        Ok(text)
    }
}

/// The report, if the engine left one.
fn read(path: &Path) -> Result<Option<Bytes>, ReportError> {
    // Neither a link nor a pipe without writer may make the agent read or wait
    // elsewhere.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(ReportError::NotAFile {
                path: path.to_owned(),
            });
        }
        Err(e) => {
            return Err(ReportError::Unreadable {
                path: path.to_owned(),
                source: e.into(),
            });
        }
    };
    let meta = file.metadata().map_err(|source| ReportError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if !meta.is_file() {
        return Err(ReportError::NotAFile {
            path: path.to_owned(),
        });
    }
    bounded(file, path).map(|text| Some(text.into()))
}

/// Hands in the report each time its text is new.
#[derive(Debug, Default)]
pub struct Report {
    accepted: Option<Bytes>,
}

/// What is told of a report that has to be there and is not.
pub fn missing(places: &Places) -> String {
    format!(
        "there is no report: hand it in by the tool `report`, or write it to {}, as your role's instructions show it",
        places.report().display()
    )
}

impl Report {
    /// One was accepted.
    pub fn is_accepted(&self) -> bool {
        self.accepted.is_some()
    }

    /// Hands in what is there now.
    ///
    /// # Errors
    /// A paragraph that says what is wrong with it.
    pub async fn hand_in(&mut self, places: &Places, door: &Door) -> Result<(), String> {
        let Some(text) = read(&places.report()).map_err(|e| crate::chain(&e))? else {
            return Ok(());
        };
        if self.accepted.as_ref() == Some(&text) {
            return Ok(());
        }
        let answer = door
            .ask(Method::POST, PATH_REPORT, text.clone(), HOLD)
            .await;
        let answer = answer
            .map_err(|e| format!("the report could not be handed in: {}", crate::chain(&e)))?;
        if answer.status.is_success() {
            crate::log(format_args!("report accepted"));
            self.accepted = Some(text);
            return Ok(());
        }
        let said = match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(refusal) => refusal.error,
            Err(_) => crate::output::text(&answer.body, 4096),
        };
        match answer.status {
            StatusCode::UNPROCESSABLE_ENTITY => Err(said),
            status => Err(format!(
                "the gateway does not take the report ({status}): {said}"
            )),
        }
    }
}

/// `factory-agent report [FILE]`: puts a report where the agent looks for it.
///
/// # Errors
/// What is wrong with it.
pub fn leave(
    places: &Places,
    role: Option<Role>,
    from: Option<&Path>,
) -> Result<PathBuf, ReportError> {
    let text = match from {
        None => bounded(io::stdin().lock(), Path::new("-"))?,
        Some(path) => {
            let file = std::fs::File::open(path);
            bounded(
                file.map_err(|source| ReportError::Unreadable {
                    path: path.to_owned(),
                    source,
                })?,
                path,
            )?
        }
    };
    put(places, role, &text)
}

/// Leaves a report where the agent looks for it, once it is as the run's role wants it; any
/// JSON where no role is known.
///
/// # Errors
/// What is wrong with it.
pub fn put(places: &Places, role: Option<Role>, text: &[u8]) -> Result<PathBuf, ReportError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(text)
        .map_err(|source| ReportError::NotJson { source })?;
    if let Some(role) = role {
        validate(role, text)?;
    }
    // Whole or not at all, also when whoever calls this is ended meanwhile.
    let (path, half) = (places.report(), places.out().join(".report.json.new"));
    let written = std::fs::File::create(&half)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| std::fs::rename(&half, &path));
    written.map_err(|source| ReportError::Unwritable {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}
