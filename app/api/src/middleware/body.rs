//! The content of requests that take some: read whole into one buffer and decoded, within bounds.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{
    dev::Payload,
    http::header::{self, HeaderMap},
};
use flate2::bufread::MultiGzDecoder;
use foundation::planted::planted_bug;
use futures_util::StreamExt;

use super::content;
use crate::{limits::Settings, problem::Kind};

/// A buffer starts with this many bytes, and then doubles.
const FIRST_BYTES: usize = 16 * 1024;
/// The largest window of a zstd frame, as a power of two: 8 MiB, what RFC 9659 allows in HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;

/// What a request has sent, decoded.
#[derive(Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// Its share of what all bodies may take, to be kept as long as anything made of it.
    pub(crate) held: Held,
}

/// What all bodies take together, in bytes. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Bodies(Arc<AtomicUsize>);

impl Bodies {
    /// How much they take now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part of it, given back when dropped.
#[derive(Default)]
pub(crate) struct Held {
    bodies: Bodies,
    bytes: usize,
}

/// How content is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// A buffer that has bounds.
struct Buffer<'a> {
    bytes: Vec<u8>,
    held: Held,
    settings: &'a Settings,
}

/// Reads content to its end, in time, and decodes it.
///
/// Decoding does not wait for anything, so that there is one decoder with its window a worker at
/// the most, however many bodies are on their way.
pub(super) async fn read(
    payload: &mut Payload,
    headers: &HeaderMap,
    settings: &Settings,
    bodies: &Bodies,
) -> Result<Body, Kind> {
    let encoding = encoding(headers)?;
    content::check_declared(headers, settings)?;
    let reading = async {
        let mut buffer = Buffer::new(settings, bodies);
        while let Some(chunk) = payload.next().await {
            if chunk.is_err() && planted_bug("broken-off-body-accepted") {
                break;
            }
            buffer.append(&chunk.map_err(|_| Kind::InvalidContent)?)?;
        }
        Ok(buffer)
    };
    let sent = tokio::time::timeout(settings.read_timeout(), reading)
        .await
        .unwrap_or(Err(Kind::ReadTimeout))?;
    let decoded = Buffer::new(settings, bodies);
    let Buffer { bytes, held, .. } = match encoding {
        Encoding::Gzip if !sent.bytes.is_empty() => {
            decoded.filled_from(MultiGzDecoder::new(sent.bytes.as_slice()))?
        }
        Encoding::Zstd if !sent.bytes.is_empty() => decoded.filled_from(unzstd(&sent.bytes)?)?,
        _ => sent,
    };
    Ok(Body { bytes, held })
}

fn unzstd(sent: &[u8]) -> Result<impl Read, Kind> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(sent).map_err(|_| Kind::Internal)?;
    decoder
        .window_log_max(ZSTD_WINDOW_LOG)
        .map_err(|_| Kind::Internal)?;
    Ok(decoder)
}

/// One coding at the most: whoever names two wants work done twice.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Kind> {
    let mut codings = headers
        .get_all(header::CONTENT_ENCODING)
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    let is = |coding: &str, name| coding.eq_ignore_ascii_case(name);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(Encoding::Identity),
        (Some(one), None) if is(one, "gzip") || is(one, "x-gzip") => Ok(Encoding::Gzip),
        (Some(one), None) if is(one, "zstd") => Ok(Encoding::Zstd),
        _ => Err(Kind::EncodingNotSupported),
    }
}

impl<'a> Buffer<'a> {
    fn new(settings: &'a Settings, bodies: &Bodies) -> Self {
        Self {
            bytes: Vec::new(),
            held: Held {
                bodies: bodies.clone(),
                bytes: 0,
            },
            settings,
        }
    }

    fn limit(&self) -> usize {
        if planted_bug("body-without-limit") {
            return usize::MAX;
        }
        usize::try_from(self.settings.max_body_bytes.get()).unwrap_or(usize::MAX)
    }

    /// Makes room for this many bytes in all, if they may be.
    fn reserve(&mut self, length: usize) -> Result<(), Kind> {
        if length > self.limit() {
            return Err(Kind::ContentTooLarge);
        }
        if length > self.bytes.capacity() {
            let doubled = self.bytes.capacity().saturating_mul(2).max(FIRST_BYTES);
            let capacity = doubled.min(self.limit()).max(length);
            self.held.grow(capacity, self.settings)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        Ok(())
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), Kind> {
        self.reserve(self.bytes.len().saturating_add(chunk.len()))?;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// With all that a decoder gives. Stops at the limit, however much more it had.
    fn filled_from(mut self, mut decoder: impl Read) -> Result<Self, Kind> {
        let mut filled = 0;
        loop {
            if filled == self.bytes.len() {
                if filled == self.limit() {
                    return match read(&mut decoder, &mut [0])? {
                        0 => Ok(self),
                        _ => Err(Kind::ContentTooLarge),
                    };
                }
                self.reserve(filled + 1)?;
                self.bytes
                    .resize(self.bytes.capacity().min(self.limit()), 0);
            }
            match read(&mut decoder, &mut self.bytes[filled..])? {
                0 => {
                    self.bytes.truncate(filled);
                    return Ok(self);
                }
                length => filled += length,
            }
        }

        fn read(decoder: &mut impl Read, into: &mut [u8]) -> Result<usize, Kind> {
            loop {
                match decoder.read(into) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result.map_err(|_| Kind::InvalidEncoding),
                }
            }
        }
    }
}

impl Held {
    /// Takes what is missing to this many bytes, if it is there.
    fn grow(&mut self, bytes: usize, settings: &Settings) -> Result<(), Kind> {
        let limit = settings.max_bodies_bytes.get();
        let more = bytes.saturating_sub(self.bytes);
        let taken = |all: usize| {
            all.checked_add(more)
                .filter(|all| u64::try_from(*all).is_ok_and(|all| all <= limit))
        };
        self.bodies
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .map_err(|_| Kind::Overloaded)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
