//! What an operator may have done to the table: triggers, rules, partitions, types of columns.

use super::*;
use crate::retry::Written;
use crate::{Retrying, WaitCause, WaitObserver};

const PARTITIONED: &str = include_str!("../../../../deploy/postgresql/partitioned.sql");

struct Unobserved;

impl WaitObserver for Unobserved {
    fn waiting(&self, _: WaitCause, _: &Error) {}

    fn recovered(&self, _: WaitCause) {}
}

impl Store {
    /// Writes with retries; returns the counts and the indexes of the refused rows.
    async fn write(&self, records: &[Publication]) -> (Recorded, Vec<usize>) {
        let retrying = Retrying::new(self.writer.clone(), Arc::new(Unobserved));
        let Written { recorded, refused } = retrying.write(records).await.unwrap();
        (recorded, refused.into_iter().map(|refused| refused.place).collect())
    }

    /// Makes the table one of partitions.
    pub(super) async fn partition(&self) {
        self.execute(&format!("BEGIN; {PARTITIONED}; COMMIT")).await;
    }

    fn is_postgres(&self) -> bool {
        self.settings.url.starts_with("postgres")
    }

    /// Creates or replaces a trigger on rows whose name begins with `bad`; `when` is for example `BEFORE INSERT`.
    async fn trigger(&self, when: &str, what: &str) {
        let sql = match self.is_postgres() {
            true => format!(
                "CREATE OR REPLACE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NEW; END $$; \
                 DROP TRIGGER IF EXISTS change ON publication; CREATE TRIGGER change {when} ON publication \
                 FOR EACH ROW WHEN (NEW.name LIKE 'bad%') EXECUTE FUNCTION change()"
            ),
            false => format!(
                "DROP TRIGGER IF EXISTS change; CREATE TRIGGER change {when} ON publication \
                 WHEN NEW.name LIKE 'bad%' BEGIN {what}; END"
            ),
        };
        self.execute(&sql).await;
    }
}

fn inserted(rows: u64) -> Recorded {
    Recorded { inserted: rows, ..Recorded::default() }
}

/// By a single statement and by one of many rows, on a session that is new and on one that is not. The rows, the refused rows and
/// the counts agree.
pub(super) async fn a_row_that_is_not_there_after_it_was_written_is_refused(store: Store) {
    let mut cases = vec![
        ("AFTER INSERT", "DELETE FROM publication WHERE name = NEW.name"),
        ("AFTER INSERT", "UPDATE publication SET name = upper(name) WHERE name = NEW.name"),
        ("AFTER INSERT", "UPDATE publication SET username = 'another' WHERE name = NEW.name"),
    ];
    if store.is_postgres() {
        cases.extend([
            ("BEFORE INSERT", "RETURN NULL"),
            ("BEFORE INSERT", "NEW.name := upper(NEW.name)"),
            ("BEFORE INSERT", "NEW.username := 'another'"),
        ]);
    } else {
        cases.push(("BEFORE INSERT", "SELECT RAISE(IGNORE)"));
    }
    let (mut rows, mut number) = (Vec::new(), 0);
    for (when, what) in cases {
        store.trigger(when, what).await;
        for (size, bad) in [(3, 1), (2_000, 7), (5, 4)] {
            let mut batch: Vec<_> =
                (0..size).map(|at| row(&format!("p{}", number + at), 1)).collect();
            number += size;
            batch[bad] = row(&format!("bad{number}"), 1);
            let expected = (inserted(size as u64 - 1), vec![bad]);
            assert_eq!(store.write(&batch).await, expected, "{when}: {what}, {size} rows");
            batch.remove(bad);
            rows.extend(batch);
        }
    }
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(store.rows().await, rows);
    // A trigger that prevents a change.
    store
        .trigger(
            "BEFORE UPDATE",
            if store.is_postgres() { "RETURN NULL" } else { "SELECT RAISE(IGNORE)" },
        )
        .await;
    let mut pair = [row("bad", 1), row("good", 1)];
    assert_eq!(store.write(&pair).await, (inserted(2), vec![]));
    pair.iter_mut().for_each(|row| row.revision = 1);
    let changed = Recorded { updated: 1, ..Recorded::default() };
    assert_eq!(store.write(&pair).await, (changed, vec![0]));
}

/// A trigger that leaves the rows as they are costs time and nothing else.
#[tokio::test]
async fn a_table_with_a_harmless_trigger_takes_every_batch() {
    let store = Store::postgres().await;
    store.trigger("BEFORE INSERT", "PERFORM 1").await;
    let mut rows: Vec<_> = (0..2_000).map(|number| row(&format!("bad{number:04}"), 1)).collect();
    assert_eq!(store.write(&rows).await, (inserted(2_000), vec![]));
    rows.truncate(10);
    rows[3].revision = 1;
    rows.push(row("new", 1));
    let recorded = Recorded { inserted: 1, updated: 1, unchanged: 9, disputed: 0 };
    assert_eq!(store.write(&rows).await, (recorded, vec![]));
    store.execute("DROP TRIGGER change ON publication").await;
    assert_eq!(store.write(&[row("newer", 1)]).await, (inserted(1), vec![]));
}

