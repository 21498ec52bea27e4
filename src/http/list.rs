//! Lists: Stripe's list shape, newest first, with object ids as cursors.

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::check;
use super::extract::{FromQuery, Pairs};
use super::kind;
use super::problem::Problem;
use crate::store::Page;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// Where this list is.
    pub url: &'static str,
    /// Whether there is another page in this direction.
    pub has_more: bool,
    /// Newest first.
    pub data: Vec<T>,
}

impl<T> List<T> {
    /// A page as the store answers it: what is on it, and whether there is more.
    pub(crate) fn new(url: &'static str, (data, has_more): (Vec<T>, bool)) -> List<T> {
        List { object: "list", url, has_more, data }
    }
}

/// Which page of a list.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// How many objects, 1 to 100.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100, default = 10)]
    pub limit: i64,
    /// The id of the last object of the page before: the answer begins after it.
    pub starting_after: Option<String>,
    /// The id of the first object of the page after: the answer ends before it.
    pub ending_before: Option<String>,
}

impl FromQuery for Paging {
    fn from_query(pairs: &mut Pairs) -> Result<Paging, Problem> {
        Ok(Paging {
            limit: pairs.number("limit", 1..=100)?.unwrap_or(10),
            starting_after: pairs.one("starting_after")?,
            ending_before: pairs.one("ending_before")?,
        })
    }
}

impl Paging {
    /// The page in the store's terms, for a list of objects whose ids have this prefix; empty where they have several.
    pub(crate) fn page(self, prefix: &str) -> Result<Page, Problem> {
        if self.starting_after.is_some() && self.ending_before.is_some() {
            let detail = "Send starting_after or ending_before, not both.";
            return Err(Problem::new(&kind::INVALID_CURSOR, detail));
        }
        let cursor = |id: Option<String>| match id {
            None => Ok(String::new()),
            Some(id) if id.starts_with(prefix) && check::is_id(&id) => Ok(id),
            Some(_) if prefix.is_empty() => {
                Err(Problem::new(&kind::INVALID_CURSOR, "The cursor is not an id of this list."))
            }
            Some(_) => Err(Problem::new(
                &kind::INVALID_CURSOR,
                format!("The cursor is not an id of this list; they begin with {prefix}."),
            )),
        };
        Ok(Page {
            limit: self.limit,
            after: cursor(self.starting_after)?,
            before: cursor(self.ending_before)?,
        })
    }
}
