//! What makes it safe to send a request again, and when that is done.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::client::Failure;

/// The longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(2);

/// A new key: a UUIDv7, which says when it was made, so that a server that may have forgotten it
/// refuses it in place of counting twice.
#[expect(
    clippy::disallowed_methods,
    reason = "a key of another time is refused by the server, as it should be"
)]
#[expect(
    clippy::expect_used,
    reason = "hexadecimal digits, hyphens and quotes are always a header value"
)]
pub(crate) fn key() -> HeaderValue {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let mut random = [0; 10];
    // Keys tell requests apart, they protect nothing.
    fastrand::fill(&mut random);
    let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let text = format!("\"{uuid}\"");
    HeaderValue::try_from(text).expect("hexadecimal digits, hyphens and quotes")
}

/// Whether another attempt may end better: what is refused stays refused.
pub(crate) fn is_worth_another(outcome: Result<StatusCode, Failure>) -> bool {
    match outcome {
        Ok(status) => status.is_server_error(),
        Err(Failure::Unconfirmed) => false,
        Err(_) => true,
    }
}

/// How long to wait behind the attempt of this number: any time up to one that doubles, so that not
/// all come back together ("full jitter").
pub(crate) fn pause(attempt: u32) -> Duration {
    let longest = Duration::from_millis(10) * 2_u32.saturating_pow(attempt.min(10));
    longest.min(LONGEST).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_uuids_of_now_and_all_different() {
        let text = |key: HeaderValue| key.to_str().unwrap().trim_matches('"').to_owned();
        let keys = [text(key()), text(key())];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            let uuid = uuid::Uuid::try_parse(&key).unwrap();
            let made_at =
                UNIX_EPOCH + Duration::from_secs(uuid.get_timestamp().unwrap().to_unix().0);
            assert!(
                made_at.elapsed().unwrap() < Duration::from_secs(60),
                "{key}"
            );
        }
    }

    #[test]
    fn only_what_may_end_better_is_sent_again() {
        for (outcome, again) in [
            (Ok(StatusCode::NO_CONTENT), false),
            (Ok(StatusCode::BAD_REQUEST), false),
            (Ok(StatusCode::SERVICE_UNAVAILABLE), true),
            (Err(Failure::Lost), true),
            (Err(Failure::TimedOut), true),
            (Err(Failure::NotConnected), true),
            (Err(Failure::Unconfirmed), false),
        ] {
            assert_eq!(is_worth_another(outcome), again, "{outcome:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let longest = |attempt| (0..2_000).map(|_| pause(attempt)).max().unwrap();
        assert!(longest(1) <= Duration::from_millis(20));
        assert!(longest(6) > longest(1));
        assert!(longest(1_000) <= LONGEST);
    }
}
