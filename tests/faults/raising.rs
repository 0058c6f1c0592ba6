//! Statements that fail for a while.

/// The SQL of a trigger `raising` that raises a SQLSTATE for the next so many statements that write into the table.
pub(crate) fn raising(code: &str, times: u64, table: &str) -> String {
    format!(
        "CREATE SEQUENCE IF NOT EXISTS raised; SELECT setval('raised', 1);
         CREATE OR REPLACE FUNCTION raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('raised') <= {times} + 1 THEN
             RAISE EXCEPTION 'provoked' USING ERRCODE = '{code}'; END IF;
           RETURN NULL; END $$;
         CREATE OR REPLACE TRIGGER raising BEFORE INSERT OR UPDATE ON {table}
           FOR EACH STATEMENT EXECUTE FUNCTION raising();"
    )
}
