-- Marks are kept for a while only, and by the million: so that forgetting them is dropping a table,
-- each generation of them has its own. No server has written any before this migration.
SET LOCAL lock_timeout = '5s';
DROP TABLE marks;

CREATE TABLE mark_generations (
    generation bigint PRIMARY KEY,
    began_at bigint NOT NULL,
    -- No mark of it was counted later than this, and no key stamped.
    newest bigint NOT NULL,
    newest_stamp bigint NOT NULL
);

-- Callers' idempotency keys, hashed, with a digest of what was sent under them. Whoever begins a
-- generation has this table to itself, so whoever writes to it has the newest one, and what stands in
-- older ones is committed.
CREATE TABLE marks (
    key uuid NOT NULL,
    fingerprint bigint NOT NULL,
    generation bigint NOT NULL,
    PRIMARY KEY (key, generation)
) PARTITION BY LIST (generation);

INSERT INTO mark_generations VALUES (0, 0, 0, 0);
CREATE TABLE marks_0 PARTITION OF marks FOR VALUES IN (0);

-- The latest moment at which a mark was counted, and the latest stamp of a key, that is forgotten.
ALTER TABLE store ADD COLUMN marks_forgotten_through bigint NOT NULL DEFAULT 0;
ALTER TABLE store ADD COLUMN marks_forgotten_stamp bigint NOT NULL DEFAULT 0;
