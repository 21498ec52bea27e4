//! The two databases behind four verbs: `all`, `opt`, `one` and `run`, with typed tuples in and out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::encode::Encode;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, FromRow, PgPool, Postgres, Sqlite, SqlitePool, Type};

use super::schema;
use crate::failpoint::{self, Failpoint};

/// Read connections per process on SQLite; writers are always exactly one.
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 24;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// One statement: the same text for both databases, or one text for each.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    pg: &'static str,
    lite: &'static str,
}

/// One SQL text that both databases understand. A bound limit is written `limit $1 + 0`: SQLite plans for the value of a
/// bare `limit $1`, and so prepares the statement anew for every one.
pub const fn both(sql: &'static str) -> Sql {
    Sql { pg: sql, lite: sql }
}

/// Two texts that say the same, where one cannot serve both.
pub(crate) const fn split(pg: &'static str, lite: &'static str) -> Sql {
    Sql { pg, lite }
}

/// Statement arguments: a tuple whose elements both databases can hold.
pub trait Args<'t>: Send {
    /// For PostgreSQL.
    fn pg(self) -> Result<PgArguments, BoxDynError>;
    /// For SQLite.
    fn lite(self) -> Result<SqliteArguments, BoxDynError>;
}

impl<'t> Args<'t> for () {
    fn pg(self) -> Result<PgArguments, BoxDynError> {
        Ok(PgArguments::default())
    }
    fn lite(self) -> Result<SqliteArguments, BoxDynError> {
        Ok(SqliteArguments::default())
    }
}

macro_rules! tuple_args {
    ($($name:ident)+) => {
        impl<'t, $($name),+> Args<'t> for ($($name,)+)
        where
            $($name: Encode<'t, Postgres> + Type<Postgres> + Encode<'t, Sqlite> + Type<Sqlite> + Send,)+
        {
            #[allow(non_snake_case, reason = "a type parameter names its value")]
            fn pg(self) -> Result<PgArguments, BoxDynError> {
                let ($($name,)+) = self;
                let mut arguments = PgArguments::default();
                $(arguments.add($name)?;)+
                Ok(arguments)
            }
            #[allow(non_snake_case, reason = "a type parameter names its value")]
            fn lite(self) -> Result<SqliteArguments, BoxDynError> {
                let ($($name,)+) = self;
                let mut arguments = SqliteArguments::default();
                $(Arguments::add(&mut arguments, $name)?;)+
                Ok(arguments)
            }
        }
    };
}
tuple_args!(A);
tuple_args!(A B);
tuple_args!(A B C);
tuple_args!(A B C D);
tuple_args!(A B C D E);
tuple_args!(A B C D E F);
tuple_args!(A B C D E F G);
tuple_args!(A B C D E F G H);
tuple_args!(A B C D E F G H I);
tuple_args!(A B C D E F G H I J);
tuple_args!(A B C D E F G H I J K);
tuple_args!(A B C D E F G H I J K L);
tuple_args!(A B C D E F G H I J K L M);
tuple_args!(A B C D E F G H I J K L M N);
tuple_args!(A B C D E F G H I J K L M N O);
tuple_args!(A B C D E F G H I J K L M N O P);

/// A row that both databases can be read into: a tuple, or a struct with `#[derive(FromRow)]`.
pub trait Row: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
impl<T> Row for T where T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}

/// Open connections to the one database that this process works on.
#[derive(Clone, Debug)]
pub enum Db {
    /// PostgreSQL, shared by any number of replicas.
    Pg(PgPool),
    /// SQLite: one writer, so that nobody ever waits for a lock while holding another.
    Lite {
        /// Readers see the last commit and never block the writer.
        read: SqlitePool,
        /// Exactly one connection.
        write: SqlitePool,
    },
}

