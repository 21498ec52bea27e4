//! Webhook endpoints: who hears about events, and the secrets that sign.

use serde_json::{Map, Value, json};

use super::errors::{Answer, ApiError};
use super::events;
use super::pages::page;
use super::params::{EXPAND, Kind, METADATA, PAGE, Param, Params, optional, required};
use super::router::{Asked, Operation, delete, get, post};
use super::state::{State, merge_metadata, text_or_null, token};

/// How long the old secret keeps signing beside the new one, in milliseconds.
const ROLL_OVERLAP_MS: i64 = 24 * 3600 * 1000;
const MOST_ENDPOINTS: usize = 16;

/// A destination of events.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub id: String,
    pub url: String,
    enabled_events: Vec<String>,
    pub secret: String,
    /// The secret before, and until when (Unix milliseconds) it still signs.
    rolled: Option<(String, i64)>,
    pub disabled: bool,
    pub api_version: Option<String>,
    description: Value,
    metadata: Map<String, Value>,
    created: i64,
}

impl Endpoint {
    /// Whether it listens to `kind`.
    pub(crate) fn hears(&self, kind: &str) -> bool {
        !self.disabled && self.enabled_events.iter().any(|pattern| events::matches(pattern, kind))
    }

    /// The secrets that sign at `now_ms`: the newest first.
    pub(crate) fn secrets(&self, now_ms: i64) -> Vec<&str> {
        let old =
            self.rolled.as_ref().filter(|(_, until)| now_ms < *until).map(|(secret, _)| secret.as_str());
        std::iter::once(self.secret.as_str()).chain(old).collect()
    }

    fn render(&self, livemode: bool) -> Value {
        let status = if self.disabled { "disabled" } else { "enabled" };
        json!({
            "id": self.id, "object": "webhook_endpoint", "api_version": self.api_version, "application": null,
            "created": self.created, "description": self.description, "enabled_events": self.enabled_events,
            "livemode": livemode, "metadata": self.metadata, "status": status, "url": self.url,
        })
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/webhook_endpoints", CREATE, create),
    get("/v1/webhook_endpoints", &PAGE, list),
    get("/v1/webhook_endpoints/{webhook_endpoint}", &[EXPAND], retrieve),
    post("/v1/webhook_endpoints/{webhook_endpoint}", UPDATE, update),
    delete("/v1/webhook_endpoints/{webhook_endpoint}", remove),
];

const CREATE: &[Param] = &[
    EXPAND,
    METADATA,
    required("url", Kind::Id),
    required("enabled_events", Kind::List(&Kind::Id)),
    optional("api_version", Kind::Id),
    optional("description", Kind::Text(5000)),
    optional("connect", Kind::NotPlayed),
];
const UPDATE: &[Param] = &[
    EXPAND,
    METADATA,
    optional("url", Kind::Id),
    optional("enabled_events", Kind::List(&Kind::Id)),
    optional("disabled", Kind::Boolean),
    optional("description", Kind::Text(5000)),
];

impl State {
    /// Adds an endpoint; answers its id and secret.
    pub(crate) fn add_endpoint(
        &mut self,
        url: &str,
        enabled_events: Vec<String>,
        secret: Option<String>,
    ) -> (String, String) {
        let id = self.new_id("we");
        let secret = secret.unwrap_or_else(|| format!("whsec_{}", token(&id, 32)));
        let endpoint = Endpoint {
            id: id.clone(),
            url: url.to_owned(),
            enabled_events,
            secret: secret.clone(),
            rolled: None,
            disabled: false,
            api_version: None,
            description: Value::Null,
            metadata: Map::new(),
            created: self.now(),
        };
        self.endpoints.insert(&id, endpoint);
        (id, secret)
    }

    /// Gives the endpoint a new secret; for 24 hours both sign. `None` where there is no such endpoint.
    pub(crate) fn roll_secret(&mut self, id: &str) -> Option<String> {
        let secret = format!("whsec_{}", token(&self.new_id("roll"), 32));
        let until = self.now_ms + ROLL_OVERLAP_MS;
        let endpoint = self.endpoints.get_mut(id)?;
        let old = std::mem::replace(&mut endpoint.secret, secret.clone());
        endpoint.rolled = Some((old, until));
        Some(secret)
    }

    fn endpoint(&mut self, id: &str) -> Result<&mut Endpoint, ApiError> {
        self.endpoints.get_mut(id).ok_or_else(|| ApiError::not_found("webhook endpoint", id, "id"))
    }
}

fn create(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let url = params.required("url")?;
    check_url(url, state.livemode)?;
    let enabled = check_events(params)?;
    if state.endpoints.len() >= MOST_ENDPOINTS {
        return Err(ApiError::invalid(format!("You have reached the limit of {MOST_ENDPOINTS} endpoints.")));
    }
    let mut metadata = Map::new();
    merge_metadata(&mut metadata, params, "metadata")?;
    let livemode = state.livemode;
    let (id, secret) = state.add_endpoint(url, enabled, None);
    let endpoint = state.endpoint(&id)?;
    endpoint.api_version = params.text("api_version").map(str::to_owned);
    endpoint.description = text_or_null(params.text("description"));
    endpoint.metadata = metadata;
    let mut shown = endpoint.render(livemode);
    shown["secret"] = json!(secret);
    Ok(shown)
}

fn check_url(url: &str, livemode: bool) -> Result<(), ApiError> {
    let good = url.starts_with("https://") || (!livemode && url.starts_with("http://"));
    if good {
        Ok(())
    } else {
        Err(ApiError::invalid("Invalid URL: must be HTTPS").code("url_invalid").param("url"))
    }
}

fn check_events(params: &Params) -> Result<Vec<String>, ApiError> {
    let enabled = params.texts("enabled_events");
    // Wildcards inside a type (`invoice.*`) are for lists of events only.
    let strange = enabled.iter().find(|kind| *kind != "*" && (kind.contains('*') || !kind.contains('.')));
    match strange {
        Some(kind) => {
            Err(ApiError::invalid(format!("Invalid enabled_events: {kind}")).param("enabled_events"))
        }
        None => Ok(enabled),
    }
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let ids: Vec<&str> = state.endpoints.newest_first().map(|(id, _)| id).collect();
    let render = |id: &str| state.endpoints.get(id).map_or(Value::Null, |row| row.render(state.livemode));
    page(&ids, &asked.params, "/v1/webhook_endpoints", "webhook endpoint", render)
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    let livemode = state.livemode;
    Ok(state.endpoint(asked.id())?.render(livemode))
}

fn update(state: &mut State, asked: &Asked) -> Answer {
    let (params, livemode) = (&asked.params, state.livemode);
    let enabled = check_events(params)?;
    if let Some(url) = params.text("url") {
        check_url(url, livemode)?;
    }
    let endpoint = state.endpoint(asked.id())?;
    merge_metadata(&mut endpoint.metadata, params, "metadata")?;
    if let Some(url) = params.text("url") {
        endpoint.url = url.to_owned();
    }
    if params.has("enabled_events") {
        endpoint.enabled_events = enabled;
    }
    if params.has("description") {
        endpoint.description = text_or_null(params.text("description"));
    }
    endpoint.disabled = params.boolean("disabled").unwrap_or(endpoint.disabled);
    Ok(endpoint.render(livemode))
}

fn remove(state: &mut State, asked: &Asked) -> Answer {
    state.endpoint(asked.id())?;
    state.endpoints.remove(asked.id());
    Ok(json!({ "id": asked.id(), "object": "webhook_endpoint", "deleted": true }))
}
