//! Leases: one writer per subject, with a token that grows with every term.

use super::{Store, Tx, both};

/// A term of writing, over when its time is up or somebody else's term has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub subject: String,
    /// Greater than that of every earlier term: a writer that slept is recognised by its old one.
    pub token: i64,
}

impl Store {
    /// Begins a term, where nobody's is running. Times in unix milliseconds.
    pub async fn acquire_lease(
        &self,
        subject: &str,
        owner: &str,
        now: i64,
        until: i64,
    ) -> sqlx::Result<Option<Lease>> {
        let sql = both(
            "insert into lease (subject, token, owner, until_at) values ($1, 1, $2, $3)
             on conflict (subject) do update set token = lease.token + $5, owner = $2, until_at = $3
             where lease.until_at <= $4
             returning token",
        );
        let step = 1_i64;
        mutant!(TermsHaveOneToken, let step = 0_i64);
        mutant!(LeaseNeverEnds, let now = 0);
        let mut tx = self.db.begin().await?;
        let term: Option<(i64,)> = tx.opt(sql, (subject, owner, until, now, step)).await?;
        tx.commit().await?;
        Ok(term.map(|(token,)| Lease { subject: subject.to_owned(), token }))
    }

    /// Makes a term longer; false where it is over.
    pub async fn renew_lease(&self, lease: &Lease, until: i64) -> sqlx::Result<bool> {
        let sql = both("update lease set until_at = $1 where subject = $2 and token = $3 and until_at > 0");
        Ok(self.db.run(sql, (until, &lease.subject, lease.token)).await? == 1)
    }

    /// Ends a term early, so that nobody waits for its time to be up.
    pub(crate) async fn release_lease(&self, lease: &Lease) -> sqlx::Result<()> {
        let sql = both("update lease set until_at = 0 where subject = $1 and token = $2");
        self.db.run(sql, (&lease.subject, lease.token)).await.map(|_| ())
    }
}

impl Tx {
    /// Whether the term is still running. Holds its row until the transaction ends, so that nobody begins another
    /// term between this check and the commit.
    pub async fn holds(&mut self, lease: &Lease) -> sqlx::Result<bool> {
        let sql =
            both("update lease set until_at = until_at where subject = $1 and token = $2 and until_at > 0");
        let held = self.run(sql, (&lease.subject, lease.token)).await? == 1;
        mutant!(LeaseNeverChecked, let held = true);
        Ok(held)
    }
}
