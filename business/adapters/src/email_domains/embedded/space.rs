//! Whether the disk has room for more.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{IntGauge, Registry, opts, register_int_gauge_with_registry};

use super::disk::Disk;

/// How long an answer is good for: others fill the disk too, and to ask some file systems takes a
/// while.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// The room that has to be left.
pub(in crate::email_domains) struct Space {
    whom: &'static str,
    /// 0 is no bound.
    min_free_bytes: u64,
    /// When there was enough. Nothing when there was not: then it is asked each time, so that the
    /// store goes on as soon as there is.
    enough_at: Mutex<Option<Instant>>,
    low: AtomicBool,
    free_bytes: IntGauge,
}

impl Space {
    /// The room on the disk of `whom`, and shows it in this registry.
    ///
    /// # Errors
    /// When it is there already.
    pub(in crate::email_domains) fn register(
        whom: &'static str,
        min_free_bytes: u64,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let gauge = |name, help| {
            let options = opts!(name, help).const_label("disk", whom);
            register_int_gauge_with_registry!(options, registry)
        };
        let bound = gauge(
            "catchall_disk_min_free_bytes",
            "With less room left on the disk of the store, or of the spool, nothing is written there.",
        )?;
        bound.set(i64::try_from(min_free_bytes).unwrap_or(i64::MAX));
        Ok(Self {
            whom,
            min_free_bytes,
            enough_at: Mutex::new(None),
            low: AtomicBool::new(false),
            free_bytes: gauge(
                "catchall_disk_free_bytes",
                "Room left on the disk of the store, or of the spool, when it was last asked.",
            )?,
        })
    }

    /// Asks, unless the file system said a moment ago that there is enough. A write that takes room
    /// is `sure`.
    ///
    /// # Errors
    /// `StorageFull`, with how much is left, when that is too little; what the disk says when it
    /// cannot tell.
    pub(in crate::email_domains) fn check(&self, disk: &dyn Disk, sure: bool) -> io::Result<()> {
        let mut enough_at = self.enough_at.lock();
        if !sure && enough_at.is_some_and(|at| at.elapsed() < ASKED_EVERY) {
            return Ok(());
        }
        let checked = self.check_for(disk, 0);
        *enough_at = checked.is_ok().then(Instant::now);
        let low = checked.is_err();
        if self.low.swap(low, Ordering::Relaxed) != low {
            match &checked {
                Err(error) => tracing::error!(%error, disk = self.whom, "nothing more is written"),
                Ok(()) => tracing::info!(disk = self.whom, "there is room on the disk again"),
            }
        }
        checked
    }

    /// Asks whether there is enough behind so many bytes more.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) fn check_for(&self, disk: &dyn Disk, bytes: u64) -> io::Result<()> {
        let bounded = self.min_free_bytes > 0;
        let free = match disk.free_bytes() {
            Err(error) if bounded => return Err(error),
            free => free.unwrap_or(0),
        };
        self.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        if !bounded || free >= self.min_free_bytes.saturating_add(bytes) {
            return Ok(());
        }
        let least = self.min_free_bytes;
        let reason = format!("the disk has {free} bytes left, and `min_free_bytes` is {least}");
        Err(io::Error::new(io::ErrorKind::StorageFull, reason))
    }
}
