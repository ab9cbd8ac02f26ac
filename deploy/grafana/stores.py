"""Where the time goes behind an answer, and what each part of a store is at."""

from panels import board, lines, quantiles


def stores():
    return board(
        "catchall-stores",
        "catchall: stores and queues",
        "Where the time goes behind the HTTP answer, and what each store, spool, cache and shadow is at. "
        "Rows of what a server does not use are empty.",
        {
            "Queue and group commit": [
                lines(
                    "Requests waiting",
                    "For each committer. What may wait is `queue.capacity`.",
                    "short",
                    {
                        "{{instance}} {{committer}}": "catchall_queue_depth{$S}",
                        "capacity": "min(catchall_queue_capacity{$S})",
                    },
                    log=True,
                    least=None,
                    width=8,
                ),
                lines(
                    "Longest wait",
                    "How long the oldest request in each queue has waited. Beyond `queue.max_wait_ms` new ones "
                    "are refused.",
                    "s",
                    {"{{instance}} {{committer}}": "catchall_queue_oldest_seconds{$S}"},
                    width=8,
                ),
                lines(
                    "Groups written",
                    "Groups committed per second. Events per second divided by this is the work that is saved.",
                    "ops",
                    {"{{instance}}": "sum by (instance) (rate(catchall_group_requests_count{$S}[$R]))"},
                    width=8,
                ),
                lines(
                    "Group size",
                    "Requests, and changes of counts, that were committed together, on average. A committer "
                    "takes all that waits when it is free: few under light load, more by itself when more comes.",
                    "short",
                    {
                        "{{instance}} requests": "rate(catchall_group_requests_sum{$S}[$R]) "
                        "/ rate(catchall_group_requests_count{$S}[$R])",
                        "{{instance}} changes": "rate(catchall_group_changes_sum{$S}[$R]) "
                        "/ rate(catchall_group_changes_count{$S}[$R])",
                    },
                    width=12,
                ),
                lines(
                    "Background workers",
                    "late: one is at a piece of work for longer than it ever should be. restarts: how many "
                    "panicked or were stuck, and were started again, in five minutes.",
                    "none",
                    {
                        "{{worker}} late": "max by (worker) (catchall_worker_late{$S})",
                        "{{worker}} restarts": "sum by (worker) (increase(catchall_worker_restarts_total{$S}[5m]))",
                    },
                    [(1, "red")],
                    width=12,
                ),
            ],
            "Store": [
                lines(
                    "Commit of a group",
                    "How long the store takes to make one group durable: an fsync of the embedded store, a "
                    "COMMIT of PostgreSQL.",
                    "s",
                    {
                        f"{{{{store}}}} p{percent}": f"histogram_quantile({percent / 100}, sum by (le, store) "
                        '(rate(catchall_store_operation_seconds_bucket{$S, operation="record"}[$R])))'
                        for percent in (50, 99)
                    },
                    log=True,
                    least=None,
                    width=8,
                ),
                lines(
                    "Reads, p99",
                    "99 of 100 calls take no longer. get: some domains, after the cache. page: a list.",
                    "s",
                    {
                        "{{store}} {{operation}}": "histogram_quantile(0.99, sum by (le, store, operation) "
                        '(rate(catchall_store_operation_seconds_bucket{$S, operation=~"get|page"}[$R])))'
                    },
                    log=True,
                    least=None,
                    width=8,
                ),
                lines(
                    "Calls",
                    "Calls of the store, and of the cache before it, per second. `totals` and `probe` are asked at "
                    "each scrape too.",
                    "ops",
                    {
                        "{{store}} {{operation}}": "sum by (store, operation) "
                        "(rate(catchall_store_operation_seconds_count{$S}[$R]))"
                    },
                    width=8,
                ),
                lines(
                    "Errors",
                    "Failed calls per second; no data when there are none. unavailable, overloaded: nothing was "
                    "changed. ambiguous: nobody knows, the client was answered 503. corrupt: somebody has to look.",
                    "ops",
                    {
                        "{{store}} {{operation}} {{kind}}": "sum by (store, operation, kind) "
                        "(rate(catchall_store_errors_total{$S}[$R])) > 0"
                    },
                    width=8,
                ),
                lines(
                    "PostgreSQL: breaker",
                    "0: it is asked. 2: it failed three times in a row and is left alone. 1: one call finds out "
                    "whether it is back.",
                    "none",
                    {"{{instance}} {{operation}}": "catchall_store_breaker{$S}"},
                    [(1, "red")],
                    width=8,
                ),
                lines(
                    "PostgreSQL: retried and not asked",
                    "retried: calls made again after a failure that allows it. not asked: refused at once, for "
                    "the breaker is open.",
                    "ops",
                    {
                        "{{operation}} retried": "sum by (operation) (rate(catchall_store_retries_total{$S}[$R]))",
                        "{{operation}} not asked": "sum by (operation) "
                        "(rate(catchall_store_breaker_refused_total{$S}[$R]))",
                    },
                    width=8,
                ),
                lines(
                    "PostgreSQL: read connections",
                    "Connections for reads. With as many busy as there may be "
                    "(`store.postgres.max_read_connections`), reads wait for one.",
                    "none",
                    {
                        "{{instance}} open": "catchall_postgres_read_connections{$S}",
                        "{{instance}} busy": "catchall_postgres_read_connections_busy{$S}",
                        "limit": "min(catchall_postgres_read_connections_limit{$S})",
                    },
                    width=8,
                ),
            ],
            "Embedded store: journal and disk": [
                lines(
                    "Append and sync",
                    "How long one group takes to the disk and its sync: the disk's share of the latency of "
                    "an event.",
                    "s",
                    quantiles("catchall_journal_append_seconds", "$S"),
                    log=True,
                    least=None,
                    width=8,
                ),
                lines(
                    "Journal and snapshot",
                    "The journal that no snapshot covers is read again at a start; a new snapshot replaces it "
                    "when it has grown. If it only grows, no snapshot can be written: look for a full disk.",
                    "bytes",
                    {
                        "{{instance}} journal": "catchall_journal_bytes{$S}",
                        "{{instance}} snapshot": "catchall_snapshot_bytes{$S}",
                    },
                    width=8,
                ),
                lines(
                    "Disk free",
                    "Room on the disk of the store, or of the spool, where it goes within four hours at the "
                    "rate of the last half hour, and the bound below which nothing is written there.",
                    "bytes",
                    {
                        "{{instance}} {{disk}}": "catchall_disk_free_bytes{$S}",
                        "{{instance}} {{disk}} in 4 h": "clamp_min(predict_linear("
                        "catchall_disk_free_bytes{$S}[30m], 4 * 3600), 0)",
                        "{{disk}} bound": "max by (disk) (catchall_disk_min_free_bytes{$S})",
                    },
                    width=8,
                ),
                lines(
                    "Segments",
                    "Files of the journal that no snapshot covers yet; they are removed once one does.",
                    "none",
                    {"{{instance}}": "catchall_journal_segments{$S}"},
                    width=8,
                ),
                lines(
                    "Journal written",
                    "Bytes appended and synced, per second.",
                    "Bps",
                    {"{{instance}}": "rate(catchall_journal_appended_bytes_total{$S}[$R])"},
                    width=8,
                ),
                lines(
                    "Snapshots",
                    "How long those of the last hour took on average. Events are counted meanwhile.",
                    "s",
                    {
                        "{{instance}} mean": "increase(catchall_snapshot_seconds_sum{$S}[1h]) "
                        "/ increase(catchall_snapshot_seconds_count{$S}[1h])",
                    },
                    width=8,
                ),
            ],
            "Spool: while PostgreSQL is away": [
                lines(
                    "Spool filled",
                    "As a share of `store.spool.max_bytes`. When it is full, events are answered 503.",
                    "percentunit",
                    {"{{instance}}": "catchall_spool_bytes{$S} / catchall_spool_limit_bytes{$S}"},
                    [(0.5, "orange"), (0.8, "red")],
                    width=8,
                ),
                lines(
                    "Oldest event",
                    "For how long the oldest event in the spool has waited to be counted. It may for half of "
                    "`keys.window_s`. Nothing is shown while the spool is empty.",
                    "s",
                    {
                        "{{instance}}": "time() - (catchall_spool_oldest_timestamp_seconds{$S} > 0)",
                    },
                    width=8,
                ),
                lines(
                    "In and out",
                    "Events per second that go into the spool, and that are settled from it. mismatch, "
                    "expired: answered 202, and yet not counted. Alerted as CatchallSpooledEventsRejected.",
                    "eps",
                    {
                        "in": "sum(rate(catchall_spooled_events_total{$S}[$R]))",
                        "out, {{outcome}}": "sum by (outcome) (rate(catchall_spool_drained_events_total{$S}[$R]))",
                    },
                    width=8,
                ),
            ],
            "Cache and shadow": [
                lines(
                    "Reads by what the cache did",
                    "Domains per second. bypass: Redis was not asked, by wish of the client or because it is "
                    "away. error: it did not answer in time, and the store did.",
                    "ops",
                    {"{{result}}": "sum by (result) (rate(catchall_cache_requests_total{$S}[$R]))"},
                    width=8,
                ),
                lines(
                    "Cache in use",
                    "1 while Redis is used. At 0 all reads ask the store: slower, never wrong.",
                    "none",
                    {"{{instance}}": "catchall_cache_up{$S}"},
                    width=8,
                ),
                lines(
                    "Invalidations dropped",
                    "Domains per second whose entry was left to expire instead of being dropped after a commit. "
                    "Until then, for `cache.ttl_ms` at most, a read may be old.",
                    "ops",
                    {"{{instance}}": "rate(catchall_cache_invalidations_dropped_total{$S}[$R])"},
                    width=8,
                ),
                lines(
                    "Shadow in step",
                    "1 while the shadow gets all that the store counts, and is compared with it. At 0 it gets "
                    "nothing more until the next start.",
                    "none",
                    {"{{instance}}": "catchall_shadow_in_step{$S}"},
                    width=8,
                ),
                lines(
                    "Shadow compared",
                    "Domains per second that were read from store and shadow, and of these the ones that "
                    "differed. One difference is one too many.",
                    "ops",
                    {
                        "{{instance}} compared": "rate(catchall_shadow_compared_total{$S}[$R])",
                        "{{instance}} different": "rate(catchall_shadow_differences_total{$S}[$R])",
                    },
                    width=8,
                ),
                lines(
                    "Shadow queue",
                    "Events that wait for the shadow, as a share of `store.shadow.queue_capacity`. When it is "
                    "full, the shadow is out of step.",
                    "percentunit",
                    {
                        "{{instance}}": "catchall_shadow_queue_depth{$S} "
                        "/ catchall_shadow_queue_capacity{$S}"
                    },
                    [(0.8, "red")],
                    width=8,
                ),
                lines(
                    "Idempotency keys remembered",
                    "How far back: who sends again within this time is found out. When it is shorter than "
                    "clients try, raise `keys.max_count`.",
                    "s",
                    {"{{instance}}": "time() - (catchall_keys_from_timestamp_seconds{$S} > 0)"},
                    width=24,
                ),
            ],
        },
    )
