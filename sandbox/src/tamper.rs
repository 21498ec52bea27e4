//! Tamper: answers that say what a client has never heard of.

use serde_json::{Value, json};

/// What stands where a known value should be, and beside the known fields.
const SURPRISE: &str = "surprise";

/// The answer with another value wherever `field` holds a text.
pub(super) fn with_unknown_value(body: &str, field: &str) -> String {
    changed(body, &|object| {
        if let Some(value) = object.get_mut(field).filter(|value| value.is_string()) {
            *value = json!(SURPRISE);
        }
    })
}

/// The answer with one field more in each of Stripe's objects.
pub(super) fn with_unknown_field(body: &str) -> String {
    changed(body, &|object| {
        if object.contains_key("object") {
            object.insert(SURPRISE.to_owned(), json!({ "since": "later", "list": [1, null] }));
        }
    })
}

type Fields = serde_json::Map<String, Value>;

fn changed(body: &str, change: &dyn Fn(&mut Fields)) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    each_object(&mut answer, change);
    answer.to_string()
}

fn each_object(value: &mut Value, change: &dyn Fn(&mut Fields)) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(|inner| each_object(inner, change));
            change(fields);
        }
        Value::Array(values) => values.iter_mut().for_each(|inner| each_object(inner, change)),
        _ => {}
    }
}
