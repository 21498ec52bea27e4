//! Answers: what a repeated Idempotency-Key gets again.

use super::{Store, both};

/// What is kept about one Idempotency-Key of one API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which request the key belongs to.
    pub(crate) request_hash: String,
    /// None while the first request is still running.
    pub status: Option<i64>,
    /// The answer; while the request is running, when that run began: `0` where it ended without an answer.
    pub body: String,
    /// When the key was first seen, in unix milliseconds.
    pub created_at: i64,
}

/// Names an answer: the API key's id and the client's Idempotency-Key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerKey {
    pub(crate) api_key_id: String,
    pub idempotency_key: String,
}

impl Store {
    /// Claims a key for a request that begins now. False: the key is known.
    pub(crate) async fn begin_answer(
        &self,
        key: &AnswerKey,
        request_hash: &str,
        now_ms: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "insert into api_answer (api_key_id, idempotency_key, request_hash, body, created_at)
            values ($1, $2, $3, $4, $5)
            on conflict do nothing",
        );
        let args =
            (key.api_key_id.as_str(), key.idempotency_key.as_str(), request_hash, now_ms.to_string(), now_ms);
        Ok(self.db.run(sql, args).await? == 1)
    }

    /// What is known about a key.
    pub async fn answer(&self, key: &AnswerKey) -> sqlx::Result<Option<Answer>> {
        let sql = both(
            "select request_hash, status, coalesce(body, ''), created_at from api_answer
            where api_key_id = $1 and idempotency_key = $2",
        );
        let row = self.db.opt(sql, (key.api_key_id.as_str(), key.idempotency_key.as_str())).await?;
        Ok(row.map(|(request_hash, status, body, created_at)| Answer {
            request_hash,
            status,
            body,
            created_at,
        }))
    }

    /// Takes a run over from one that ended without an answer. False: somebody else was faster.
    pub(crate) async fn take_over_answer(
        &self,
        key: &AnswerKey,
        began: &str,
        now_ms: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update api_answer set body = $4
            where api_key_id = $1 and idempotency_key = $2 and status is null and body = $3",
        );
        let args = (key.api_key_id.as_str(), key.idempotency_key.as_str(), began, now_ms.to_string());
        Ok(self.db.run(sql, args).await? == 1)
    }

    /// Keeps the answer.
    pub(crate) async fn keep_answer(&self, key: &AnswerKey, status: i64, body: &str) -> sqlx::Result<u64> {
        let sql = both(
            "update api_answer set status = $3, body = $4
            where api_key_id = $1 and idempotency_key = $2",
        );
        self.db.run(sql, (key.api_key_id.as_str(), key.idempotency_key.as_str(), status, body)).await
    }

    /// Ends a run without an answer: the next request with this key takes over at once. When the key was first seen
    /// stays, and with it the ids that follow from it.
    pub(crate) async fn release_answer(&self, key: &AnswerKey) -> sqlx::Result<u64> {
        let sql = both(
            "update api_answer set body = '0'
            where api_key_id = $1 and idempotency_key = $2 and status is null",
        );
        self.db.run(sql, (key.api_key_id.as_str(), key.idempotency_key.as_str())).await
    }

    /// Forgets every answer from before this time, in unix milliseconds.
    pub(crate) async fn prune_answers(&self, before_ms: i64) -> sqlx::Result<u64> {
        self.db.run(both("delete from api_answer where created_at < $1"), (before_ms,)).await
    }
}