/// A transaction. Dropped without [`Tx::commit`], it never happened.
#[derive(Debug)]
pub enum Tx {
    /// On PostgreSQL.
    Pg(sqlx::Transaction<'static, Postgres>),
    /// On SQLite, begun immediately: a read that turns into a write cannot fail half-way.
    Lite(sqlx::Transaction<'static, Sqlite>),
}

// Futures that talk to a database are boxed: each caller would otherwise hold a copy of theirs in its own.

/// A statement with its arguments, for one of the databases. Generic code ends here: what talks to a database is compiled
/// once, not once for every combination of arguments and rows.
enum Statement {
    Pg(&'static str, PgArguments),
    Lite(&'static str, SqliteArguments),
}

impl Statement {
    fn pg<'t>(sql: Sql, args: impl Args<'t>) -> sqlx::Result<Statement> {
        Ok(Statement::Pg(sql.pg, args.pg().map_err(sqlx::Error::Encode)?))
    }

    fn lite<'t>(sql: Sql, args: impl Args<'t>) -> sqlx::Result<Statement> {
        Ok(Statement::Lite(sql.lite, args.lite().map_err(sqlx::Error::Encode)?))
    }
}

/// The rows of one of the databases, not read yet.
enum Rows {
    Pg(Vec<PgRow>),
    Lite(Vec<SqliteRow>),
}

impl Rows {
    fn read<R: Row>(&self) -> sqlx::Result<Vec<R>> {
        match self {
            Rows::Pg(rows) => rows.iter().map(R::from_row).collect(),
            Rows::Lite(rows) => rows.iter().map(R::from_row).collect(),
        }
    }

    /// The first row; a statement that is asked for one row returns no more.
    fn read_first<R: Row>(&self) -> sqlx::Result<Option<R>> {
        match self {
            Rows::Pg(rows) => rows.first().map(R::from_row).transpose(),
            Rows::Lite(rows) => rows.first().map(R::from_row).transpose(),
        }
    }
}

/// How many rows the caller reads.
#[derive(Clone, Copy)]
enum Wanted {
    All,
    First,
}

/// Runs a statement on something of PostgreSQL and answers its rows.
async fn fetch_pg<'c, E>(on: E, sql: &'static str, args: PgArguments, wanted: Wanted) -> sqlx::Result<Rows>
where
    E: sqlx::Executor<'c, Database = Postgres>,
{
    let query = sqlx::query_with(sql, args);
    Ok(Rows::Pg(match wanted {
        Wanted::All => query.fetch_all(on).await?,
        Wanted::First => query.fetch_optional(on).await?.into_iter().collect(),
    }))
}

/// Runs a statement on something of SQLite and answers its rows.
async fn fetch_lite<'c, E>(
    on: E,
    sql: &'static str,
    args: SqliteArguments,
    wanted: Wanted,
) -> sqlx::Result<Rows>
where
    E: sqlx::Executor<'c, Database = Sqlite>,
{
    let query = sqlx::query_with(sql, args);
    Ok(Rows::Lite(match wanted {
        Wanted::All => query.fetch_all(on).await?,
        Wanted::First => query.fetch_optional(on).await?.into_iter().collect(),
    }))
}

const OTHER_DATABASE: &str = "a statement is made for the database that runs it";

impl Db {
    /// Every row, as of the last commit.
    pub async fn all<'t, R: Row>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Vec<R>> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::All).await?.read()
    }

    /// The one row, where there is one.
    pub async fn opt<'t, R: Row>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Option<R>> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::First).await?.read_first()
    }

    /// The one row that there always is, such as a count.
    pub async fn one<'t, R: Row>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<R> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::First).await?.read_first()?.ok_or(sqlx::Error::RowNotFound)
    }

    /// One statement in a transaction of its own; answers how many rows it changed.
    pub async fn run<'t>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<u64> {
        let statement = self.statement(sql, args)?;
        self.execute(statement).await
    }

    fn statement<'t>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Statement> {
        match self {
            Db::Pg(_) => Statement::pg(sql, args),
            Db::Lite { .. } => Statement::lite(sql, args),
        }
    }

    fn fetch(&self, statement: Statement, wanted: Wanted) -> BoxFuture<'_, sqlx::Result<Rows>> {
        Box::pin(async move {
            failpoint::pass(Failpoint::Read).await?;
            match (self, statement) {
                (Db::Pg(pool), Statement::Pg(sql, args)) => fetch_pg(pool, sql, args, wanted).await,
                (Db::Lite { read, .. }, Statement::Lite(sql, args)) => {
                    fetch_lite(read, sql, args, wanted).await
                }
                _ => unreachable!("{OTHER_DATABASE}"),
            }
        })
    }

    fn execute(&self, statement: Statement) -> BoxFuture<'_, sqlx::Result<u64>> {
        Box::pin(async move {
            failpoint::pass(Failpoint::Begin).await?;
            let changed = match (self, statement) {
                (Db::Pg(pool), Statement::Pg(sql, args)) => {
                    sqlx::query_with(sql, args).execute(pool).await?.rows_affected()
                }
                (Db::Lite { write, .. }, Statement::Lite(sql, args)) => {
                    sqlx::query_with(sql, args).execute(write).await?.rows_affected()
                }
                _ => unreachable!("{OTHER_DATABASE}"),
            };
            failpoint::pass(Failpoint::Committed).await?;
            Ok(changed)
        })
    }

    /// Begins a transaction that may write.
    pub fn begin(&self) -> BoxFuture<'_, sqlx::Result<Tx>> {
        Box::pin(async move {
            failpoint::pass(Failpoint::Begin).await?;
            match self {
                Db::Pg(pool) => Ok(Tx::Pg(pool.begin().await?)),
                Db::Lite { write, .. } => Ok(Tx::Lite(begin_on(write).await?)),
            }
        })
    }
}

