-- The digest of the published artifact. Null where no event of the kept revision says it.
ALTER TABLE publication ADD COLUMN integrity TEXT;

-- The table's own account of how far it is: one row a partition. The owner is the token of whoever was assigned the
-- partition last; a write under another token changes nothing.
CREATE TABLE ingest_position (
    consumer_group TEXT NOT NULL,
    topic_id TEXT NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT NOT NULL,
    next_offset INTEGER,
    leader_epoch INTEGER,
    evidence TEXT,
    PRIMARY KEY (consumer_group, topic_id, partition)
) STRICT, WITHOUT ROWID;
