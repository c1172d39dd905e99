//! Request bodies on their way to git, and git's output on its way back.

use crate::http::{Body, BodyError};
use bytes::Bytes;
use flate2::write::GzDecoder;
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdout};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::ReaderStream;

/// Compressed input is decoded in steps of this size: one step yields at most
/// about a thousand times as much.
const GZIP_STEP: usize = 4096;
/// A body over its limit is read and thrown away up to this many times the
/// limit, so that the client is listening when it gets its refusal.
const DRAIN_FACTOR: u64 = 2;

/// A request body on disk, without a name: it vanishes with its last handle.
#[derive(Debug)]
pub(super) struct Spool {
    /// At most the limit; the beginning, where the body was longer.
    pub(super) file: File,
    /// The body was longer than the limit.
    pub(super) over: bool,
}

/// Why a body was not spooled.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    /// The client went away or sent nonsense.
    #[error("the request body broke off")]
    Broken(#[source] BodyError),
    /// `Content-Encoding: gzip`, but it is not.
    #[error("the request body is not gzip as its header says")]
    NotGzip(#[source] io::Error),
    /// Far more than the limit.
    #[error("the request body is far beyond the limit")]
    Endless,
    /// Our disk.
    #[error("the request body could not be written below the cache; is the disk full?")]
    Disk(#[source] io::Error),
}

enum Decoder {
    Plain,
    Gzip(Box<GzDecoder<Vec<u8>>>),
}

impl Decoder {
    /// Decodes one step of at most [`GZIP_STEP`] bytes.
    fn feed(&mut self, step: Bytes) -> Result<Bytes, SpoolError> {
        match self {
            Self::Plain => Ok(step),
            Self::Gzip(decoder) => {
                // Data after the end of the stream is an error of `write_all`.
                decoder.write_all(&step).map_err(SpoolError::NotGzip)?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }

    fn finish(self) -> Result<Bytes, SpoolError> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(decoder) => decoder
                .finish()
                .map(Bytes::from)
                .map_err(SpoolError::NotGzip),
        }
    }
}

/// Writes a body, decoded, to a nameless file in `folder`; at most `limit` bytes.
pub(super) async fn spool<B>(
    mut body: B,
    gzip: bool,
    limit: u64,
    folder: &Path,
) -> Result<Spool, SpoolError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    match spool_into(&mut body, gzip, limit, folder).await {
        Err(full @ SpoolError::Disk(_)) => {
            // Closed with a rest unread, the connection would take the answer along.
            let mut seen = 0;
            while let Some(Ok(frame)) = body.frame().await {
                seen += frame.data_ref().map_or(0, |data| data.len() as u64);
                if seen > limit.saturating_mul(DRAIN_FACTOR) {
                    break;
                }
            }
            Err(full)
        }
        other => other,
    }
}

async fn spool_into<B>(
    body: &mut B,
    gzip: bool,
    limit: u64,
    folder: &Path,
) -> Result<Spool, SpoolError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let folder = folder.to_owned();
    let file = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        tempfile::tempfile_in(&folder)
    })
    .await
    .map_err(io::Error::other)
    .and_then(|made| made)
    .map_err(SpoolError::Disk)?;
    let mut out = tokio::io::BufWriter::with_capacity(256 * 1024, tokio::fs::File::from_std(file));
    let mut decoder = if gzip {
        Decoder::Gzip(Box::new(GzDecoder::new(Vec::new())))
    } else {
        Decoder::Plain
    };
    let step = if gzip { GZIP_STEP } else { usize::MAX };
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SpoolError::Broken(error.into()))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        while !data.is_empty() {
            let decoded = decoder.feed(data.split_to(step.min(data.len())))?;
            keep(&mut out, &decoded, &mut seen, limit).await?;
        }
    }
    keep(&mut out, &decoder.finish()?, &mut seen, limit).await?;
    out.flush().await.map_err(SpoolError::Disk)?;
    Ok(Spool {
        file: out.into_inner().into_std().await,
        over: seen > limit,
    })
}

async fn keep(
    out: &mut tokio::io::BufWriter<tokio::fs::File>,
    data: &[u8],
    seen: &mut u64,
    limit: u64,
) -> Result<(), SpoolError> {
    let room = usize::try_from(limit.saturating_sub(*seen))
        .unwrap_or(usize::MAX)
        .min(data.len());
    *seen += data.len() as u64;
    if *seen > limit.saturating_mul(DRAIN_FACTOR) {
        return Err(SpoolError::Endless);
    }
    out.write_all(&data[..room]).await.map_err(SpoolError::Disk)
}

/// The output of a running git as an answer's body; git is killed when the
/// client goes away.
pub(super) fn stream(child: Child, output: ChildStdout, turn: OwnedSemaphorePermit) -> Body {
    let output = Output {
        output: ReaderStream::with_capacity(output, 64 * 1024),
        _child: child,
        _turn: turn,
    };
    StreamBody::new(output.map_ok(Frame::data).map_err(BodyError::from)).boxed_unsync()
}

struct Output {
    output: ReaderStream<ChildStdout>,
    /// Killed when dropped.
    _child: Child,
    _turn: OwnedSemaphorePermit,
}

impl Stream for Output {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.output).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use http_body_util::Full;
    use std::io::{Read, Seek, SeekFrom};

    fn zipped(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn spooled(body: Vec<u8>, gzip: bool, limit: u64) -> Result<(Vec<u8>, bool), SpoolError> {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(Full::new(Bytes::from(body)), gzip, limit, folder.path()).await?;
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "the spool has no name"
        );
        let mut text = Vec::new();
        spool.file.seek(SeekFrom::Start(0)).unwrap();
        spool.file.read_to_end(&mut text).unwrap();
        Ok((text, spool.over))
    }

    #[tokio::test]
    async fn a_body_is_kept_up_to_its_limit() {
        assert_eq!(
            spooled(b"abcdef".to_vec(), false, 6).await.unwrap(),
            (b"abcdef".to_vec(), false)
        );
        assert_eq!(
            spooled(b"abcdef".to_vec(), false, 5).await.unwrap(),
            (b"abcde".to_vec(), true)
        );
        assert!(matches!(
            spooled(b"abcdef".to_vec(), false, 2).await,
            Err(SpoolError::Endless)
        ));
    }

    #[tokio::test]
    async fn gzip_is_decoded_within_the_limit() {
        let text = b"0123456789".repeat(100_000);
        assert_eq!(
            spooled(zipped(&text), true, 1_000_000).await.unwrap(),
            (text.clone(), false)
        );
        assert!(spooled(zipped(&text), true, 600_000).await.unwrap().1);
        assert!(matches!(
            spooled(zipped(&text), true, 1000).await,
            Err(SpoolError::Endless)
        ));
    }

    #[tokio::test]
    async fn what_is_not_gzip_is_refused() {
        let good = zipped(b"some text");
        let cut = good[..good.len() - 3].to_vec();
        let longer = [good, b"more".to_vec()].concat();
        for bad in [b"plain".to_vec(), cut, longer, Vec::new()] {
            assert!(
                matches!(
                    spooled(bad.clone(), true, 1000).await,
                    Err(SpoolError::NotGzip(_))
                ),
                "{bad:?}"
            );
        }
    }
}
