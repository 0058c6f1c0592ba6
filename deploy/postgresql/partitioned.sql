-- Makes `publication` a table of 16 hash partitions by name, for databases that outgrow one disk (each partition can have
-- its own tablespace) or whose vacuum takes too long. Whether writes become faster depends on the machine
-- (crates/MEASUREMENTS.md, Layouts and Growth): measure before it is done for speed.
--
-- Run it once, after `publication-ingester migrate`, as the table's owner, with the ingesters stopped; the query daemons
-- wait for the lock. It copies every row, so it needs the table's size in addition. It runs in one transaction:
--
--   psql --set ON_ERROR_STOP=1 --single-transaction --dbname publications --file deploy/postgresql/partitioned.sql
--
-- The old table stays as publication_unpartitioned until you drop it. The new table gets the rights granted on the old one.

-- Another role, such as a superuser, would own the new table, so that neither roles nor migrations could change it.
DO $$
DECLARE
    owner name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'publication'::regclass);
BEGIN
    IF owner <> current_user THEN
        RAISE EXCEPTION 'run this as the owner of the table: SET ROLE %', quote_ident(owner);
    END IF;
END
$$;

LOCK TABLE publication IN ACCESS EXCLUSIVE MODE;

-- The new table's indexes take over these names, because later migrations may use them.
ALTER TABLE publication RENAME TO publication_unpartitioned;
ALTER INDEX publication_pkey RENAME TO publication_unpartitioned_pkey;
ALTER INDEX publication_created RENAME TO publication_unpartitioned_created;
ALTER INDEX publication_tor RENAME TO publication_unpartitioned_tor;
ALTER INDEX publication_disputed RENAME TO publication_unpartitioned_disputed;
ALTER INDEX publication_generation RENAME TO publication_unpartitioned_generation;

-- The same columns in the same order, as the migrations left them, with checks, defaults and comments.
CREATE TABLE publication (LIKE publication_unpartitioned INCLUDING ALL EXCLUDING INDEXES)
    PARTITION BY HASH (name);
ALTER TABLE publication ADD PRIMARY KEY (name, version);
CREATE INDEX publication_created ON publication (created);
CREATE INDEX publication_tor ON publication (created) WHERE tor;
CREATE INDEX publication_disputed ON publication (created) WHERE disputed;
CREATE INDEX publication_generation ON publication (generation) WHERE generation > 0;

-- By name, because queries ask for all versions of a package, which then are in one partition.
DO $$
DECLARE
    partitions CONSTANT integer := 16;
BEGIN
    FOR remainder IN 0 .. partitions - 1 LOOP
        -- TABLESPACE goes at the end.
        EXECUTE format(
            'CREATE TABLE publication_p%s PARTITION OF publication FOR VALUES WITH (MODULUS %s, REMAINDER %s)',
            remainder, partitions, remainder);
    END LOOP;
END
$$;

INSERT INTO publication SELECT * FROM publication_unpartitioned;

DO $$
DECLARE
    granted record;
BEGIN
    IF (SELECT count(*) FROM publication) <> (SELECT count(*) FROM publication_unpartitioned) THEN
        RAISE EXCEPTION 'not every row was copied';
    END IF;
    -- Roles get the same rights on the new table as on the old one. The owner has all rights anyway.
    FOR granted IN
        SELECT privilege_type, grantee, is_grantable
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'publication_unpartitioned'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON publication TO %s%s', granted.privilege_type,
            CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
            CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

-- Autovacuum analyses the partitions but never the whole table, and plans need its statistics.
ANALYZE publication;
