//! Stripe's own specification as a judge: every request and every answer is held against its OpenAPI document.
//!
//! Set `STRIPE_OPENAPI_SPEC` to the path of Stripe's `spec3.json`; without it nothing is judged, and that is said aloud.

#![allow(dead_code, reason = "each test binary that includes this uses its own part of it")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::Validator;
use opentab_sandbox::Exchange;
use serde_json::{Map, Value, json};

/// Judges exchanges. Clones share what has been compiled.
#[derive(Clone)]
pub(crate) struct SpecChecker {
    shared: Arc<Shared>,
}

struct Shared {
    spec: Value,
    /// By operation, status and whether something was expanded.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl SpecChecker {
    /// The judge, if `STRIPE_OPENAPI_SPEC` names the document; read once for all tests of a process.
    pub(crate) fn from_env() -> Option<Self> {
        static CHECKER: OnceLock<Option<SpecChecker>> = OnceLock::new();
        CHECKER.get_or_init(Self::load).clone()
    }

    fn load() -> Option<Self> {
        let Ok(path) = std::env::var("STRIPE_OPENAPI_SPEC") else {
            eprintln!(
                "SKIPPED: STRIPE_OPENAPI_SPEC is not set, so no exchange is held against Stripe's specification"
            );
            return None;
        };
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let spec = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Some(Self { shared: Arc::new(Shared { spec, validators: Mutex::default() }) })
    }

    /// What the specification forbids in the request or in the answer; empty if nothing.
    pub(crate) fn check(&self, exchange: &Exchange) -> Vec<String> {
        let mut violations = self.check_request(exchange);
        violations.extend(self.check_response(exchange));
        violations
    }

    /// What the specification forbids in the request.
    pub(crate) fn check_request(&self, exchange: &Exchange) -> Vec<String> {
        let Some(operation) = self.operation(exchange) else {
            return vec![format!("{} {}: no such operation", exchange.method, exchange.path)];
        };
        let mut found = Vec::new();
        let query = decode(&exchange.query);
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        check_fields(&query, &query_schema(&parameters), "query ", &mut found);
        let form = &operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"];
        match (exchange.request_body.is_empty(), form.is_object()) {
            (false, false) => found.push("a body where there is none".to_owned()),
            (_, true) => check_fields(&decode(&exchange.request_body), form, "", &mut found),
            (true, false) => {}
        }
        found.iter().map(|violation| format!("{}: request: {violation}", exchange.operation)).collect()
    }

    /// What the specification forbids in the answer.
    pub(crate) fn check_response(&self, exchange: &Exchange) -> Vec<String> {
        let Some(schema) = self.response_schema(exchange) else {
            return vec![format!("{}: no answer {} is specified", exchange.operation, exchange.status)];
        };
        let expanded =
            decode(&exchange.query).child("expand") || decode(&exchange.request_body).child("expand");
        let subject = if exchange.status == 200 { exchange.operation.as_str() } else { "error" };
        let key = format!("{subject} {expanded}");
        let validator = self.validator(key, &schema, expanded);
        let about = format!("{} {}: answer", exchange.operation, exchange.status);
        let errors = validator.iter_errors(&exchange.response);
        errors
            .map(|error| format!("{about}{}: {}", error.instance_path(), short(&error.to_string())))
            .collect()
    }

