//! Parameters: what each operation takes, checked before anything is executed.

use serde_json::{Map, Value};

use super::errors::ApiError;
use super::form::Node;

/// What a parameter's value has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Free text of at most so many characters; an empty one unsets.
    Text(usize),
    /// Text that cannot be empty: ids, URLs.
    Id,
    Integer,
    Boolean,
    /// Unix seconds.
    Time,
    /// A decimal string with at most 12 places.
    Decimal,
    Currency,
    OneOf(&'static [&'static str]),
    List(&'static Kind),
    Object(&'static [Param]),
    /// Metadata: at most 50 keys of 40 characters with values of 500; `""` clears.
    Metadata,
    /// Also takes `""`, which clears.
    Clearable(&'static Kind),
    /// Either a time or an object of comparisons.
    Range,
    /// Stripe knows it, the sandbox does not play it: refused aloud rather than ignored.
    NotPlayed,
}

/// A parameter of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    name: &'static str,
    kind: Kind,
    required: bool,
}

pub(super) const fn optional(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: false }
}

pub(super) const fn required(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: true }
}

pub(super) const EXPAND: Param = optional("expand", Kind::List(&Kind::Id));
pub(super) const METADATA: Param = optional("metadata", Kind::Metadata);
const COMPARISONS: &[Param] = &[
    optional("gt", Kind::Time),
    optional("gte", Kind::Time),
    optional("lt", Kind::Time),
    optional("lte", Kind::Time),
];
/// What every list takes.
pub(super) const PAGE: [Param; 4] = [
    EXPAND,
    optional("limit", Kind::Integer),
    optional("starting_after", Kind::Id),
    optional("ending_before", Kind::Id),
];

/// `some` and `more` in one list of `N`, at compile time.
pub(super) const fn both<const N: usize>(some: &[Param], more: &[Param]) -> [Param; N] {
    assert!(N == some.len() + more.len());
    let (mut params, mut at) = ([EXPAND; N], 0);
    while at < N {
        params[at] = if at < some.len() { some[at] } else { more[at - some.len()] };
        at += 1;
    }
    params
}

/// Checked parameters, typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(pub Map<String, Value>);

impl Params {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Whether `""` was sent for it.
    pub(crate) fn cleared(&self, name: &str) -> bool {
        self.text(name) == Some("")
    }

    pub(crate) fn object(&self, name: &str) -> Option<Params> {
        Some(Params(self.0.get(name)?.as_object()?.clone()))
    }

    pub(crate) fn objects(&self, name: &str) -> Vec<Params> {
        let list = self.0.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        list.into_iter().filter_map(|item| Some(Params(item.as_object()?.clone()))).collect()
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.0.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A required parameter; the check has made sure that it is there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name).ok_or_else(|| ApiError::missing(name))
    }
}

/// Checks `given` against `known`: unknown names first, as Stripe does, then values, then what is missing.
pub(super) fn check(given: Vec<(String, Node)>, known: &[Param]) -> Result<Params, ApiError> {
    let unknown = unknown_names(&given, known, "");
    if !unknown.is_empty() {
        return Err(ApiError::unknown(&unknown));
    }
    object(given, known, "").map(Params)
}

fn unknown_names(given: &[(String, Node)], known: &[Param], prefix: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    for (name, node) in given {
        let path = join(prefix, name);
        match known.iter().find(|param| param.name == name) {
            None => unknown.push(path),
            Some(param) => unknown.extend(unknown_inside(param.kind, node, &path)),
        }
    }
    unknown
}

fn unknown_inside(kind: Kind, node: &Node, path: &str) -> Vec<String> {
    match (kind, node) {
        (Kind::Clearable(kind), node) => unknown_inside(*kind, node, path),
        (Kind::Object(known), Node::Branch(given)) => unknown_names(given, known, path),
        (Kind::Range, Node::Branch(given)) => unknown_names(given, COMPARISONS, path),
        (Kind::List(kind), Node::Branch(items)) => {
            items.iter().flat_map(|(name, item)| unknown_inside(*kind, item, &join(path, name))).collect()
        }
        _ => Vec::new(),
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}[{name}]") }
}

fn object(given: Vec<(String, Node)>, known: &[Param], prefix: &str) -> Result<Map<String, Value>, ApiError> {
    let mut checked = Map::new();
    for (name, node) in given {
        let path = join(prefix, &name);
        let param = known.iter().find(|param| param.name == name);
        let param = param.ok_or_else(|| ApiError::unknown(std::slice::from_ref(&path)))?;
        checked.insert(name, value(param.kind, node, &path)?);
    }
    let absent = known.iter().find(|param| param.required && !checked.contains_key(param.name));
    match absent {
        Some(param) => Err(ApiError::missing(&join(prefix, param.name))),
        None => Ok(checked),
    }
}

fn value(kind: Kind, node: Node, path: &str) -> Result<Value, ApiError> {
    match (kind, node) {
        (Kind::Clearable(_), Node::Leaf(text)) if text.is_empty() => Ok(Value::String(text)),
        (Kind::Clearable(kind), node) => value(*kind, node, path),
        (Kind::NotPlayed, node) => not_played(node, path),
        (Kind::Object(known), Node::Branch(given)) => object(given, known, path).map(Value::Object),
        (Kind::Range, Node::Branch(given)) => object(given, COMPARISONS, path).map(Value::Object),
        (Kind::Range, Node::Leaf(text)) => integer(&text, path),
        (Kind::List(kind), Node::Branch(items)) => list(*kind, items, path),
        (Kind::Metadata, Node::Branch(given)) => metadata(given, path),
        (Kind::Metadata, Node::Leaf(text)) if text.is_empty() => Ok(Value::String(text)),
        (Kind::Object(_) | Kind::Metadata, Node::Leaf(_)) => {
            Err(ApiError::invalid(format!("Invalid object: {path}")).param(path))
        }
        (Kind::List(_), Node::Leaf(_)) => {
            Err(ApiError::invalid(format!("Invalid array: {path}")).param(path))
        }
        (_, Node::Branch(_)) => Err(ApiError::invalid(format!("Invalid string: {path}")).param(path)),
        (kind, Node::Leaf(text)) => scalar(kind, text, path),
    }
}

