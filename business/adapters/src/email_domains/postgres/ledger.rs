//! The last group of each writer, kept in the table `writers`, so that a group counts once.

use business::{
    email_domains::{
        model::{Group, Outcome, Outcomes},
        ports::Recorded,
    },
    kernel::{ErrorKind, PortError},
};
use smallvec::smallvec;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    error::{Phase, port_error},
    record::OPERATION,
    schema::Rule,
    statement::traced,
};

/// A group's id as the database holds it.
pub(super) struct GroupKey {
    /// The nil UUID for a group of no writer.
    pub(super) writer: Uuid,
    /// `None` for a group of no writer: it counts however often it comes.
    pub(super) sequence: Option<i64>,
}

impl GroupKey {
    /// # Errors
    /// `Invalid` for a sequence beyond the database's 63 bits.
    pub(super) fn of(group: &Group) -> Result<Self, PortError> {
        let Some(id) = group.id else {
            return Ok(Self {
                writer: Uuid::nil(),
                sequence: None,
            });
        };
        let sequence = i64::try_from(id.sequence)
            .map_err(|error| PortError::caused_by(ErrorKind::Invalid, OPERATION, error))?;
        Ok(Self {
            writer: Uuid::from_u128(id.writer.0),
            sequence: Some(sequence),
        })
    }
}

/// What a group that was not admitted is answered: as the first time, without verdict changes.
///
/// # Errors
/// `Unavailable` when the store's threshold is not ours any more, `Outdated` when the writer has
/// gone on to a later group.
pub(super) async fn recorded_before(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    rule: &Rule,
) -> Result<Recorded, PortError> {
    let ask = sqlx::query_as(
        "SELECT threshold, last_sequence, outcomes FROM store LEFT JOIN writers ON writer = $1",
    )
    .bind(key.writer);
    let (threshold, last, outcomes): (Option<i64>, Option<i64>, Option<Vec<u8>>) =
        traced("SELECT store writers", ask.fetch_one(connection))
            .await
            // The group is most likely applied, so a lost connection here does not mean that it is not.
            .map_err(|error| port_error(OPERATION, Phase::Committing, error))?;
    match outcomes {
        Some(outcomes) if key.sequence.is_some() && last == key.sequence => {
            let outcomes = decode(&outcomes, group.members.len())?;
            Ok(Recorded {
                outcomes,
                verdict_changes: Vec::new(),
            })
        }
        Some(_) if key.sequence.is_some() && last > key.sequence => {
            Err(PortError::new(ErrorKind::Outdated, OPERATION))
        }
        _ => {
            rule.check(threshold)
                .map_err(|error| error.refusing(OPERATION))?;
            // The threshold was another one for a moment.
            Err(PortError::new(ErrorKind::Unavailable, OPERATION))
        }
    }
}

/// One byte a member; nothing when all of them counted, which is nearly always.
pub(super) fn encode(outcomes: &[Outcome]) -> Vec<u8> {
    if outcomes.iter().all(|outcome| *outcome == Outcome::Counted) {
        return Vec::new();
    }
    let byte = |outcome: &Outcome| match outcome {
        Outcome::Counted => 0,
        Outcome::Duplicate => 1,
        Outcome::Mismatch => 2,
        Outcome::Expired => 3,
        Outcome::Spooled => 4,
    };
    outcomes.iter().map(byte).collect()
}

fn decode(stored: &[u8], members: usize) -> Result<Outcomes, PortError> {
    if stored.is_empty() {
        return Ok(smallvec![Outcome::Counted; members]);
    }
    if stored.len() != members {
        // Of another group that ended with this id.
        return Err(PortError::new(ErrorKind::Outdated, OPERATION));
    }
    let outcome = |byte: &u8| match byte {
        0 => Ok(Outcome::Counted),
        1 => Ok(Outcome::Duplicate),
        2 => Ok(Outcome::Mismatch),
        3 => Ok(Outcome::Expired),
        4 => Ok(Outcome::Spooled),
        _ => Err(PortError::new(ErrorKind::Corrupt, OPERATION)),
    };
    stored.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use business::{
        email_domains::model::{GroupId, WriterId},
        kernel::UnixSeconds,
    };

    use super::*;

    #[test]
    fn outcomes_come_back_as_they_were() {
        use Outcome::*;
        for outcomes in [
            &[][..],
            &[Counted],
            &[Counted, Counted],
            &[Duplicate, Counted, Mismatch, Expired],
        ] {
            assert_eq!(
                decode(&encode(outcomes), outcomes.len()).unwrap()[..],
                *outcomes
            );
        }
        assert_eq!(decode(&[0, 1], 3).unwrap_err().kind(), ErrorKind::Outdated);
        assert_eq!(decode(&[0, 7], 2).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_sequence_has_63_bits() {
        let group = |sequence| Group {
            id: Some(GroupId {
                writer: WriterId(7),
                sequence,
            }),
            formed_at: UnixSeconds::from(1),
            members: smallvec![],
        };
        let key = GroupKey::of(&group(i64::MAX.unsigned_abs())).unwrap();
        assert_eq!(
            (key.writer, key.sequence),
            (Uuid::from_u128(7), Some(i64::MAX))
        );
        let error = GroupKey::of(&group(1 << 63)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
