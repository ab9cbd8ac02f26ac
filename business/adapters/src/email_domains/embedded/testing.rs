//! A store on a simulated disk, for the tests of this crate and the fault harness.

use std::{num::NonZeroU32, sync::Arc};

use business::email_domains::verdict::VerdictPolicy;
use foundation::supervision::Shutdown;
use prometheus::Registry;

use super::{
    Embedded, EmbeddedOptions, MarkLimits, OpenError, Opened,
    disk::{Disk, SimulatedDisk},
};

/// The keeper never acts by itself here, for no segment is half full, and no mark is forgotten.
pub const BY_HAND: EmbeddedOptions = EmbeddedOptions {
    segment_bytes: 64 << 10,
    snapshot_after_bytes: u64::MAX,
    marks: MarkLimits {
        window_s: NonZeroU32::MAX,
        max_count: NonZeroU32::MAX,
    },
    min_free_bytes: 0,
};

/// No space is allocated: every group makes the journal grow.
pub const GROWING: EmbeddedOptions = EmbeddedOptions {
    segment_bytes: 1,
    ..BY_HAND
};

/// Opens the store on a simulated disk, which stays in the caller's hands.
///
/// # Errors
/// See [`Embedded::open`].
pub fn open(
    options: EmbeddedOptions,
    disk: &SimulatedDisk,
    shutdown: &Shutdown,
) -> Result<(Embedded, Opened), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let policy = VerdictPolicy::default();
    Embedded::open(disk, options, policy, shutdown, &Registry::new())
}
