-- The tallies of the context `email_domains`. Moments are seconds since 1970-01-01T00:00:00Z.

-- Which store this is, and what its totals were counted with.
CREATE TABLE store (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Set by `catchall migrate`, which also counts `catch_all` anew when it changes.
    threshold bigint CHECK (threshold > 0)
);
INSERT INTO store DEFAULT VALUES;

-- One row a domain. Names are ASCII and lower case; "C" sorts them by byte, as pages do.
-- Rows are changed again and again: the free third of a page keeps the new version beside the old
-- one, so that no index is touched (a HOT update). For that, no other column may be indexed.
CREATE TABLE domain_tallies (
    delivered bigint NOT NULL,
    bounced bigint NOT NULL,
    first_seen bigint NOT NULL,
    last_seen bigint NOT NULL,
    -- What the last group did to the verdict, for the statement that counts: the verdict before and
    -- after, a digit each. 0 none yet (a new domain), 1 unknown, 2 catch-all, 3 not catch-all; so 2
    -- is a new catch-all and 23 one that bounced. 0 alone: it did nothing.
    turn smallint NOT NULL,
    domain text COLLATE "C" PRIMARY KEY
) WITH (fillfactor = 70);

-- The last group of each writer, so that a repeated group counts once. A writer is one life of a
-- committer. Rows of the dead stay; `recorded_at` tells which may be removed one day.
CREATE TABLE writers (
    writer uuid PRIMARY KEY,
    last_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL,
    -- One byte a member; empty when all of them counted.
    outcomes bytea NOT NULL
) WITH (fillfactor = 20);

-- What each writer added to the sums, so that no two of them wait for one row. Groups of no
-- writer add to the nil UUID, into which `catchall migrate` also gathers the rows of the others.
CREATE TABLE writer_totals (
    writer uuid PRIMARY KEY,
    delivered bigint NOT NULL,
    bounced bigint NOT NULL,
    domains bigint NOT NULL,
    -- Changes, not sums: below zero when other writers made the catch-alls that this one unmade.
    catch_all bigint NOT NULL,
    not_catch_all bigint NOT NULL
) WITH (fillfactor = 20);

-- Callers' idempotency keys, hashed. Written once, in the order of time, so that a BRIN index on
-- `counted_at` will do to find the expired ones.
CREATE TABLE marks (
    key uuid PRIMARY KEY,
    fingerprint bigint NOT NULL,
    counted_at bigint NOT NULL
);