    /// The names of the form's and the query's parameters of an operation, with the fields of lists of objects.
    pub(crate) fn parameters(&self, method: &str, template: &str) -> Vec<String> {
        let operation = &self.shared.spec["paths"][template][method.to_ascii_lowercase()];
        let form = &operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"];
        let mut names = Vec::new();
        for (name, schema) in form["properties"].as_object().into_iter().flatten() {
            let fields = schema["items"]["properties"].as_object();
            names.extend(fields.into_iter().flatten().map(|(field, _)| format!("{name}[0][{field}]")));
            names.push(name.clone());
        }
        let query = operation["parameters"].as_array().into_iter().flatten();
        let query = query.filter(|parameter| parameter["in"] == "query");
        names.extend(query.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)));
        names
    }

    fn operation(&self, exchange: &Exchange) -> Option<&Value> {
        let (method, template) = exchange.operation.split_once(' ')?;
        self.shared.spec["paths"].get(template)?.get(method.to_ascii_lowercase())
    }

    fn response_schema(&self, exchange: &Exchange) -> Option<Value> {
        if exchange.status != 200 {
            return Some(json!({ "$ref": "#/components/schemas/error" }));
        }
        let schema = &self.operation(exchange)?["responses"]["200"]["content"]["application/json"]["schema"];
        schema.is_object().then(|| schema.clone())
    }

    fn validator(&self, key: String, schema: &Value, expanded: bool) -> Arc<Validator> {
        if let Some(validator) = self.shared.validators.lock().unwrap().get(&key) {
            return validator.clone();
        }
        let mut named = BTreeSet::new();
        let mut root = convert(schema, expanded, &mut named);
        let mut definitions = Map::new();
        while let Some(name) = named.pop_first() {
            if !definitions.contains_key(&name) {
                let schema = &self.shared.spec["components"]["schemas"][&name];
                definitions.insert(name, convert(schema, expanded, &mut named));
            }
        }
        root["$defs"] = Value::Object(definitions);
        let compiled = jsonschema::options().build(&root);
        let validator = Arc::new(compiled.unwrap_or_else(|error| panic!("{key}: {error}")));
        self.shared.validators.lock().unwrap().insert(key, validator.clone());
        validator
    }
}

fn short(message: &str) -> String {
    message.chars().take(400).collect()
}

/// OpenAPI 3.0 as JSON Schema: `nullable` is a type, objects are closed, ids are not expanded unless asked for.
fn convert(schema: &Value, expanded: bool, named: &mut BTreeSet<String>) -> Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        named.insert(name.to_owned());
        return json!({ "$ref": format!("#/$defs/{name}") });
    }
    let mut converted = Map::new();
    for key in ["type", "enum", "required", "maxLength", "pattern"] {
        if let Some(value) = schema.get(key) {
            converted.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        let properties =
            properties.iter().map(|(name, inner)| (name.clone(), convert(inner, expanded, named)));
        let mut properties: Map<String, Value> = properties.collect();
        if properties.contains_key("has_more") {
            // Lists inside objects say how long they are, in life and not in the document.
            properties.insert("total_count".to_owned(), json!({ "type": "integer" }));
        }
        converted.insert("properties".to_owned(), Value::Object(properties));
        converted.insert("additionalProperties".to_owned(), json!(false));
    }
    match &schema["additionalProperties"] {
        inner @ Value::Object(_) => {
            converted.insert("additionalProperties".to_owned(), convert(inner, expanded, named));
        }
        allowed @ Value::Bool(_) => {
            converted.insert("additionalProperties".to_owned(), allowed.clone());
        }
        _ => {}
    }
    if schema["items"].is_object() {
        converted.insert("items".to_owned(), convert(&schema["items"], expanded, named));
    }
    if let Some(branches) = schema["anyOf"].as_array() {
        let expandable = schema.get("x-expansionResources").is_some() && !expanded;
        let branches = branches.iter().filter(|branch| !expandable || branch.get("$ref").is_none());
        let branches: Vec<Value> = branches.map(|branch| convert(branch, expanded, named)).collect();
        converted.insert("anyOf".to_owned(), Value::Array(branches));
    }
    let converted = Value::Object(converted);
    if schema["nullable"] == true { json!({ "anyOf": [converted, { "type": "null" }] }) } else { converted }
}

/// A decoded form: a value or named children.
#[derive(Debug, Clone)]
enum Form {
    Value(String),
    Fields(Vec<(String, Form)>),
}

impl Form {
    fn child(&self, name: &str) -> bool {
        matches!(self, Form::Fields(fields) if fields.iter().any(|(known, _)| known == name))
    }
}

fn decode(raw: &str) -> Form {
    let mut root = Form::Fields(Vec::new());
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decode(key);
        let path: Vec<&str> = key.split('[').map(|part| part.trim_end_matches(']')).collect();
        put(&mut root, &path, percent_decode(value));
    }
    root
}

