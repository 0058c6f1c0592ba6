-- The table keeps its rows in the order in which they came, and the key in an index of its own. Without rowid each row of
-- 200 bytes was inserted at a random place of the key's tree, which split and rewrote pages all the time: twice the
-- processor time and twice the log.
CREATE TABLE publication_by_rowid (
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
    event_identity BLOB NOT NULL CHECK (length(event_identity) = 16),
    disputed INTEGER NOT NULL CHECK (disputed IN (0, 1)),
    PRIMARY KEY (name, version)
) STRICT;

INSERT INTO publication_by_rowid SELECT * FROM publication ORDER BY created;
DROP TABLE publication;
ALTER TABLE publication_by_rowid RENAME TO publication;

-- The API pages newest first.
CREATE INDEX publication_created ON publication (created);
-- Where settling starts after a restart: the oldest row that later exit lists can still change.
CREATE INDEX publication_unsettled ON publication (created) WHERE NOT tor_settled;
-- The highest generation at start; empty, and free, until an operator raises it.
CREATE INDEX publication_generation ON publication (generation) WHERE generation > 0;
