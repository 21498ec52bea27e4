//! Events: what happened, kept for 30 days, and listed.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::errors::{Answer, ApiError};
use super::pages::{self, page};
use super::params::{EXPAND, Kind, PAGE, optional};
use super::router::{Asked, Operation, get};
use super::state::{API_VERSION, State};

const RETENTION_S: i64 = 30 * 24 * 3600;

/// One thing that happened, with the object as it was then.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub id: String,
    pub kind: String,
    pub created: i64,
    object_id: String,
    /// The rendered `data`, as text: events are many, and are sent more often than read.
    data: Box<RawValue>,
    request: Value,
    /// Endpoints that have not answered 2xx yet.
    pub undelivered: u32,
}

impl Event {
    /// The id of the object that it is about.
    pub(crate) fn object_id(&self) -> String {
        self.object_id.clone()
    }

    /// The object as it was then.
    pub(crate) fn object(&self) -> Value {
        let mut data: Value = serde_json::from_str(self.data.get()).unwrap_or_default();
        data["object"].take()
    }

    /// The event as `api_version` shows it.
    pub(crate) fn shown<'a>(&'a self, api_version: &'a str, livemode: bool) -> Shown<'a> {
        Shown {
            id: &self.id,
            object: "event",
            api_version,
            created: self.created,
            data: &self.data,
            livemode,
            pending_webhooks: self.undelivered,
            request: &self.request,
            kind: &self.kind,
        }
    }
}

/// An event as it is shown and sent.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    id: &'a str,
    object: &'static str,
    api_version: &'a str,
    created: i64,
    data: &'a RawValue,
    livemode: bool,
    pending_webhooks: u32,
    request: &'a Value,
    #[serde(rename = "type")]
    kind: &'a str,
}

pub(super) const OPERATIONS: &[Operation] =
    &[get("/v1/events", LIST, list), get("/v1/events/{id}", &[EXPAND], retrieve)];

const LIST: &[super::params::Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("created", Kind::Range),
    optional("delivery_success", Kind::Boolean),
    optional("type", Kind::Id),
    optional("types", Kind::List(&Kind::Id)),
];

impl State {
    /// Records that `kind` happened to `object`, and queues the deliveries.
    pub(crate) fn emit(&mut self, kind: &str, object: Value, previous: Option<Value>) {
        let object_id = object["id"].as_str().unwrap_or_default().to_owned();
        let previous = previous.map(|previous| ("previous_attributes".to_owned(), previous));
        let data: Map<String, Value> = [("object".to_owned(), object)].into_iter().chain(previous).collect();
        let Ok(data) = serde_json::value::to_raw_value(&data) else { return };
        let request = json!({ "id": self.request_id, "idempotency_key": self.idempotency_key });
        let (kind, created) = (kind.to_owned(), self.now());
        self.store_event(Event {
            id: String::new(),
            kind,
            created,
            object_id,
            data,
            request,
            undelivered: 0,
        });
    }

    /// Stripe sometimes makes two events of one change: a second one like `id`, with an id of its own.
    pub(crate) fn twin_event(&mut self, id: &str) {
        if let Some(event) = self.events.get(id).cloned() {
            self.store_event(event);
        }
    }

    fn store_event(&mut self, mut event: Event) {
        event.id = self.new_id("evt");
        event.undelivered = self.queue_deliveries(&event.id, &event.kind);
        self.events.insert(&event.id.clone(), event);
    }

    /// Forgets what is older than 30 days.
    pub(crate) fn prune_events(&mut self) {
        let oldest = self.now() - RETENTION_S;
        self.events.prune(|event| event.created < oldest);
    }
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let types = params.texts("types");
    if types.len() > 20 {
        return Err(ApiError::invalid("You can list at most 20 types.").param("types"));
    }
    if params.has("type") && !types.is_empty() {
        return Err(ApiError::exclusive("type", "types"));
    }
    let wanted = |event: &Event| {
        pages::in_range(params, "created", Some(event.created))
            && params.text("type").is_none_or(|pattern| matches(pattern, &event.kind))
            && (types.is_empty() || types.contains(&event.kind))
            && params.boolean("delivery_success").is_none_or(|success| success == (event.undelivered == 0))
    };
    let ids: Vec<&str> =
        state.events.newest_first().filter(|(_, event)| wanted(event)).map(|(id, _)| id).collect();
    page(&ids, params, "/v1/events", "event", |id| render(state, id))
}

fn render(state: &State, id: &str) -> Value {
    let event = state.events.get(id).map(|event| event.shown(API_VERSION, state.livemode));
    event.and_then(|event| serde_json::to_value(event).ok()).unwrap_or_default()
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    match render(state, asked.id()) {
        Value::Null => Err(ApiError::not_found("event", asked.id(), "id")),
        event => Ok(event),
    }
}

/// Whether `pattern` (`*`, `invoice.*` or a type) covers `kind`.
pub(super) fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    }
}