const BEGIN: &str = "begin immediate";

/// On a full disk, or one that errs, SQLite itself rolls back. sqlx goes on to count that transaction, and would begin
/// none on this connection any more: another one takes its place.
async fn begin_on(write: &SqlitePool) -> sqlx::Result<sqlx::Transaction<'static, Sqlite>> {
    match write.begin_with(BEGIN).await {
        Err(sqlx::Error::InvalidSavePointStatement) => {
            tracing::warn!("SQLite has rolled back by itself: the connection that writes is opened anew");
            write.acquire().await?.close().await?;
            write.begin_with(BEGIN).await
        }
        begun => begun,
    }
}

impl Tx {
    /// Every row, this transaction's own changes among them.
    pub async fn all<'t, R: Row>(&mut self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Vec<R>> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::All).await?.read()
    }

    /// The one row, where there is one.
    pub async fn opt<'t, R: Row>(&mut self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Option<R>> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::First).await?.read_first()
    }

    /// The one row that there always is.
    pub async fn one<'t, R: Row>(&mut self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<R> {
        let statement = self.statement(sql, args)?;
        self.fetch(statement, Wanted::First).await?.read_first()?.ok_or(sqlx::Error::RowNotFound)
    }

    /// One statement; answers how many rows it changed.
    pub async fn run<'t>(&mut self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<u64> {
        let statement = self.statement(sql, args)?;
        self.execute(statement).await
    }

    fn statement<'t>(&self, sql: Sql, args: impl Args<'t>) -> sqlx::Result<Statement> {
        match self {
            Tx::Pg(_) => Statement::pg(sql, args),
            Tx::Lite(_) => Statement::lite(sql, args),
        }
    }

    fn fetch(&mut self, statement: Statement, wanted: Wanted) -> BoxFuture<'_, sqlx::Result<Rows>> {
        Box::pin(async move {
            match (self, statement) {
                (Tx::Pg(tx), Statement::Pg(sql, args)) => fetch_pg(&mut **tx, sql, args, wanted).await,
                (Tx::Lite(tx), Statement::Lite(sql, args)) => fetch_lite(&mut **tx, sql, args, wanted).await,
                _ => unreachable!("{OTHER_DATABASE}"),
            }
        })
    }

    fn execute(&mut self, statement: Statement) -> BoxFuture<'_, sqlx::Result<u64>> {
        Box::pin(async move {
            match (self, statement) {
                (Tx::Pg(tx), Statement::Pg(sql, args)) => {
                    Ok(sqlx::query_with(sql, args).execute(&mut **tx).await?.rows_affected())
                }
                (Tx::Lite(tx), Statement::Lite(sql, args)) => {
                    Ok(sqlx::query_with(sql, args).execute(&mut **tx).await?.rows_affected())
                }
                _ => unreachable!("{OTHER_DATABASE}"),
            }
        })
    }

    /// Makes it durable: on both databases this returns after the disk has it.
    pub fn commit(self) -> BoxFuture<'static, sqlx::Result<()>> {
        Box::pin(async move {
            failpoint::pass(Failpoint::Commit).await?;
            match self {
                Tx::Pg(tx) => tx.commit().await?,
                Tx::Lite(tx) => tx.commit().await?,
            }
            failpoint::pass(Failpoint::Committed).await
        })
    }
}

/// Where the data lives, as `DATABASE_URL` says it.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// `postgres://…`
    Postgres(String),
    /// `sqlite:path/to/file.db`
    File(PathBuf),
    /// `sqlite::memory:`, for tests and simulations: gone with the process.
    Memory,
}

/// Without PostgreSQL's address: a password may stand in it.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Postgres(_) => f.write_str("Postgres([secret])"),
            Location::File(path) => f.debug_tuple("File").field(path).finish(),
            Location::Memory => f.write_str("Memory"),
        }
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Location::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest)) {
            Some(":memory:") => Ok(Location::Memory),
            Some(path) if !path.is_empty() => Ok(Location::File(PathBuf::from(path))),
            _ => Err("DATABASE_URL must start with `sqlite:` or `postgres://`".to_owned()),
        }
    }
}

