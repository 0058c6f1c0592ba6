-- One row a publication (contract, section 2). Times are RFC 3339 in UTC with microseconds, which sort as text.
-- WITHOUT ROWID: the table is its own primary key, and the index on `created` carries the key for paging.
CREATE TABLE publication (
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
) STRICT, WITHOUT ROWID;

-- The API pages newest first.
CREATE INDEX publication_created ON publication (created);
-- Where settling starts after a restart: the oldest row that later exit lists can still change.
CREATE INDEX publication_unsettled ON publication (created) WHERE NOT tor_settled;
-- The highest generation at start; empty, and free, until an operator raises it.
CREATE INDEX publication_generation ON publication (generation) WHERE generation > 0;
