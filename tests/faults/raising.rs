//! Statements that fail for a while.

/// SQL for a trigger `raising`, which raises a SQLSTATE for the next `times` write statements on the table.
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