impl Db {
    /// Opens the database without touching its schema.
    pub fn open(location: &Location) -> BoxFuture<'_, sqlx::Result<Db>> {
        Box::pin(async move {
            match location {
                Location::Postgres(url) => Ok(Db::Pg(postgres_options().connect(url).await?)),
                Location::File(path) => open_file(path).await,
                Location::Memory => open_memory().await,
            }
        })
    }

    /// Brings the schema up to this binary. On PostgreSQL replicas take turns (advisory lock); on SQLite the caller
    /// holds the file lock.
    pub fn migrate(&self) -> BoxFuture<'_, Result<(), sqlx::migrate::MigrateError>> {
        Box::pin(async move {
            match self {
                Db::Pg(pool) => schema::POSTGRES.run(pool).await,
                Db::Lite { write, .. } => schema::SQLITE.run(write).await,
            }
        })
    }

    /// How many migrations of this binary the database has not seen.
    pub(crate) async fn pending_migrations(&self) -> sqlx::Result<usize> {
        let known = match self {
            Db::Pg(_) => &schema::POSTGRES,
            Db::Lite { .. } => &schema::SQLITE,
        };
        let (done,): (i64,) =
            self.one(both("select count(*) from _sqlx_migrations where success = true"), ()).await?;
        Ok(known.iter().count().saturating_sub(usize::try_from(done).unwrap_or(0)))
    }

    /// The journal mode and the synchronous level (2 is FULL) that SQLite's writer really has.
    pub(crate) async fn durability(&self) -> sqlx::Result<(String, i64)> {
        let mut tx = self.begin().await?;
        let (journal,): (String,) = tx.one(both("select journal_mode from pragma_journal_mode"), ()).await?;
        let (level,): (i64,) = tx.one(both("select synchronous from pragma_synchronous"), ()).await?;
        Ok((journal, level))
    }

    /// What PostgreSQL has set, such as `on` for `fsync`.
    pub(crate) async fn postgres_setting(&self, name: &str) -> sqlx::Result<String> {
        let (value,): (String,) = self.one(both("select current_setting($1)"), (name,)).await?;
        Ok(value)
    }

    /// `postgresql` or `sqlite`, for people.
    pub fn engine(&self) -> &'static str {
        match self {
            Db::Pg(_) => "postgresql",
            Db::Lite { .. } => "sqlite",
        }
    }

    /// Waits for what is running, then closes every connection.
    pub async fn close(&self) {
        match self {
            Db::Pg(pool) => pool.close().await,
            Db::Lite { read, write } => {
                read.close().await;
                write.close().await;
            }
        }
    }
}

/// Room for prepared statements on each connection.
const STATEMENTS: usize = 500;

/// An acknowledged event must survive power loss, so every commit waits for the disk, whatever the server, the role or
/// the address says. Where they ask for more, a standby that has applied it, that holds.
fn postgres_options() -> PgPoolOptions {
    PgPoolOptions::new().max_connections(POSTGRES_CONNECTIONS).after_connect(|connection, _| {
        Box::pin(async move {
            let sql = "select set_config('synchronous_commit', 'on', false)
                where current_setting('synchronous_commit') not in ('on', 'remote_apply')";
            sqlx::query(sql).execute(&mut *connection).await?;
            // A process that stands still keeps its connections, and with them every lock of a transaction under way:
            // whoever took over would wait for it. So the transaction ends before the lease does.
            let sql = "select set_config('idle_in_transaction_session_timeout', '10s', false)";
            sqlx::query(sql).execute(connection).await.map(drop)
        })
    })
}

/// An acknowledged event must survive power loss, so every commit waits for the disk (FULL), always.
fn sqlite_options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-65536")
        // More than there are statements: each is prepared once.
        .statement_cache_capacity(STATEMENTS)
}

/// Connections within this process do not break, so none is tried out before it is used.
fn pool_of(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false)
}

async fn open_file(path: &Path) -> sqlx::Result<Db> {
    let options = sqlite_options().filename(path).create_if_missing(true);
    let write = pool_of(1).connect_with(options.clone()).await?;
    let read = pool_of(SQLITE_READERS)
        .connect_with(options.pragma("query_only", "true").pragma("cache_size", "-16384"))
        .await?;
    Ok(Db::Lite { read, write })
}

/// One connection does it all, and is kept: with it the data would go.
async fn open_memory() -> sqlx::Result<Db> {
    let options = SqliteConnectOptions::from_str("sqlite::memory:")?;
    let options = options.foreign_keys(true).statement_cache_capacity(STATEMENTS);
    let pool =
        pool_of(1).min_connections(1).idle_timeout(None).max_lifetime(None).connect_with(options).await?;
    Ok(Db::Lite { read: pool.clone(), write: pool })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_commit_waits_for_the_disk_whatever_the_address_says() {
        let Ok(url) = std::env::var("TEST_POSTGRES_URL") else {
            return eprintln!("skipped: TEST_POSTGRES_URL is not set");
        };
        for (asked, held) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
            let join = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{join}options[synchronous_commit]={asked}");
            let db = Db::open(&Location::Postgres(url)).await.unwrap();
            assert_eq!(db.postgres_setting("synchronous_commit").await.unwrap(), held);
        }
    }
}
