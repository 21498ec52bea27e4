//! Services over HTTP.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check::Checks;
use super::customers::{CustomerView, given};
use super::expand::{Expand, Expandable, Expander};
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id, shown};
use super::kind;
use super::list::{List, Paging};
use super::prices::PriceView;
use super::problem::Problem;
use crate::app::App;
use crate::clock::prefix;
use crate::store::services::{Service, ServiceFilter};
use crate::workflows::by::By;
use crate::workflows::services::{self, NewService};
use opentab_input::fields;

/// A price attached to a customer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Service)]
pub(crate) struct ServiceView {
    #[schema(example = "ot_svc_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `service`.
    #[schema(example = "service")]
    pub object: &'static str,
    pub customer: Expandable<CustomerView>,
    pub price: Expandable<PriceView>,
    /// The first day on which it counts, in the customer's time zone.
    pub from: NaiveDate,
    /// The first day on which it no longer counts; null while it goes on.
    pub until: Option<NaiveDate>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl ServiceView {
    async fn new(service: Service, expander: &mut Expander<'_>) -> Result<ServiceView, Problem> {
        Ok(ServiceView {
            id: service.id,
            object: "service",
            customer: expander.customer("customer", service.customer_id).await?,
            price: expander.price("price", service.price_id).await?,
            from: service.from,
            until: service.until,
            created_at: service.created_at,
            updated_at: service.updated_at,
        })
    }
}

/// A service to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateService {
    /// A customer's id or external id.
    #[schema(example = "tenant-42")]
    customer: String,
    /// A price's id, in the customer's currency.
    #[schema(example = "ot_prc_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    price: String,
    /// The first day, in the customer's time zone; today if absent. A day in the past bills what was used since.
    #[serde(default)]
    #[schema(value_type = Option<NaiveDate>)]
    from: Option<String>,
    /// The first day on which it no longer counts.
    #[serde(default)]
    #[schema(value_type = Option<NaiveDate>)]
    until: Option<String>,
}

impl CreateService {
    fn check(&self) -> Result<(Option<NaiveDate>, Option<NaiveDate>), Problem> {
        let mut checks = Checks::new();
        checks.id("/customer", &self.customer);
        checks.id("/price", &self.price);
        let from = self.from.as_deref().and_then(|text| check_day(&mut checks, "/from", text));
        let until = self.until.as_deref().and_then(|text| check_day(&mut checks, "/until", text));
        checks.done()?;
        Ok((from, until))
    }
}

/// A day as `2026-11-21`, or a fault.
pub(super) fn check_day(checks: &mut Checks, pointer: &str, text: &str) -> Option<NaiveDate> {
    let day = fields::day(text);
    if day.is_none() {
        let detail = format!("`{}` is not a day such as 2026-11-21", shown(text));
        checks.fail(&kind::INVALID_TIMESTAMP, pointer, "invalid_day", detail);
    }
    day
}

/// What may change of a service: its end. Everything else is another service.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateService {
    /// The first day on which it no longer counts; null lets it go on.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<NaiveDate>)]
    until: Option<Option<String>>,
    #[serde(default)]
    #[schema(ignore)]
    customer: Option<IgnoredAny>,
    #[serde(default)]
    #[schema(ignore)]
    price: Option<IgnoredAny>,
    #[serde(default)]
    #[schema(ignore)]
    from: Option<IgnoredAny>,
}

impl UpdateService {
    fn check(&self) -> Result<Option<NaiveDate>, Problem> {
        let mut checks = Checks::new();
        let immutable = [
            ("/customer", self.customer.is_some()),
            ("/price", self.price.is_some()),
            ("/from", self.from.is_some()),
        ];
        for (pointer, _) in immutable.into_iter().filter(|(_, sent)| *sent) {
            checks.invalid(pointer, "immutable", "cannot change. End this service and create another");
        }
        let until = match &self.until {
            None => {
                checks.invalid("/until", "missing_field", "is required; null lets the service go on");
                None
            }
            Some(until) => until.as_deref().and_then(|text| check_day(&mut checks, "/until", text)),
        };
        checks.done().map(|()| until)
    }
}

const EXPANDABLE: [&str; 3] = ["customer", "price", "price.meter"];

