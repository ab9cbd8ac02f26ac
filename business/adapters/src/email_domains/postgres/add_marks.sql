-- Adds the marks of a group. $1 keys, sorted, $2 fingerprints, $3 stamps (-1 for a key without one),
-- $4 the group's moment, $5 the window.
--
-- A key that another transaction has just added to the newest generation is waited for, and stands
-- in neither list.
WITH given AS (
    SELECT key, fingerprint, stamped_at
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS mark (key, fingerprint, stamped_at)
), current AS (
    SELECT max(generation) AS generation FROM mark_generations
), older AS (
    SELECT key, fingerprint FROM marks
    WHERE key = ANY ($1) AND generation < (SELECT generation FROM current)
), added AS (
    INSERT INTO marks (generation, key, fingerprint)
    SELECT (SELECT generation FROM current), key, fingerprint FROM given
    WHERE key NOT IN (SELECT key FROM older)
        AND (stamped_at < 0
            OR stamped_at >= $4 - $5
            AND stamped_at > coalesce((SELECT nullif(marks_forgotten_stamp, 0) FROM store), -1))
    ORDER BY key
    ON CONFLICT DO NOTHING
    RETURNING key
)
SELECT
    (SELECT marks_forgotten_stamp FROM store),
    (SELECT coalesce(array_agg(key), '{}') FROM older),
    (SELECT coalesce(array_agg(fingerprint), '{}') FROM older),
    (SELECT coalesce(array_agg(key), '{}') FROM added)