#[tokio::test]
async fn rows_of_a_partition_that_was_detached_are_the_tables_fault() {
    let store = Store::postgres().await;
    store.partition().await;
    let [typical, _] = crate::typical::typical_rows().unwrap();
    let of = "SELECT satisfies_hash_partition('publication'::regclass, 16, 3, $1::text)";
    let url = &store.settings.url;
    let mut operator = sqlx::PgConnection::connect(url).await.unwrap();
    let is_typical = sqlx::query_scalar::<_, bool>(of).bind(typical.id.name.as_str());
    assert!(!is_typical.fetch_one(&mut operator).await.unwrap(), "the typical row has another one");
    store.write(&[row("first", 1)]).await;
    store.execute("ALTER TABLE publication DETACH PARTITION publication_p3").await;
    for size in [50, 2_000] {
        let rows: Vec<_> = (0..size).map(|number| row(&format!("p{number}"), 1)).collect();
        let error = store.writer.record(&rows).await.unwrap_err();
        assert!(matches!(error, Error::NoPartition(_)), "{error}");
        assert!(
            error.to_string().contains("no partition of relation \"publication\" found"),
            "{error}"
        );
    }
    store.writer.probe().await.unwrap();
    let error = store.writer.migrate().await.unwrap_err();
    assert!(error.to_string().contains("partition is missing from publication,"), "{error}");
    store
        .execute("ALTER TABLE publication ATTACH PARTITION publication_p3 FOR VALUES WITH (MODULUS 16, REMAINDER 3)")
        .await;
    store.writer.migrate().await.unwrap();
    let rows: Vec<_> = (0..50).map(|number| row(&format!("p{number}"), 1)).collect();
    assert_eq!(store.write(&rows).await, (inserted(50), vec![]));
}

#[tokio::test]
async fn a_column_that_does_not_keep_what_is_written_is_refused_by_name() {
    let store = Store::postgres().await;
    let sensitive = "CREATE COLLATION same (provider = icu, locale = 'und-u-ks-level2', deterministic = false);                      CREATE DOMAIN seconds AS timestamptz(0); CREATE DOMAIN named AS text CHECK (value <> 'x')";
    store.execute(sensitive).await;
    for (column, kind, words) in [
        ("created", "timestamptz(0)", "created timestamp(0) with time zone"),
        ("created", "seconds", "created seconds"),
        ("created", "date", "created date"),
        ("name", "text COLLATE same", "name text COLLATE same"),
        (
            "name",
            "varchar(300) COLLATE \"und-x-icu\"",
            "name character varying(300) COLLATE \"und-x-icu\"",
        ),
        ("version", "char(256)", "version character(256)"),
        ("username", "text COLLATE same", "username text COLLATE same"),
        ("revision", "smallint", "revision smallint"),
    ] {
        let set = |kind: &str| format!("ALTER TABLE publication ALTER COLUMN {column} TYPE {kind}");
        store.execute(&set(kind)).await;
        let error = store.writer.migrate().await.unwrap_err();
        assert!(matches!(error, Error::Fatal(_)) && error.to_string().contains(words), "{error}");
        let is_key = ["name", "version"].contains(&column);
        assert_eq!(store.reader.ready().await.is_err(), is_key, "{column} {kind}");
        let before = match column {
            "created" => "timestamptz",
            "revision" => "integer",
            _ => "text COLLATE \"C\"",
        };
        store.execute(&set(before)).await;
    }
    store
        .execute("ALTER TABLE publication ALTER COLUMN created TYPE timestamptz(6), ALTER COLUMN username TYPE varchar(300) COLLATE \"und-x-icu\",                   ALTER COLUMN name TYPE named COLLATE \"C\"")
        .await;
    store.writer.migrate().await.unwrap();
}

#[tokio::test]
async fn merges_compare_bytewise_whatever_the_collation() {
    let store = Store::postgres().await;
    let other = "ALTER TABLE publication ALTER integrity TYPE text COLLATE \"und-x-icu\", ALTER username TYPE text COLLATE \"und-x-icu\"";
    store.execute(other).await;
    for texts in [["sha512-BAAA", "sha512-aAAA"], ["sha512-aAAA", "sha512-BAAA"]] {
        let rows = texts.map(|text| {
            let mut row = row(&texts.concat(), 1);
            row.info.integrity = Some(Integrity::new(text).unwrap());
            row
        });
        for row in &rows {
            store.writer.record(std::slice::from_ref(row)).await.unwrap();
        }
        let found = store.reader.find(&[rows[0].id.clone()]).await.unwrap().remove(0).unwrap();
        assert_eq!(found.info.integrity.unwrap().as_str(), "sha512-BAAA");
    }
}

