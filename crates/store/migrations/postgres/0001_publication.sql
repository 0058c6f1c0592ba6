-- One row a publication (contract, section 2).
-- The words are enumerations: four bytes a row, read as text. Their labels stand in bytewise order, so that comparing
-- two values is the merge rule's comparison of the words.
CREATE TYPE tor_reason AS ENUM (
    'anonymous_ip', 'bad_address', 'edge', 'exit_list', 'listed_after', 'no_address', 'no_coverage', 'not_global',
    'not_listed', 'prefix', 'snapshot');
CREATE TYPE tfa_reason AS ENUM (
    'acr', 'amr', 'no_human_factor', 'no_second_factor', 'not_reported', 'password_only', 'second_factor',
    'second_factor_rejected');
CREATE TYPE publication_credential AS ENUM (
    'automation_token', 'granular_token', 'oidc', 'password', 'session_token', 'unknown');
CREATE TYPE publication_actor AS ENUM ('unknown', 'user', 'workflow');

-- Fixed widths first, widest first: no byte is lost to alignment. Keys compare bytewise (COLLATE "C"), which is what
-- the contract says and several times cheaper than a language's collation.
CREATE TABLE publication (
    created timestamptz NOT NULL,
    revision integer NOT NULL CHECK (revision >= 0),
    generation integer NOT NULL CHECK (generation >= 0),
    tor_reason tor_reason NOT NULL,
    tfa_reason tfa_reason NOT NULL,
    credential publication_credential NOT NULL,
    actor publication_actor NOT NULL,
    tor_settled boolean NOT NULL,
    disputed boolean NOT NULL,
    tor boolean,
    tfa boolean,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    username text COLLATE "C",
    event_identity bytea NOT NULL,
    tor_evidence_until timestamptz,
    PRIMARY KEY (name, version)
);

-- The API pages newest first.
CREATE INDEX publication_created ON publication (created);
-- Where settling starts after a restart: the oldest row that later exit lists can still change.
CREATE INDEX publication_unsettled ON publication (created) WHERE NOT tor_settled;
-- The highest generation at start; empty, and free, until an operator raises it.
CREATE INDEX publication_generation ON publication (generation) WHERE generation > 0;

COMMENT ON TABLE publication IS 'One row a published package version; null means not determined, never no.';
COMMENT ON COLUMN publication.created IS 'When the version became public.';
COMMENT ON COLUMN publication.tor IS 'Whether the publisher came over Tor; null = not determined.';
COMMENT ON COLUMN publication.tfa IS 'Whether a second factor was verified on the act; null = not determined.';
COMMENT ON COLUMN publication.tor_evidence_until IS 'Time of the newest valid exit list when tor was judged.';
COMMENT ON COLUMN publication.tor_settled IS 'Whether later exit lists can no longer change tor.';
COMMENT ON COLUMN publication.event_identity IS 'First 16 bytes of the SHA-256 of the event''s source, a line feed, its id.';
COMMENT ON COLUMN publication.disputed IS 'Two events of the kept revision disagree on created or username.';
