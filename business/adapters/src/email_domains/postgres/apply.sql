-- Counts a folded group, once. For a group with marks, `record.rs` puts more in place of what is
-- `marked`. $1 writer (the nil UUID for a group of no writer), $2 sequence
-- (null likewise), $3 the group's moment, $4 outcomes, $5 threshold, $6 domains, $7 deliveries,
-- $8 bounces, $9 all deliveries, $10 all bounces.
--
-- What comes first is decided by who reads whom. Nothing is counted until `admitted` has a row,
-- and for that the writer's row must be advanced: a lost connection's transaction that still
-- holds this row is waited for, not overtaken. The sums come last, so that no lock on them is
-- held while domains are waited for.
WITH
-- (marked: are they fresh?)
advanced AS (
    INSERT INTO writers AS known (writer, last_sequence, recorded_at, outcomes)
    SELECT $1, $2, $3, $4 FROM store WHERE threshold = $5 AND $2 IS NOT NULL -- (marked: if fresh)
    ON CONFLICT (writer) DO UPDATE SET
        last_sequence = EXCLUDED.last_sequence,
        recorded_at = EXCLUDED.recorded_at,
        outcomes = EXCLUDED.outcomes
    WHERE known.last_sequence < EXCLUDED.last_sequence
    RETURNING writer
), admitted AS (
    SELECT FROM advanced
    UNION ALL
    SELECT FROM store WHERE threshold = $5 AND $2 IS NULL -- (marked: if fresh)
),
-- (marked: add them)
tally AS (
    -- `turn` is where the verdict before is still known; to find it out from what is returned
    -- took a join of the group with itself.
    INSERT INTO domain_tallies AS known
        (domain, delivered, bounced, first_seen, last_seen, turn)
    SELECT domain, delivered, bounced, $3, $3,
        CASE WHEN bounced > 0 THEN 3 WHEN delivered >= $5 THEN 2 ELSE 1 END
    FROM unnest($6::text[], $7::bigint[], $8::bigint[]) AS change (domain, delivered, bounced)
    WHERE EXISTS (SELECT FROM admitted) -- (marked: once they are added)
    ON CONFLICT (domain) DO UPDATE SET
        delivered = EXCLUDED.delivered
            + LEAST(known.delivered, 9223372036854775807 - EXCLUDED.delivered),
        bounced = EXCLUDED.bounced
            + LEAST(known.bounced, 9223372036854775807 - EXCLUDED.bounced),
        first_seen = LEAST(known.first_seen, EXCLUDED.first_seen),
        last_seen = GREATEST(known.last_seen, EXCLUDED.last_seen),
        turn = CASE
            WHEN known.bounced > 0 THEN 0
            WHEN EXCLUDED.bounced > 0 THEN CASE WHEN known.delivered >= $5 THEN 23 ELSE 13 END
            WHEN known.delivered < $5 AND known.delivered >= $5 - EXCLUDED.delivered THEN 12
            ELSE 0
        END
    RETURNING domain, turn
), judged AS (
    SELECT
        count(*) FILTER (WHERE turn IN (1, 2, 3)) AS domains,
        count(*) FILTER (WHERE turn IN (2, 12)) - count(*) FILTER (WHERE turn = 23) AS catch_all,
        count(*) FILTER (WHERE turn IN (3, 13, 23)) AS not_catch_all,
        array_agg(domain) FILTER (WHERE turn > 1) AS turned,
        array_agg(turn) FILTER (WHERE turn > 1) AS turns
    FROM tally
), summed AS (
    -- Written even when nothing counts: a transaction that wrote waits for a synchronous standby,
    -- so an answer "duplicate" is no less safe than the original's.
    INSERT INTO writer_totals AS known
        (writer, delivered, bounced, domains, catch_all, not_catch_all)
    SELECT $1, $9, $10, domains, catch_all, not_catch_all
    FROM judged WHERE EXISTS (SELECT FROM admitted)
    ON CONFLICT (writer) DO UPDATE SET
        delivered = EXCLUDED.delivered
            + LEAST(known.delivered, 9223372036854775807 - EXCLUDED.delivered),
        bounced = EXCLUDED.bounced
            + LEAST(known.bounced, 9223372036854775807 - EXCLUDED.bounced),
        domains = known.domains + EXCLUDED.domains,
        catch_all = known.catch_all + EXCLUDED.catch_all,
        not_catch_all = known.not_catch_all + EXCLUDED.not_catch_all
)
-- One row: whether it was applied, and the domains whose verdict changed.
SELECT EXISTS (SELECT FROM admitted), coalesce(turned, '{}'), coalesce(turns, '{}') FROM judged
