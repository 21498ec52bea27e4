//! Pages: a slice of a list, newest first, between ids that grow with time.

/// Which slice of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// Rows on the page.
    pub limit: i64,
    /// Older than this id; empty for no bound.
    pub after: String,
    /// Newer than this id, the nearest ones; empty for no bound.
    pub before: String,
}

impl Page {
    /// The id that the statement compares with.
    pub(super) fn cursor(&self) -> &str {
        if self.before.is_empty() { &self.after } else { &self.before }
    }

    /// One row more than asked for tells whether there is another page.
    pub(super) fn fetched(&self) -> i64 {
        self.limit + 1
    }

    /// Brings fetched rows into the list's order; says whether there are more.
    pub(super) fn cut<T>(&self, mut rows: Vec<T>) -> (Vec<T>, bool) {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        if !self.before.is_empty() {
            rows.reverse();
        }
        (rows, has_more)
    }
}

/// Completes `select … where …` to one page: `$1` is the cursor, `$2` the number of rows.
macro_rules! paged {
    ($page:expr, $sql:expr) => {
        match $page.before.is_empty() {
            true => {
                $crate::store::both(concat!($sql, " and ($1 = '' or id < $1) order by id desc limit $2 + 0"))
            }
            false => $crate::store::both(concat!($sql, " and id > $1 order by id limit $2 + 0")),
        }
    };
}
pub(super) use paged;
