-- Three roles with no more rights than their work needs. Run it once as a superuser in the database of the publications,
-- before the first `publication-ingester migrate`; running it again changes nothing:
--
--   psql --dbname publications --file deploy/postgresql/roles.sql
--
-- The roles cannot log in by themselves: give each daemon's login one of them, or let the role log in.
--
--   CREATE ROLE query_daemon LOGIN PASSWORD '...' IN ROLE publication_query;
--
-- Schema `public` of the database is theirs alone; a database that others use needs a schema of its own.

DO $$
BEGIN
    -- Roles are the server's, so that another database's run of this file may have made them.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'publication_migrator') THEN
        CREATE ROLE publication_migrator;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'publication_ingester') THEN
        CREATE ROLE publication_ingester;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'publication_query') THEN
        CREATE ROLE publication_query;
    END IF;
EXCEPTION
    -- Two runs at the same moment: the other one made it.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- Nobody gets in or makes anything unasked.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO publication_migrator, publication_ingester, publication_query',
        current_database());
    -- Bulk writes go through a temporary table.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO publication_ingester', current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO publication_ingester, publication_query;

-- `publication-ingester migrate` makes and owns the tables and types.
GRANT USAGE, CREATE ON SCHEMA public TO publication_migrator;

-- What the migrator makes from now on: the ingester reads and writes rows, the query daemon reads them. Neither deletes,
-- because nothing that they do deletes a publication.
ALTER DEFAULT PRIVILEGES FOR ROLE publication_migrator IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE ON TABLES TO publication_ingester;
ALTER DEFAULT PRIVILEGES FOR ROLE publication_migrator IN SCHEMA public
    GRANT SELECT ON TABLES TO publication_query;

-- What it has made already.
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO publication_ingester;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO publication_query;
