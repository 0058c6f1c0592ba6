-- What the ingester's upsert is given: an array of these. As sixteen arrays side by side, each would be spread into a
-- list of its own first, which took longer than everything but the search for the keys. Its columns are the statement's
-- own and not the table's, to which an operator may add some; words are numbers, places in their enumeration.
CREATE TYPE publication_row AS (
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
    disputed boolean
);

COMMENT ON TYPE publication_row IS 'A publication on its way into the table.';
