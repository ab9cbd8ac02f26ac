use business::kernel::{ErrorKind, PortError};
use foundation::planted::planted_bug;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// How far the work had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing that commits was sent.
    Before,
    /// A statement that commits was sent, and its answer is not here.
    Committing,
}

/// What this failure of the database means to the port.
pub(super) fn port_error(operation: &'static str, phase: Phase, error: sqlx::Error) -> PortError {
    PortError::caused_by(kind(phase, &error), operation, error)
}

/// A failure to open a connection; whatever it is, nothing was applied.
pub(super) fn connect_error(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> PortError {
    PortError::caused_by(ErrorKind::Unavailable, "connect", error)
}

fn kind(phase: Phase, error: &sqlx::Error) -> ErrorKind {
    use sqlx::Error;
    match (phase, error) {
        (_, Error::Database(error)) => {
            let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
                return ErrorKind::Unexpected;
            };
            // ERROR tells that the statement, or the COMMIT, was undone. FATAL and PANIC tell only
            // that the connection ends, and nothing of a commit just before.
            let lost = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
            if phase == Phase::Committing && lost && !planted_bug("unknown-told-as-refused") {
                ErrorKind::Ambiguous
            } else {
                of_sql_state(error.code())
            }
        }
        (_, Error::Encode(_) | Error::Configuration(_) | Error::InvalidArgument(_)) => {
            ErrorKind::Unexpected
        }
        (Phase::Committing, _) if planted_bug("unknown-told-as-refused") => ErrorKind::Unavailable,
        (Phase::Committing, _) => ErrorKind::Ambiguous,
        (
            Phase::Before,
            // A server that stops, or what stands before it, may say what is none of the protocol.
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed,
        ) => ErrorKind::Unavailable,
        (Phase::Before, _) => ErrorKind::Unexpected,
    }
}

/// By SQLSTATE (PostgreSQL documentation, appendix A).
fn of_sql_state(code: &str) -> ErrorKind {
    match code {
        // transaction_resolution_unknown, statement_completion_unknown
        "08007" | "40003" => ErrorKind::Ambiguous,
        // read_only_sql_transaction: a standby, after a failover; the timeouts of a transaction whose
        // next statement did not come; lock_not_available
        "25006" | "25P03" | "25P04" | "55P03" => ErrorKind::Unavailable,
        // data_corrupted, index_corrupted
        "XX001" | "XX002" => ErrorKind::Corrupt,
        _ => match code.get(..2) {
            // Connection exception, transaction rollback (serialization, deadlock), insufficient
            // resources (connections, disk, memory), operator intervention (shutdown, starting).
            Some("08" | "40" | "53" | "57") => ErrorKind::Unavailable,
            _ => ErrorKind::Unexpected,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_state_says_what_was_meant() {
        for (code, expected) in [
            ("40001", ErrorKind::Unavailable),
            ("40P01", ErrorKind::Unavailable),
            ("40003", ErrorKind::Ambiguous),
            ("53300", ErrorKind::Unavailable),
            ("57P01", ErrorKind::Unavailable),
            ("57P03", ErrorKind::Unavailable),
            ("25006", ErrorKind::Unavailable),
            ("25P03", ErrorKind::Unavailable),
            ("22003", ErrorKind::Unexpected),
            ("23505", ErrorKind::Unexpected),
            ("42P01", ErrorKind::Unexpected),
            ("XX001", ErrorKind::Corrupt),
            ("", ErrorKind::Unexpected),
        ] {
            assert_eq!(of_sql_state(code), expected, "{code}");
        }
    }

    #[test]
    fn a_lost_connection_is_ambiguous_only_while_committing() {
        let lost = || sqlx::Error::Io(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!(kind(Phase::Before, &lost()), ErrorKind::Unavailable);
        assert_eq!(kind(Phase::Committing, &lost()), ErrorKind::Ambiguous);
        assert_eq!(
            kind(Phase::Before, &sqlx::Error::PoolTimedOut),
            ErrorKind::Unavailable
        );
        let garbled = || sqlx::Error::Protocol("what?".into());
        assert_eq!(kind(Phase::Before, &garbled()), ErrorKind::Unavailable);
        assert_eq!(kind(Phase::Committing, &garbled()), ErrorKind::Ambiguous);
    }
}