fn scalar(kind: Kind, text: String, path: &str) -> Result<Value, ApiError> {
    match kind {
        Kind::Text(longest) if text.chars().count() > longest => Err(ApiError::invalid(format!(
            "Invalid string: {path} can have up to {longest} characters, but has {}",
            text.chars().count()
        ))
        .param(path)),
        Kind::Text(_) => Ok(Value::String(text)),
        _ if text.is_empty() => Err(empty(path)),
        Kind::Integer => integer(&text, path),
        Kind::Time => time(&text, path),
        Kind::Boolean => boolean(&text, path),
        Kind::Decimal => decimal(text, path),
        Kind::Currency => currency(&text, path),
        Kind::OneOf(allowed) => one_of(allowed, text, path),
        _ => Ok(Value::String(text)),
    }
}

fn empty(path: &str) -> ApiError {
    let message = format!(
        "You passed an empty string for '{path}'. It cannot be unset: leave it out, or give a value."
    );
    ApiError::invalid(message).code("parameter_invalid_empty").param(path)
}

fn integer(text: &str, path: &str) -> Result<Value, ApiError> {
    let error = || {
        ApiError::invalid(format!("Invalid integer: {text}")).code("parameter_invalid_integer").param(path)
    };
    text.parse::<i64>().map(Value::from).map_err(|_| error())
}

fn time(text: &str, path: &str) -> Result<Value, ApiError> {
    let parsed = text.parse::<i64>().ok().filter(|seconds| *seconds >= 0).map(Value::from);
    parsed
        .ok_or_else(|| ApiError::invalid("Invalid timestamp: must be an integer Unix timestamp").param(path))
}

fn boolean(text: &str, path: &str) -> Result<Value, ApiError> {
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        other => Err(ApiError::invalid(format!("Invalid boolean: {other}")).param(path)),
    }
}

fn decimal(text: String, path: &str) -> Result<Value, ApiError> {
    match super::decimal::Decimal::parse(&text) {
        Some(_) => Ok(Value::String(text)),
        None => Err(ApiError::invalid(format!(
            "Invalid decimal: {text}; must be a decimal with at most 12 places"
        ))
        .code("parameter_invalid_string_blank")
        .param(path)),
    }
}

fn currency(text: &str, path: &str) -> Result<Value, ApiError> {
    let code = text.to_ascii_lowercase();
    if super::currencies::is_known(&code) {
        Ok(Value::String(code))
    } else {
        Err(ApiError::invalid(format!("Invalid currency: {text}.")).param(path))
    }
}

fn one_of(allowed: &[&str], text: String, path: &str) -> Result<Value, ApiError> {
    if allowed.contains(&text.as_str()) {
        return Ok(Value::String(text));
    }
    Err(ApiError::invalid(format!("Invalid {path}: must be one of {}", or_list(allowed))).param(path))
}

fn or_list(allowed: &[&str]) -> String {
    match allowed {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [one, other] => format!("{one} or {other}"),
        [most @ .., last] => format!("{}, or {last}", most.join(", ")),
    }
}

fn list(kind: Kind, mut items: Vec<(String, Node)>, path: &str) -> Result<Value, ApiError> {
    // Indices order the list, whatever order they came in; `a[]` keeps its own.
    items.sort_by_key(|(name, _)| name.parse::<usize>().unwrap_or(0));
    if items.iter().any(|(name, _)| !name.is_empty() && name.parse::<usize>().is_err()) {
        return Err(ApiError::invalid(format!("Invalid array: {path}")).param(path));
    }
    items.into_iter().map(|(name, item)| value(kind, item, &join(path, &name))).collect()
}

fn metadata(given: Vec<(String, Node)>, path: &str) -> Result<Value, ApiError> {
    let mut checked = Map::new();
    for (key, node) in given {
        let param = join(path, &key);
        let Node::Leaf(text) = node else {
            return Err(ApiError::invalid(format!("Invalid string: {param}")).param(param));
        };
        if key.chars().count() > 40 {
            let message = format!("Metadata keys can have up to 40 characters: '{key}' is longer.");
            return Err(ApiError::invalid(message).param(path));
        }
        if text.chars().count() > 500 {
            let message =
                format!("Metadata values can have up to 500 characters: the one of '{key}' is longer.");
            return Err(ApiError::invalid(message).param(param));
        }
        checked.insert(key, Value::String(text));
    }
    Ok(Value::Object(checked))
}

/// Switching off what is never on is fine.
fn not_played(node: Node, path: &str) -> Result<Value, ApiError> {
    let harmless = match &node {
        Node::Leaf(text) => text == "false",
        Node::Branch(children) => {
            children.iter().all(|(name, child)| name == "enabled" && *child == Node::Leaf("false".into()))
        }
    };
    if harmless {
        return Ok(Value::String(String::new()));
    }
    Err(ApiError::invalid(format!("The sandbox does not play '{path}'.")).param(path))
}
