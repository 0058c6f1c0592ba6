-- The digest of the published artifact. Null where no event of the kept revision says it.
ALTER TABLE publication ADD COLUMN integrity text COLLATE "C";

COMMENT ON COLUMN publication.integrity IS 'Digest of the artifact as Subresource Integrity writes it; null where no event says it.';
COMMENT ON COLUMN publication.disputed IS 'Two events of the kept revision disagree on created, username or integrity.';

-- What the upsert is given now. The type before stays, so that ingesters of the build before go on writing while they are
-- replaced one after the other.
CREATE TYPE publication_record AS (
    name text,
    version text,
    username text,
    created timestamptz,
    tor boolean,
    tfa boolean,
    tor_reason smallint,
    tfa_reason smallint,
    tor_evidence_until timestamptz,
    tor_settled boolean,
    credential smallint,
    actor smallint,
    revision integer,
    generation integer,
    event_identity bytea,
    disputed boolean,
    integrity text
);

COMMENT ON TYPE publication_record IS 'A publication on its way into the table.';

-- The table's own account of how far it is: one row a partition. The owner is the token of whoever was assigned the
-- partition last; a write under another token changes nothing.
CREATE TABLE ingest_position (
    consumer_group text COLLATE "C" NOT NULL,
    topic_id text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    owner text NOT NULL,
    next_offset bigint,
    leader_epoch integer,
    evidence text,
    PRIMARY KEY (consumer_group, topic_id, partition)
);

COMMENT ON TABLE ingest_position IS 'By group, topic and partition: every record before next_offset is written.';
COMMENT ON COLUMN ingest_position.owner IS 'Token of the ingester that owns the partition.';
COMMENT ON COLUMN ingest_position.next_offset IS 'Null where the partition was claimed and nothing was written since.';
COMMENT ON COLUMN ingest_position.evidence IS 'Fingerprint of the exit lists by which the partition''s verdicts are settled.';
