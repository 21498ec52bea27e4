//! Docs: the API's document as a page for people, made on the server, without scripts and with nothing from elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::html::escape;

/// The page's content for a document.
pub(crate) fn content(document: &Value) -> String {
    let mut out = String::new();
    introduce(&mut out, document);
    let groups = by_tag(document);
    contents(&mut out, &groups);
    for (tag, operations) in &groups {
        let _ = writeln!(out, "<h2 id=\"{0}\">{0}</h2>", escape(tag));
        for operation in operations {
            show_operation(&mut out, operation);
        }
    }
    show_schemas(&mut out, document);
    out
}

struct Operation<'a> {
    method: String,
    path: &'a str,
    value: &'a Value,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("")
}

fn introduce(out: &mut String, document: &Value) {
    let info = &document["info"];
    let _ = writeln!(out, "<h1>{} API {}</h1>", escape(text(info, "title")), escape(text(info, "version")));
    out.push_str(&paragraphs(text(info, "description")));
    out.push_str("<pre>curl -H \"Authorization: Bearer $OPENTAB_API_KEY\" ");
    let server = document["servers"][0]["url"].as_str().unwrap_or("");
    let _ = writeln!(out, "{}/v1/customers</pre>", escape(server));
    out.push_str(
        "<p><a href=\"/openapi.json\">OpenAPI document</a> · <a href=\"/problems\">Problems</a></p>\n",
    );
}

/// Blank lines part paragraphs, backquotes hold code: as much of Markdown as doc comments use.
fn paragraphs(markdown: &str) -> String {
    markdown
        .split("\n\n")
        .filter(|part| !part.trim().is_empty())
        .map(|part| format!("<p>{}</p>\n", inline(part)))
        .collect()
}

fn inline(markdown: &str) -> String {
    let parts = markdown.split('`').enumerate();
    parts
        .map(|(index, part)| match index % 2 {
            0 => escape(part),
            _ => format!("<code>{}</code>", escape(part)),
        })
        .collect()
}

fn by_tag(document: &Value) -> BTreeMap<&str, Vec<Operation<'_>>> {
    let mut groups: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, value) in item.as_object().into_iter().flatten() {
            let tag = value["tags"][0].as_str().unwrap_or("Other");
            groups.entry(tag).or_default().push(Operation { method: method.to_uppercase(), path, value });
        }
    }
    groups
}

fn contents(out: &mut String, groups: &BTreeMap<&str, Vec<Operation<'_>>>) {
    let links = groups.keys().map(|tag| format!("<a href=\"#{0}\">{0}</a>", escape(tag)));
    let _ =
        writeln!(out, "<p>{} · <a href=\"#objects\">Objects</a></p>", links.collect::<Vec<_>>().join(" · "));
}

fn show_operation(out: &mut String, operation: &Operation<'_>) {
    let Operation { method, path, value } = operation;
    let _ = writeln!(
        out,
        "<details><summary><span class=\"method\">{}</span> <code>{}</code> {}</summary>",
        escape(method),
        escape(path),
        escape(text(value, "summary")),
    );
    out.push_str(&paragraphs(text(value, "description")));
    let _ = writeln!(out, "<p class=\"hint\">{}</p>", escape(&access(value)));
    show_parameters(out, value);
    if let Some(schema) = value["requestBody"]["content"]["application/json"].get("schema") {
        let _ = writeln!(out, "<p>Body: {}</p>", type_name(schema));
    }
    for (status, response) in value["responses"].as_object().into_iter().flatten() {
        let schema = response["content"].as_object().and_then(|types| types.values().next());
        let shown = schema.map_or(String::new(), |content| type_name(&content["schema"]));
        let _ = writeln!(out, "<p>Answer {}: {}</p>", escape(status), shown);
    }
    out.push_str("</details>\n");
}

fn access(operation: &Value) -> String {
    match operation["security"][0]["api_key"][0].as_str() {
        Some(scope) => format!("Needs an API key with the scope {scope}."),
        None => "Needs no API key.".to_owned(),
    }
}

fn show_parameters(out: &mut String, operation: &Value) {
    let Some(parameters) = operation["parameters"].as_array().filter(|all| !all.is_empty()) else { return };
    out.push_str("<table>\n");
    for parameter in parameters {
        row(out, text(parameter, "name"), &type_name(&parameter["schema"]), text(parameter, "description"));
    }
    out.push_str("</table>\n");
}

fn row(out: &mut String, name: &str, shown_type: &str, description: &str) {
    let name = escape(name);
    let description = inline(description);
    let _ = writeln!(out, "<tr><td><code>{name}</code></td><td>{shown_type}</td><td>{description}</td></tr>");
}

fn show_schemas(out: &mut String, document: &Value) {
    out.push_str("<h2 id=\"objects\">Objects</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "<details id=\"{0}\"><summary><code>{0}</code></summary>", escape(name));
        out.push_str(&paragraphs(text(schema, "description")));
        out.push_str("<table>\n");
        show_fields(out, schema);
        out.push_str("</table>\n</details>\n");
    }
}

fn show_fields(out: &mut String, schema: &Value) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if part.get("$ref").is_some() {
            row(out, "…", &type_name(part), "all of its fields");
        }
        show_fields(out, part);
    }
    let required = schema["required"].as_array();
    let is_required = |name: &String| required.is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let kind = if is_required(name) {
            type_name(field)
        } else {
            format!("{} <span class=\"hint\">optional</span>", type_name(field))
        };
        row(out, name, &kind, text(field, "description"));
    }
}

/// A type in a few words, as HTML; named types are links.
fn type_name(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(parts) = schema[key].as_array() {
            return parts
                .iter()
                .map(type_name)
                .filter(|name| name != "null")
                .collect::<Vec<_>>()
                .join(" or ");
        }
    }
    match &schema["type"] {
        Value::Array(types) => {
            let names = types.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(|name| one_type(name, schema)).collect::<Vec<_>>().join(" or ")
        }
        Value::String(name) => one_type(name, schema),
        _ => "any".to_owned(),
    }
}

fn one_type(name: &str, schema: &Value) -> String {
    match (name, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", type_name(&schema["items"])),
        (_, Some("date-time")) => "time".to_owned(),
        (_, Some("date")) => "day".to_owned(),
        ("integer", _) => "whole number".to_owned(),
        ("string", _) => "text".to_owned(),
        (other, _) => escape(other),
    }
}
