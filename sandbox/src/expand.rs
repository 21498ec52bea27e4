//! Expand: ids replaced by the objects that they name.

use serde_json::{Value, json};

use super::errors::{Answer, ApiError};
use super::state::State;

const MOST_LEVELS: usize = 4;

/// Whether the paths can be expanded at all.
pub(super) fn check(paths: &[String]) -> Result<(), ApiError> {
    match paths.iter().find(|path| path.split('.').count() > MOST_LEVELS) {
        Some(path) => {
            let message = format!("You cannot expand more than {MOST_LEVELS} levels of a property ({path}).");
            Err(ApiError::invalid(message).param("expand"))
        }
        None => Ok(()),
    }
}

/// `answer` with every path of `paths` expanded.
pub(super) fn expand(state: &State, mut answer: Value, paths: &[String]) -> Answer {
    for path in paths {
        let steps: Vec<&str> = path.split('.').collect();
        expand_path(state, &mut answer, &steps, path)?;
    }
    Ok(answer)
}

fn expand_path(state: &State, at: &mut Value, steps: &[&str], path: &str) -> Result<(), ApiError> {
    let [step, rest @ ..] = steps else { return Ok(()) };
    if let Value::Array(items) = at {
        return items.iter_mut().try_for_each(|item| expand_path(state, item, steps, path));
    }
    if at.get(step).is_none() {
        at[*step] = left_out(state, at, step).ok_or_else(|| cannot(path))?;
    }
    let inner = &mut at[*step];
    if let Some(id) = inner.as_str() {
        *inner = state.object(id).ok_or_else(|| cannot(path))?;
    }
    match inner {
        Value::Null => Ok(()),
        Value::Object(_) | Value::Array(_) => expand_path(state, inner, rest, path),
        _ => Err(cannot(path)),
    }
}

fn cannot(path: &str) -> ApiError {
    ApiError::invalid(format!("This property cannot be expanded ({path}).")).param("expand")
}

/// Properties that are only there when they are expanded.
fn left_out(state: &State, object: &Value, property: &str) -> Option<Value> {
    let id = object.get("id")?.as_str()?;
    match (object.get("object")?.as_str()?, property) {
        ("invoice", "payments") => Some(state.payments_of(id)),
        ("customer", "sources" | "subscriptions" | "tax_ids") => Some(json!({
            "object": "list", "data": [], "has_more": false, "url": format!("/v1/customers/{id}/{property}")
        })),
        _ => None,
    }
}
