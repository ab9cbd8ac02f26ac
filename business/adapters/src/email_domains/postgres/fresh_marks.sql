-- Whether no mark of the group can be known: none stands in an older generation, and no key was made
-- before the horizon. One that stands in the newest generation, or is being added to it, ends the
-- statement with a unique violation. $11 keys, sorted, $12 fingerprints, $13 the earliest stamp, $14
-- the latest moment in the group or on its keys.
current AS (
    SELECT max(generation) AS generation FROM mark_generations
), fresh AS (
    SELECT FROM store
    WHERE marks_forgotten_through < $13 AND NOT EXISTS (
        SELECT FROM marks
        WHERE key = ANY ($11) AND generation < (SELECT generation FROM current)
    )
), noted AS (
    -- A minute more than is known, so that this is written once a minute only.
    UPDATE mark_generations SET newest = $14 + 60
    WHERE generation = (SELECT generation FROM current) AND newest < $14
),
