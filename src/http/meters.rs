//! Meters over HTTP.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check::Checks;
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id, shown};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::prefix;
use crate::store::meters::Meter;
use crate::workflows::by::By;
use crate::workflows::catalog::{self, NewMeter};
use opentab_billing::Aggregation;

/// What is counted, and how.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Meter)]
pub(crate) struct MeterView {
    #[schema(example = "ot_mtr_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `meter`.
    #[schema(example = "meter")]
    pub object: &'static str,
    /// What usage events call it.
    #[schema(example = "api_calls")]
    pub event_name: String,
    #[schema(example = "API calls")]
    pub display_name: String,
    /// `count`, `sum`, `max`, `last` or `unique`.
    #[schema(value_type = String, example = "sum")]
    pub aggregation: Aggregation,
    /// Decimals that a quantity may have.
    pub decimals: u8,
    /// What one unit is called.
    #[schema(example = "call")]
    pub unit_label: String,
    pub created_at: DateTime<Utc>,
}

impl From<Meter> for MeterView {
    fn from(meter: Meter) -> MeterView {
        MeterView {
            id: meter.id,
            object: "meter",
            event_name: meter.event_name,
            display_name: meter.display_name,
            aggregation: meter.aggregation,
            decimals: meter.decimals,
            unit_label: meter.unit_label,
            created_at: meter.created_at,
        }
    }
}

/// A meter to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateMeter {
    /// What usage events will call it; unique. 1 to 128 of the characters A-Z a-z 0-9 _ . : -
    #[schema(example = "api_calls", max_length = 128)]
    event_name: String,
    #[schema(example = "API calls", max_length = 100)]
    display_name: String,
    /// `count` the events, `sum` their quantities, take the `max` or the `last` one, or count `unique` values.
    #[schema(value_type = String, example = "sum")]
    aggregation: Aggregation,
    /// Decimals that a quantity may have. Events and unique values are counted whole.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 9, default = 0)]
    decimals: i64,
    #[serde(default)]
    #[schema(example = "call", max_length = 40)]
    unit_label: String,
}

impl CreateMeter {
    fn check(self) -> Result<NewMeter, Problem> {
        let mut checks = Checks::new();
        checks.id("/event_name", &self.event_name);
        if self.event_name.starts_with("ot_") {
            checks.fail(&kind::INVALID_ID, "/event_name", "reserved", "names that begin with ot_ are ours");
        }
        check_labels(&mut checks, Some(&self.display_name), Some(&self.unit_label));
        checks.range("/decimals", self.decimals, 0..=9);
        if self.decimals != 0 && matches!(self.aggregation, Aggregation::Count | Aggregation::Unique) {
            checks.invalid("/decimals", "not_countable", "must be 0: events and unique values are whole");
        }
        checks.done()?;
        Ok(NewMeter {
            event_name: self.event_name,
            display_name: self.display_name,
            aggregation: self.aggregation,
            decimals: u8::try_from(self.decimals).unwrap_or(0),
            unit_label: self.unit_label,
        })
    }
}

fn check_labels(checks: &mut Checks, display_name: Option<&str>, unit_label: Option<&str>) {
    if let Some(display_name) = display_name {
        checks.line("/display_name", display_name, 100);
    }
    if let Some(unit_label) = unit_label.filter(|label| !label.is_empty()) {
        checks.line("/unit_label", unit_label, 40);
    }
}

/// What may change of a meter: what people call it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateMeter {
    #[schema(max_length = 100)]
    display_name: Option<String>,
    #[schema(max_length = 40)]
    unit_label: Option<String>,
    #[schema(ignore)]
    event_name: Option<IgnoredAny>,
    #[schema(ignore)]
    aggregation: Option<IgnoredAny>,
    #[schema(ignore)]
    decimals: Option<IgnoredAny>,
}

impl UpdateMeter {
    fn check(&self) -> Result<(), Problem> {
        let mut checks = Checks::new();
        let immutable = [
            ("/event_name", self.event_name.is_some()),
            ("/aggregation", self.aggregation.is_some()),
            ("/decimals", self.decimals.is_some()),
        ];
        for (pointer, _) in immutable.into_iter().filter(|(_, sent)| *sent) {
            let detail = "cannot change: stored usage was counted by it. Create another meter";
            checks.invalid(pointer, "immutable", detail);
        }
        check_labels(&mut checks, self.display_name.as_deref(), self.unit_label.as_deref());
        checks.done()
    }
}

/// Which meters.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MeterQuery {
    /// Only the meter with this event name.
    #[param(value_type = Option<String>)]
    event_name: String,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for MeterQuery {
    fn from_query(pairs: &mut Pairs) -> Result<MeterQuery, Problem> {
        let event_name = pairs.id("event_name")?.unwrap_or_default();
        Ok(MeterQuery { event_name, paging: Paging::from_query(pairs)? })
    }
}

/// Create a meter
#[utoipa::path(post, path = "/v1/meters", tag = "Meters", request_body = CreateMeter,
    responses((status = 201, body = MeterView)))]
pub(crate) async fn create(
    State(app): State<App>,
    by: By,
    Json(body): Json<CreateMeter>,
) -> Result<(StatusCode, Answer<MeterView>), Problem> {
    let meter = catalog::create_meter(&app, body.check()?, &by).await?;
    Ok((StatusCode::CREATED, Answer(meter.into())))
}

/// Retrieve a meter
#[utoipa::path(get, path = "/v1/meters/{id}", tag = "Meters",
    params(("id" = String, Path, description = "`ot_mtr_…`")), responses((status = 200, body = MeterView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<MeterView>, Problem> {
    expect_id(&id, prefix::METER)?;
    let found = app.store.meter(&id).await?;
    let missing = || Problem::not_found(format!("There is no meter `{}`.", shown(&id)));
    Ok(Answer(found.ok_or_else(missing)?.into()))
}

/// Update a meter
///
/// What people call it may change, what it counts may not.
#[utoipa::path(post, path = "/v1/meters/{id}", tag = "Meters", request_body = UpdateMeter,
    params(("id" = String, Path, description = "`ot_mtr_…`")), responses((status = 200, body = MeterView)))]
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<UpdateMeter>,
) -> Result<Answer<MeterView>, Problem> {
    expect_id(&id, prefix::METER)?;
    body.check()?;
    let meter = catalog::relabel_meter(&app, &id, body.display_name, body.unit_label, &by).await?;
    Ok(Answer(meter.into()))
}

/// List meters
#[utoipa::path(get, path = "/v1/meters", tag = "Meters", params(MeterQuery, Paging),
    responses((status = 200, body = List<MeterView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<MeterQuery>,
) -> Result<Answer<List<MeterView>>, Problem> {
    let page = query.paging.page(prefix::METER)?;
    let (rows, has_more) = app.store.meters(&page, &query.event_name).await?;
    let views = rows.into_iter().map(MeterView::from).collect();
    Ok(Answer(List::new("/v1/meters", (views, has_more))))
}
