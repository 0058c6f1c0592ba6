-- Creates three roles with only the rights that they need. Run it as a superuser in the database of the publications
-- before the first `publication-ingester migrate`, which creates the tables, and again after it and after every update,
-- which may bring more tables. Existing roles and tables stay as they are:
--
--   psql --dbname publications --file deploy/postgresql/roles.sql
--
-- The roles cannot log in. Grant one of them to each login; `migrate` runs as the first, so that it owns the tables:
--
--   CREATE ROLE migrator LOGIN PASSWORD '...' IN ROLE publication_migrator;
--   ALTER ROLE migrator SET role = 'publication_migrator';
--   CREATE ROLE ingester LOGIN PASSWORD '...' IN ROLE publication_ingester;
--   CREATE ROLE query_daemon LOGIN PASSWORD '...' IN ROLE publication_query;
--
-- Only these roles may use the schema `public` of the database. In a shared database use a separate schema: replace
-- `public` in this file by its name, and set `store.schema` of both daemons to it.

DO $$
BEGIN
    -- Roles belong to the server, so a run in another database may have created them.
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
    -- Two runs at the same time: the other run created the role.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- Other roles may neither connect nor create objects.
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

-- The ingester reads and writes rows, the query daemon reads them. Neither may delete, because neither ever removes a
-- publication.
DO $$
BEGIN
    IF to_regclass('public.publication') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON public.publication TO publication_ingester;
        GRANT SELECT ON public.publication TO publication_query;
        -- At start the ingester reads which migrations were applied.
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