fn percent_decode(raw: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), raw.as_bytes());
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        bytes.push(match (byte, tail.get(..2).and_then(hex)) {
            (b'%', Some(escaped)) => {
                rest = &tail[2..];
                escaped
            }
            (b'+', _) => b' ',
            (byte, _) => *byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn put(form: &mut Form, path: &[&str], value: String) {
    let [name, rest @ ..] = path else {
        *form = Form::Value(value);
        return;
    };
    if let Form::Value(_) = form {
        *form = Form::Fields(Vec::new());
    }
    let Form::Fields(fields) = form else { return };
    let known = fields.iter().position(|(known, _)| !name.is_empty() && known == name);
    let at = known.unwrap_or_else(|| {
        fields.push(((*name).to_owned(), Form::Fields(Vec::new())));
        fields.len() - 1
    });
    put(&mut fields[at].1, rest, value);
}

fn query_schema(parameters: &[Value]) -> Value {
    let in_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
    let properties: Map<String, Value> = in_query
        .clone()
        .map(|parameter| (parameter["name"].as_str().unwrap_or("").to_owned(), parameter["schema"].clone()))
        .collect();
    let required: Vec<&Value> = in_query
        .filter(|parameter| parameter["required"] == true)
        .map(|parameter| &parameter["name"])
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// Checks an object's fields: unknown ones, missing ones, and the values of the others.
fn check_fields(form: &Form, schema: &Value, at: &str, found: &mut Vec<String>) {
    let Form::Fields(fields) = form else {
        found.push(format!("{at}: not an object"));
        return;
    };
    let open = &schema["additionalProperties"];
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(inner) => check_value(field, inner, &format!("{at}{name}"), found),
            None if open.is_object() => check_value(field, open, &format!("{at}{name}"), found),
            None => found.push(format!("unknown parameter {at}{name}")),
        }
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if !form.child(required.as_str().unwrap_or("")) {
            found.push(format!("missing parameter {at}{}", required.as_str().unwrap_or("")));
        }
    }
}

fn check_value(form: &Form, schema: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(branches) = schema["anyOf"].as_array() {
        let tried = branches.iter().map(|branch| {
            let mut found = Vec::new();
            check_value(form, branch, at, &mut found);
            found
        });
        // The branch that fits best says what is wrong.
        found.extend(tried.min_by_key(Vec::len).unwrap_or_default());
        return;
    }
    match (schema["type"].as_str(), form) {
        (Some("object"), Form::Fields(_)) => check_fields(form, schema, &format!("{at}."), found),
        (Some("array"), Form::Fields(items)) => {
            items.iter().for_each(|(index, item)| {
                check_value(item, &schema["items"], &format!("{at}[{index}]"), found);
            });
        }
        (Some("object" | "array"), Form::Value(value)) => {
            found.push(format!("{at}: {value:?} is no object or array"))
        }
        (_, Form::Fields(_)) => found.push(format!("{at}: an object where a value belongs")),
        (kind, Form::Value(value)) => check_scalar(value, kind, schema, at, found),
    }
}

fn check_scalar(value: &str, kind: Option<&str>, schema: &Value, at: &str, found: &mut Vec<String>) {
    let fits = match kind {
        Some("integer") => value.parse::<i64>().is_ok(),
        Some("number") => value.parse::<f64>().is_ok(),
        Some("boolean") => value == "true" || value == "false",
        _ => true,
    };
    if !fits {
        found.push(format!("{at}: {value:?} is no {}", kind.unwrap_or("value")));
    }
    // The document is one API version older than what is spoken, and cannot know the newest.
    if let Some(allowed) = schema["enum"].as_array().filter(|_| !at.ends_with("api_version"))
        && !allowed.iter().any(|allowed| allowed == value)
    {
        found.push(format!("{at}: {value:?} is none of the allowed values"));
    }
    if let Some(longest) = schema["maxLength"].as_u64()
        && value.chars().count() as u64 > longest
    {
        found.push(format!("{at}: longer than {longest}"));
    }
}
