-- Counts a folded group, once. $1 writer (the nil UUID for a group of no writer), $2 sequence
-- (null likewise), $3 the group's moment, $4 outcomes, $5 threshold, $6 domains, $7 deliveries,
-- $8 bounces.
--
-- What comes first is decided by who reads whom. Nothing is counted until `admitted` has a row,
-- and for that the writer's row must be advanced: a lost connection's transaction that still
-- holds this row is waited for, not overtaken. The sums come last, so that no lock on them is
-- held while domains are waited for.
WITH advanced AS (
    INSERT INTO writers AS known (writer, last_sequence, recorded_at, outcomes)
    SELECT $1, $2, $3, $4 FROM store WHERE threshold = $5 AND $2 IS NOT NULL
    ON CONFLICT (writer) DO UPDATE SET
        last_sequence = EXCLUDED.last_sequence,
        recorded_at = EXCLUDED.recorded_at,
        outcomes = EXCLUDED.outcomes
    WHERE known.last_sequence < EXCLUDED.last_sequence
    RETURNING writer
), admitted AS (
    SELECT FROM advanced
    UNION ALL
    SELECT FROM store WHERE threshold = $5 AND $2 IS NULL
), change AS (
    SELECT * FROM unnest($6::text[], $7::bigint[], $8::bigint[])
        AS change (domain, delivered, bounced)
), tally AS (
    INSERT INTO domain_tallies AS known
        (domain, delivered, bounced, first_seen, last_seen, seen_before)
    SELECT domain, delivered, bounced, $3, $3, false
    FROM change WHERE EXISTS (SELECT FROM admitted)
    ON CONFLICT (domain) DO UPDATE SET
        delivered = EXCLUDED.delivered
            + LEAST(known.delivered, 9223372036854775807 - EXCLUDED.delivered),
        bounced = EXCLUDED.bounced
            + LEAST(known.bounced, 9223372036854775807 - EXCLUDED.bounced),
        first_seen = LEAST(known.first_seen, EXCLUDED.first_seen),
        last_seen = GREATEST(known.last_seen, EXCLUDED.last_seen),
        seen_before = true
    RETURNING domain, delivered, bounced, seen_before
), judged AS (
    -- The row stays locked until the commit, so the tally before is this one without the change.
    SELECT
        tally.*,
        change.delivered AS more_delivered,
        change.bounced AS more_bounced,
        tally.bounced = 0 AND tally.delivered >= $5 AS catch_all,
        tally.bounced > 0 AS not_catch_all,
        tally.bounced = change.bounced AND tally.delivered - change.delivered >= $5
            AS was_catch_all,
        tally.bounced > change.bounced AS was_not_catch_all
    FROM tally JOIN change USING (domain)
), summed AS (
    -- Written even when nothing counts: a transaction that wrote waits for a synchronous standby,
    -- so an answer "duplicate" is no less safe than the original's.
    INSERT INTO writer_totals AS known
        (writer, delivered, bounced, domains, catch_all, not_catch_all)
    SELECT
        $1,
        LEAST(coalesce(sum(more_delivered), 0), 9223372036854775807),
        LEAST(coalesce(sum(more_bounced), 0), 9223372036854775807),
        count(*) FILTER (WHERE NOT seen_before),
        count(*) FILTER (WHERE catch_all) - count(*) FILTER (WHERE was_catch_all),
        count(*) FILTER (WHERE not_catch_all) - count(*) FILTER (WHERE was_not_catch_all)
    FROM judged
    HAVING EXISTS (SELECT FROM admitted)
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
SELECT
    EXISTS (SELECT FROM admitted),
    coalesce(array_agg(domain), '{}'),
    coalesce(array_agg(delivered), '{}'),
    coalesce(array_agg(bounced), '{}')
FROM judged
WHERE catch_all <> was_catch_all OR not_catch_all <> was_not_catch_all
