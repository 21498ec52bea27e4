//! Settings that the service keeps for itself, such as how far it has read Stripe's events.

use super::{Store, both};

impl Store {
    /// What was kept under this name.
    pub async fn setting(&self, name: &str) -> sqlx::Result<Option<String>> {
        let row: Option<(String,)> =
            self.db.opt(both("select value from setting where name = $1"), (name,)).await?;
        Ok(row.map(|(value,)| value))
    }

    /// Keeps a value, in place of an earlier one.
    pub(crate) async fn put_setting(&self, name: &str, value: &str) -> sqlx::Result<()> {
        let sql = both(
            "insert into setting (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value",
        );
        self.db.run(sql, (name, value)).await.map(|_| ())
    }

    /// Keeps a value unless there is one, and answers the one that is kept: replicas that start together agree.
    pub async fn setting_or(&self, name: &str, first: &str) -> sqlx::Result<String> {
        let sql = both("insert into setting (name, value) values ($1, $2) on conflict do nothing");
        self.db.run(sql, (name, first)).await?;
        Ok(self.setting(name).await?.unwrap_or_else(|| first.to_owned()))
    }
}