/// Which services.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ServiceQuery {
    /// Only services of this customer: id or external id.
    customer: Option<String>,
    /// Only services with this price.
    #[param(value_type = Option<String>)]
    price: String,
    /// `customer`, `price` or `price.meter` in full.
    #[param(rename = "expand[]", value_type = Option<Vec<String>>)]
    expand: Expand,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for ServiceQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ServiceQuery, Problem> {
        Ok(ServiceQuery {
            customer: pairs.id("customer")?,
            price: pairs.id("price")?.unwrap_or_default(),
            expand: Expand::from_query(pairs, &EXPANDABLE)?,
            paging: Paging::from_query(pairs)?,
        })
    }
}

/// What to show in full.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ServiceExpand {
    /// `customer`, `price` or `price.meter` in full.
    #[param(rename = "expand[]", value_type = Option<Vec<String>>)]
    expand: Expand,
}

impl FromQuery for ServiceExpand {
    fn from_query(pairs: &mut Pairs) -> Result<ServiceExpand, Problem> {
        Ok(ServiceExpand { expand: Expand::from_query(pairs, &EXPANDABLE)? })
    }
}

async fn customer_id(app: &App, pointer: &str, id: &str) -> Result<String, Problem> {
    let found = app.store.customer_by_any_id(id).await?.map(|customer| customer.id);
    let detail = || format!("there is no customer `{}`", shown(id));
    found.ok_or_else(|| Problem::field(&kind::UNKNOWN_CUSTOMER, pointer, "unknown_customer", detail()))
}

async fn view(app: &App, service: Service, expand: &Expand) -> Result<Answer<ServiceView>, Problem> {
    Ok(Answer(ServiceView::new(service, &mut Expander::new(app, expand)).await?))
}

/// Create a service
///
/// From its first day on, the customer owes what the price says.
#[utoipa::path(post, path = "/v1/services", tag = "Services", request_body = CreateService,
    responses((status = 201, body = ServiceView)))]
pub(crate) async fn create(
    State(app): State<App>,
    by: By,
    Json(body): Json<CreateService>,
) -> Result<(StatusCode, Answer<ServiceView>), Problem> {
    let (from, until) = body.check()?;
    let customer_id = customer_id(&app, "/customer", &body.customer).await?;
    if app.store.price(&body.price).await?.is_none() {
        let detail = format!("there is no price `{}`", shown(&body.price));
        return Err(Problem::invalid("/price", "unknown_price", detail));
    }
    let new = NewService { customer_id, price_id: body.price, from, until };
    let service = services::create(&app, new, &by).await?;
    Ok((StatusCode::CREATED, view(&app, service, &Expand::default()).await?))
}

/// Retrieve a service
#[utoipa::path(get, path = "/v1/services/{id}", tag = "Services",
    params(("id" = String, Path, description = "`ot_svc_…`"), ServiceExpand),
    responses((status = 200, body = ServiceView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ServiceExpand>,
) -> Result<Answer<ServiceView>, Problem> {
    expect_id(&id, prefix::SERVICE)?;
    let found = app.store.service(&id).await?;
    let service =
        found.ok_or_else(|| Problem::not_found(format!("There is no service `{}`.", shown(&id))))?;
    view(&app, service, &query.expand).await
}

/// End a service
///
/// Sets the first day on which it no longer counts, or lets it go on. Where that day lies in a cycle that is closed
/// already, the difference is on the next invoice.
#[utoipa::path(post, path = "/v1/services/{id}", tag = "Services", request_body = UpdateService,
    params(("id" = String, Path, description = "`ot_svc_…`")), responses((status = 200, body = ServiceView)))]
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<UpdateService>,
) -> Result<Answer<ServiceView>, Problem> {
    expect_id(&id, prefix::SERVICE)?;
    let service = services::set_until(&app, &id, body.check()?, &by).await?;
    view(&app, service, &Expand::default()).await
}

/// List services
#[utoipa::path(get, path = "/v1/services", tag = "Services", params(ServiceQuery, Paging),
    responses((status = 200, body = List<ServiceView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<ServiceQuery>,
) -> Result<Answer<List<ServiceView>>, Problem> {
    let customer_id = match &query.customer {
        None => String::new(),
        Some(id) => customer_id(&app, "customer", id).await?,
    };
    let filter = ServiceFilter { customer_id, price_id: query.price };
    let (rows, has_more) = app.store.services(&query.paging.page(prefix::SERVICE)?, &filter).await?;
    let mut expander = Expander::new(&app, &query.expand);
    let mut views = Vec::with_capacity(rows.len());
    for service in rows {
        views.push(ServiceView::new(service, &mut expander).await?);
    }
    Ok(Answer(List::new("/v1/services", (views, has_more))))
}
