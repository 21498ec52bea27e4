//! Schema: the migrations, one text for both databases. The files hold SQLite's text; PostgreSQL's is made from it.

use std::sync::LazyLock;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr};

/// Every migration: its version (1, then the date as YYYYMMDD and two digits), its name and SQLite's text. A new one is a
/// file and a line here; one that a release has shipped never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "first", include_str!("../../migrations/0001_first.sql"))];

/// For SQLite.
pub(super) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(str::to_owned));

/// For PostgreSQL.
pub(super) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(postgres));

fn migrator(dialect: fn(&str) -> String) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, text)| {
        let sql = AssertSqlSafe(dialect(text)).into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// PostgreSQL's text for SQLite's. A column with `check (column in (0, 1))` is a boolean there.
fn postgres(sqlite: &str) -> String {
    sqlite.lines().map(postgres_line).collect::<Vec<_>>().join("\n")
}

fn postgres_line(line: &str) -> String {
    if line.trim_start().starts_with("--") {
        return line.to_owned();
    }
    let column = line.split_whitespace().next().unwrap_or_default();
    let is_boolean = format!(" check ({column} in (0, 1))");
    let words: &[(&str, &str)] = if line.contains(&is_boolean) {
        &[
            (&is_boolean, ""),
            (" integer", " boolean"),
            (" default 0", " default false"),
            (" default 1", " default true"),
        ]
    } else {
        &[
            (" integer primary key autoincrement", " bigint generated always as identity primary key"),
            (" integer", " bigint"),
            (" blob", " bytea"),
            // Text is compared byte by byte on SQLite. On PostgreSQL it follows the locale unless it is told otherwise.
            (" collate binary", " collate \"C\""),
            (") strict, without rowid;", ");"),
            (") strict;", ");"),
        ]
    };
    words.iter().fold(line.to_owned(), |text, (lite, pg)| text.replace(lite, pg))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::store::{Db, Location, both};

    #[test]
    fn every_migration_file_is_listed_once_and_in_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let listed: Vec<String> =
            MIGRATIONS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
        assert_eq!(files.collect::<BTreeSet<_>>(), listed.iter().cloned().collect());
        assert!(MIGRATIONS.is_sorted_by(|(one, ..), (next, ..)| one < next));
    }

    #[test]
    fn postgres_gets_its_own_types() {
        let lines = [
            (
                "    no integer primary key autoincrement,",
                "    no bigint generated always as identity primary key,",
            ),
            ("    day text collate binary not null,", "    day text collate \"C\" not null,"),
            (
                "    dry_run integer not null default 0 check (dry_run in (0, 1)),",
                "    dry_run boolean not null default false,",
            ),
            ("    -- integer", "    -- integer"),
            (") strict, without rowid;", ");"),
        ];
        for (lite, pg) in lines {
            assert_eq!(postgres(lite), pg);
        }
    }

    /// Table and column to type and whether null is allowed; and the names of the indexes.
    type Shape = (BTreeMap<String, (String, bool)>, BTreeSet<String>);

    async fn shape(db: &Db, columns: crate::store::Sql, indexes: crate::store::Sql) -> Shape {
        let columns: Vec<(String, String, bool)> = db.all(columns, ()).await.unwrap();
        let indexes: Vec<(String,)> = db.all(indexes, ()).await.unwrap();
        let columns = columns.into_iter().map(|(name, kind, is_null)| (name, (kind, is_null)));
        (columns.collect(), indexes.into_iter().map(|(name,)| name).collect())
    }

    async fn sqlite_shape() -> Shape {
        let db = Db::open(&Location::Memory).await.unwrap();
        db.migrate().await.unwrap();
        let columns = both(
            "select t.name || '.' || c.name,
                case when t.sql like '%' || c.name || ' in (0, 1)%' then 'boolean' else lower(c.type) end,
                c.\"notnull\" = 0 and c.pk = 0
             from sqlite_master t join pragma_table_info(t.name) c
             where t.type = 'table' and t.name not like '\\_sqlx%' escape '\\' and t.name <> 'sqlite_sequence'",
        );
        let indexes = both("select name from sqlite_master where type = 'index' and sql is not null");
        shape(&db, columns, indexes).await
    }

    async fn postgres_shape(url: &str) -> Shape {
        let db = Db::open(&Location::Postgres(url.to_owned())).await.unwrap();
        db.migrate().await.unwrap();
        let columns = both(
            "select table_name || '.' || column_name,
                case data_type when 'bigint' then 'integer' when 'bytea' then 'blob' else data_type::text end,
                is_nullable = 'YES'
             from information_schema.columns
             where table_schema = current_schema() and table_name not like '\\_sqlx%'",
        );
        let indexes = both(
            "select indexname::text from pg_indexes
             where schemaname = current_schema() and indexname not like '%\\_pkey' and indexname not like '%\\_key'",
        );
        shape(&db, columns, indexes).await
    }

    #[tokio::test]
    async fn both_databases_have_the_same_schema() {
        let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
            return eprintln!("skipped: TEST_POSTGRES_URL is not set");
        };
        #[allow(clippy::disallowed_methods, reason = "a database of its own for each run")]
        let name = format!("schema_{:032x}", rand::random::<u128>());
        let admin = Db::open(&Location::Postgres(server.clone())).await.unwrap();
        let Db::Pg(pool) = &admin else { unreachable!("it was opened as PostgreSQL") };
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(pool).await.unwrap();
        let (address, _) = server.rsplit_once('/').unwrap();
        let (lite, pg) = (sqlite_shape().await, postgres_shape(&format!("{address}/{name}")).await);
        assert!(
            lite.0.len() > 200 && lite.1.len() > 40,
            "{} columns, {} indexes",
            lite.0.len(),
            lite.1.len()
        );
        assert_eq!(lite, pg);
    }
}
