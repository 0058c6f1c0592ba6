-- The same table without its one check that called a function: SQLite takes any function for one that may fail, and so
-- kept a copy of every page that an insert of several rows was about to change, three times what it wrote to the log.
-- What the check held is written by one statement, from an array of 16 bytes.
CREATE TABLE publication_unchecked (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    username TEXT,
    created TEXT NOT NULL,
    tor INTEGER CHECK (tor IN (0, 1)),
    tfa INTEGER CHECK (tfa IN (0, 1)),
    tor_reason TEXT NOT NULL,
    tfa_reason TEXT NOT NULL,
    tor_evidence_until TEXT,
    tor_settled INTEGER NOT NULL CHECK (tor_settled IN (0, 1)),
    credential TEXT NOT NULL,
    actor TEXT NOT NULL,
    revision INTEGER NOT NULL CHECK (revision >= 0),
    generation INTEGER NOT NULL CHECK (generation >= 0),
    event_identity BLOB NOT NULL,
    disputed INTEGER NOT NULL CHECK (disputed IN (0, 1)),
    PRIMARY KEY (name, version)
) STRICT;

INSERT INTO publication_unchecked SELECT * FROM publication ORDER BY rowid;
DROP TABLE publication;
ALTER TABLE publication_unchecked RENAME TO publication;

-- The API pages newest first.
CREATE INDEX publication_created ON publication (created);
-- Where settling starts after a restart: the oldest row that later exit lists can still change.
CREATE INDEX publication_unsettled ON publication (created) WHERE NOT tor_settled;
-- The highest generation at start; empty, and free, until an operator raises it.
CREATE INDEX publication_generation ON publication (generation) WHERE generation > 0;
