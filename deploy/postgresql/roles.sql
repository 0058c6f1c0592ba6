-- Three roles with no more rights than their work needs. Run it as a superuser in the database of the publications
-- before the first `publication-ingester migrate`, which makes the tables, and again after it and after every update,
-- which may bring more of them. What is there already stays as it is:
--
--   psql --dbname publications --file deploy/postgresql/roles.sql
--
-- The roles cannot log in. Give each login one of them; `migrate` runs as the first, so that the tables are its own:
--
--   CREATE ROLE migrator LOGIN PASSWORD '...' IN ROLE publication_migrator;
--   ALTER ROLE migrator SET role = 'publication_migrator';
--   CREATE ROLE ingester LOGIN PASSWORD '...' IN ROLE publication_ingester;
--   CREATE ROLE query_daemon LOGIN PASSWORD '...' IN ROLE publication_query;
--
-- Schema `public` of the database is theirs alone. In a database that others use, give them a schema of its own: replace
-- `public` in this file by its name, and name it in `store.schema` of both daemons.

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
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO publication_migrator;
GRANT USAGE ON SCHEMA public TO publication_ingester, publication_query;

-- The ingester reads and writes rows, the query daemon reads them. Neither deletes, because nothing that they do takes a
-- publication away.
DO $$
BEGIN
    IF to_regclass('public.publication') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON public.publication TO publication_ingester;
        GRANT SELECT ON public.publication TO publication_query;
        -- At its start the ingester looks which migrations were made.
        GRANT SELECT ON public._sqlx_migrations TO publication_ingester;
    END IF;
    IF to_regclass('public.replay_job') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON public.replay_job TO publication_ingester;
    END IF;
    IF to_regclass('public.ingest_position') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON public.ingest_position TO publication_ingester;
    END IF;
END
$$;
