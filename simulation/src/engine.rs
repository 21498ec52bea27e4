//! Engine: the runtime and the database that one thread's worlds use one after another.

use sqlx::AssertSqlSafe;
use tokio::runtime::{Builder, Runtime};

use super::gates;
use opentab::internals::failpoint;
use opentab::internals::store::{Db, Location, Store};

/// What histories share on one thread. Starting it costs more than many a history.
pub struct Engine {
    /// The runtime of this thread.
    pub runtime: Runtime,
    /// The empty database.
    pub store: Store,
    tables: Vec<String>,
}

/// What every history must leave a record of, whoever caused it.
const WITNESSES: &str = "
create table sim_move (no integer primary key autoincrement, kind text, id text, before text, after text);
create trigger sim_invoice_begun after insert on invoice begin
    insert into sim_move (kind, id, before, after) values ('invoice', new.id, '', new.state); end;
create trigger sim_invoice after update of state on invoice when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('invoice', new.id, old.state, new.state); end;
create trigger sim_job after update of state on job when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('job', new.id, old.state, new.state); end;
create trigger sim_intent after update of state on intent when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('intent', new.id, old.state, new.state); end;
create trigger sim_event after update of state on stripe_event when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('event', new.id, old.state, new.state); end;
create trigger sim_charge after update of state on charge when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('charge', new.id, old.state, new.state); end;
create trigger sim_email after update of state on email when old.state <> new.state begin
    insert into sim_move (kind, id, before, after) values ('email', new.id, old.state, new.state); end;
create trigger sim_attempt after update on charge_attempt when old.outcome is not null begin
    insert into sim_move (kind, id, before, after) values ('ledger', old.id, old.outcome, 'changed'); end;
create trigger sim_lease after update of owner on lease when old.owner <> new.owner and new.token <= old.token begin
    insert into sim_move (kind, id, before, after) values ('term', new.subject, old.token, new.token); end;
create trigger sim_stale after insert on intent
    when new.lease_token <> 0 and new.lease_token <> (select token from lease where subject = new.customer_id) begin
    insert into sim_move (kind, id, before, after) values ('stale', new.id, new.lease_token, ''); end;
create trigger sim_usage_gone after delete on usage_event begin
    insert into sim_move (kind, id, before, after) values ('usage', old.event_id, 'stored', 'deleted'); end;
create trigger sim_usage_changed after update on usage_event begin
    insert into sim_move (kind, id, before, after) values ('usage', old.event_id, 'stored', 'changed'); end;
create trigger sim_ledger_gone after delete on invoice_line begin
    insert into sim_move (kind, id, before, after) values ('ledger', old.item_key, 'sealed', 'deleted'); end;
create trigger sim_audit_gone after delete on audit begin
    insert into sim_move (kind, id, before, after) values ('audit', old.id, 'written', 'deleted'); end;
";

impl Engine {
    /// A runtime on this thread, and an empty database in memory with the real schema.
    pub fn start() -> anyhow::Result<Engine> {
        failpoint::set_hook(|at| Box::pin(gates::storage(at.into())));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (store, tables) = runtime.block_on(async {
            let store = Store { db: Db::open(&Location::Memory).await? };
            store.db.migrate().await?;
            let Db::Lite { write, .. } = &store.db else { anyhow::bail!("not SQLite") };
            sqlx::raw_sql(WITNESSES).execute(write).await?;
            let sql =
                "select name from sqlite_master where type = 'table' and name not like '\\_sqlx%' escape '\\'
                order by rootpage desc";
            let tables: Vec<(String,)> = sqlx::query_as(sql).fetch_all(write).await?;
            anyhow::Ok((store, tables.into_iter().map(|(name,)| name).collect()))
        })?;
        Ok(Engine { runtime, store, tables })
    }

    /// Empties every table, numbering among them.
    pub fn reset(&self) -> anyhow::Result<()> {
        let deletes: String = self.tables.iter().map(|table| format!("delete from {table};")).collect();
        // The witnesses of a deletion go last.
        // Deferred, not switched off: that would have every statement prepared anew.
        let sql = format!(
            "begin; pragma defer_foreign_keys = on; {deletes} delete from sim_move; delete from sqlite_sequence; commit;"
        );
        self.runtime.block_on(async {
            let Db::Lite { write, .. } = &self.store.db else { return Ok(()) };
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(write).await?;
            Ok(())
        })
    }
}
