//! Pages: lists with limits and cursors, and the filters that lists share.

use serde_json::{Value, json};

use super::errors::{Answer, ApiError};
use super::params::Params;

/// One page of `ids` (in list order), rendered by `render`.
pub(super) fn page(
    ids: &[&str],
    params: &Params,
    url: &str,
    what: &str,
    render: impl Fn(&str) -> Value,
) -> Answer {
    let limit = usize::try_from(params.integer("limit").unwrap_or(10).clamp(1, 100)).unwrap_or(10);
    let (shown, has_more) = match (params.text("starting_after"), params.text("ending_before")) {
        (Some(_), Some(_)) => return Err(ApiError::exclusive("starting_after", "ending_before")),
        (Some(cursor), None) => after(ids, cursor, limit, what)?,
        (None, Some(cursor)) => before(ids, cursor, limit, what)?,
        (None, None) => (&ids[..limit.min(ids.len())], ids.len() > limit),
    };
    let mut list = json!({ "object": "list", "url": url, "has_more": has_more });
    list["data"] = shown.iter().map(|id| render(id)).collect();
    Ok(list)
}

fn after<'a, 'b>(
    ids: &'a [&'b str],
    cursor: &str,
    limit: usize,
    what: &str,
) -> Result<(&'a [&'b str], bool), ApiError> {
    let start = 1 + position(ids, cursor, "starting_after", what)?;
    let end = (start + limit).min(ids.len());
    Ok((&ids[start..end], end < ids.len()))
}

fn before<'a, 'b>(
    ids: &'a [&'b str],
    cursor: &str,
    limit: usize,
    what: &str,
) -> Result<(&'a [&'b str], bool), ApiError> {
    let end = position(ids, cursor, "ending_before", what)?;
    let start = end.saturating_sub(limit);
    Ok((&ids[start..end], start > 0))
}

fn position(ids: &[&str], cursor: &str, param: &str, what: &str) -> Result<usize, ApiError> {
    ids.iter().position(|id| *id == cursor).ok_or_else(|| ApiError::no_such(what, cursor, param))
}

/// Whether `seconds` passes the filter `name`, which is a time or comparisons.
pub(super) fn in_range(params: &Params, name: &str, seconds: Option<i64>) -> bool {
    let Some(filter) = params.value(name) else { return true };
    let Some(seconds) = seconds else { return false };
    if let Some(exactly) = filter.as_i64() {
        return seconds == exactly;
    }
    let bound = |key: &str| filter.get(key).and_then(Value::as_i64);
    bound("gt").is_none_or(|bound| seconds > bound)
        && bound("gte").is_none_or(|bound| seconds >= bound)
        && bound("lt").is_none_or(|bound| seconds < bound)
        && bound("lte").is_none_or(|bound| seconds <= bound)
}

/// Whether the filter `name`, if it is there, is `actual`.
pub(super) fn is(params: &Params, name: &str, actual: Option<&str>) -> bool {
    params.text(name).is_none_or(|wanted| actual == Some(wanted))
}