#[tokio::test]
async fn only_the_owner_makes_a_table_of_partitions() {
    let store = Store::postgres().await;
    let role = format!("\"Owner {}\"", std::process::id());
    let give = format!(
        "CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}; \
        ALTER TABLE publication OWNER TO {role}"
    );
    store.execute(&give).await;
    let mut superuser = sqlx::PgConnection::connect(&store.settings.url).await.unwrap();
    let refused = sqlx::raw_sql(PARTITIONED).execute(&mut superuser).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("SET ROLE {role}")), "{refused}");
    store.execute(&format!("SET ROLE {role}; {PARTITIONED}")).await;
    store.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Without nested loops, a write of many rows would have no cheap join at all.
#[tokio::test]
async fn settings_of_the_database_change_neither_the_checks_nor_the_plans() {
    let store = Store::postgres().await;
    store.partition().await;
    let set = "DO $$ BEGIN \
        EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database()); \
        EXECUTE format('ALTER DATABASE %I SET enable_nestloop = off', current_database()); END $$";
    store.execute(set).await;
    let crate::settings::Database::Postgres(url) = store.settings.database().unwrap() else {
        unreachable!("the URL is PostgreSQL's")
    };
    let mut connection = crate::postgres::connect(&url, &store.settings).await.unwrap();
    crate::postgres::inspect(&mut connection, "public").await.unwrap();
    let loops: String =
        sqlx::query_scalar("SHOW enable_nestloop").fetch_one(&mut connection).await.unwrap();
    assert_eq!(loops, "on");
}

#[tokio::test]
async fn a_table_without_its_unique_index_is_refused() {
    let store = Store::postgres().await;
    for convert in ["", PARTITIONED] {
        store.execute(&format!("BEGIN; {convert}; COMMIT")).await;
        store.writer.migrate().await.unwrap();
        for other in [
            "",
            "CREATE UNIQUE INDEX other ON publication (name, version, created)",
            "CREATE INDEX other ON publication (name, version)",
            "ALTER TABLE publication ADD CONSTRAINT other UNIQUE (name, version) DEFERRABLE",
        ] {
            let drop = "ALTER TABLE publication DROP CONSTRAINT publication_pkey";
            store.execute(&format!("{drop}; {other}")).await;
            let error = store.writer.migrate().await.unwrap_err();
            assert!(error.to_string().contains("no valid unique index"), "{other}: {error}");
            let repair = "ALTER TABLE publication DROP CONSTRAINT IF EXISTS other; DROP INDEX IF EXISTS other; \
                ALTER TABLE publication ADD PRIMARY KEY (name, version)";
            store.execute(repair).await;
            store.writer.migrate().await.unwrap();
        }
    }
}

/// In a temporary schema, the tables would end with the session.
#[tokio::test]
async fn a_schema_that_the_role_may_not_use_is_refused() {
    let store = Store::postgres().await;
    let role = format!("unused_{}", std::process::id());
    store.execute(&format!("CREATE SCHEMA closed; CREATE ROLE {role}")).await;
    let url = format!("{}?options[role]={role}", store.settings.url);
    let settings = StoreSettings { url, schema: "closed".into(), ..StoreSettings::default() };
    let error = crate::open(&settings).unwrap().table.migrate().await.unwrap_err();
    assert!(error.to_string().contains("has no USAGE on it"), "{error}");
    store.execute(&format!("GRANT USAGE ON SCHEMA closed TO {role}")).await;
    let error = crate::open(&settings).unwrap().table.migrate().await.unwrap_err();
    assert!(error.to_string().contains("publication is in schema public"), "{error}");
    store.execute("DROP TABLE publication CASCADE").await;
    let error = crate::open(&settings).unwrap().table.migrate().await.unwrap_err();
    assert!(error.to_string().contains("as the owner of the schema"), "{error}");
    store.execute(&format!("GRANT CREATE ON SCHEMA closed TO {role}")).await;
    crate::open(&settings).unwrap().table.migrate().await.unwrap();
    store
        .execute(&format!("DROP SCHEMA closed CASCADE; DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn what_an_operator_adds_under_way_is_named() {
    let store = Store::postgres().await;
    let batch = |first: usize| {
        (first..first + 2_000).map(|number| row(&format!("p{number}"), 1)).collect::<Vec<_>>()
    };
    store.writer.record(&batch(0)).await.unwrap();
    store.execute("CREATE RULE forget AS ON INSERT TO publication WHERE NEW.name LIKE 'p3%' DO INSTEAD NOTHING").await;
    let error = store.writer.record(&batch(2_000)).await.unwrap_err();
    assert!(error.to_string().contains("forget"), "{error}");
    assert_eq!(store.rows().await.len(), 2_000);
    store.execute("DROP RULE forget ON publication; ALTER TABLE publication SET UNLOGGED").await;
    // A writer whose sessions are new.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    store.execute(end).await;
    let error = store.writer.record(&batch(2_000)).await.unwrap_err();
    assert!(error.to_string().contains("unlogged are publication,"), "{error}");
    store.execute("ALTER TABLE publication SET LOGGED").await;
    store.writer.record(&batch(2_000)).await.unwrap();
}
