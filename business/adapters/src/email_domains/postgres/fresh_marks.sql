-- Whether no mark of the group can be known: none stands in an older generation, and no key was made
-- before the horizon. One that stands in the newest generation, or is being added to it, ends the
-- statement with a unique violation. $11 keys, sorted, $12 fingerprints, $13 the earliest stamp, $14
-- the latest.
current AS (
    SELECT max(generation) AS generation FROM mark_generations
), fresh AS (
    SELECT FROM store
    WHERE marks_forgotten_stamp < $13 AND NOT EXISTS (
        SELECT FROM marks
        WHERE key = ANY ($11) AND generation < (SELECT generation FROM current)
    )
), noted AS (
    -- A little more than is known, so that this is written once in a while only.
    UPDATE mark_generations
    SET newest = GREATEST(newest, $3 + 5), newest_stamp = CASE
        WHEN $14 >= 0 THEN GREATEST(newest_stamp, $14 + 5)
        ELSE newest_stamp
    END
    WHERE generation = (SELECT generation FROM current) AND (newest < $3 OR newest_stamp < $14)
),
