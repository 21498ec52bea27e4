//! Customers over HTTP.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::billing::find_any;
use super::check::Checks;
use super::extract::{FromQuery, Json, Pairs, Path, Query, shown};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use super::services::check_day;
use crate::app::App;
use crate::clock::prefix;
use crate::store::customers::{Customer, CustomerFilter};
use crate::workflows::by::By;
use crate::workflows::customers::{self, CustomerChange, NewCustomer};
use opentab_billing::CollectionMethod;
use opentab_billing::Currency;
use opentab_input::fields;

/// Who is billed.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Customer)]
pub(crate) struct CustomerView {
    #[schema(example = "ot_cus_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `customer`.
    #[schema(example = "customer")]
    pub object: &'static str,
    pub name: String,
    pub email: Option<String>,
    /// Whether e-mail to this address came back for good: nothing is sent there by itself until it is another one.
    pub email_bounces: bool,
    /// Your own id for this customer.
    pub external_id: Option<String>,
    /// What every amount of this customer is in. Never changes.
    #[schema(example = "usd")]
    pub currency: String,
    /// Whose midnights cut days and billing cycles. Never changes.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// The day of the month on which a billing cycle begins. Never changes.
    pub anchor_day: u8,
    #[schema(value_type = String, example = "charge_automatically")]
    pub collection_method: CollectionMethod,
    /// Days until a sent invoice is due.
    pub days_until_due: i64,
    /// Stripe's id, once Stripe has this customer.
    pub stripe_customer_id: Option<String>,
    /// `active`, or `gone_at_stripe` where it was deleted there.
    #[schema(example = "active")]
    pub state: &'static str,
    /// Since when the customer is suspended for not paying; null where they are not. Usage and invoices go on.
    pub suspended_at: Option<DateTime<Utc>>,
    /// Days after a due date before they are suspended; null for the setting that holds for all.
    pub suspension_grace_days: Option<i64>,
    /// The language in which the customer is written to.
    #[schema(example = "en")]
    pub locale: String,
    /// The first day on which they are billed, in their time zone; null for always.
    pub active_from: Option<NaiveDate>,
    /// The first day on which they are no longer billed; null for never.
    pub active_until: Option<NaiveDate>,
    /// When a customer list that names them was last imported.
    pub last_imported_at: Option<DateTime<Utc>>,
    pub metadata: BTreeMap<String, String>,
    /// Whether Stripe moves real money for this customer.
    pub livemode: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl CustomerView {
    /// How the API shows a customer.
    pub(crate) fn new(app: &App, customer: Customer) -> CustomerView {
        let email_bounces = customer.email_bounces();
        CustomerView {
            id: customer.id,
            object: "customer",
            name: customer.name,
            email_bounces,
            email: customer.email,
            external_id: customer.external_id,
            currency: customer.currency.as_str().to_owned(),
            time_zone: customer.time_zone.name().to_owned(),
            anchor_day: customer.anchor_day,
            collection_method: customer.collection_method,
            days_until_due: customer.days_until_due,
            stripe_customer_id: customer.stripe_customer_id,
            state: customer.state.as_str(),
            suspended_at: customer.suspended_at,
            suspension_grace_days: customer.suspension_grace_days,
            locale: customer.locale,
            active_from: customer.active_from,
            active_until: customer.active_until,
            last_imported_at: customer.last_imported_at,
            metadata: customer.metadata,
            livemode: app.config.livemode(),
            created_at: customer.created_at,
            updated_at: customer.updated_at,
        }
    }
}

/// A customer to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateCustomer {
    #[schema(example = "Ada Lovelace Ltd", max_length = 200)]
    name: String,
    #[serde(default)]
    #[schema(example = "billing@ada.example")]
    email: Option<String>,
    /// Your own id for this customer; unique. 1 to 128 of the characters A-Z a-z 0-9 _ . : -
    #[serde(default)]
    #[schema(example = "tenant-42", max_length = 128)]
    external_id: Option<String>,
    /// A lower-case ISO code that Stripe supports.
    #[schema(example = "usd")]
    currency: String,
    /// An IANA time zone.
    #[serde(default = "utc")]
    #[schema(example = "Europe/Berlin", default = "UTC")]
    time_zone: String,
    /// The day of the month on which a billing cycle begins; in a shorter month its last day.
    #[serde(default = "first")]
    #[schema(minimum = 1, maximum = 31, default = 1)]
    anchor_day: i64,
    /// `charge_automatically` or `send_invoice`.
    #[serde(default = "automatically")]
    #[schema(value_type = String, default = "charge_automatically")]
    collection_method: CollectionMethod,
    /// Days until a sent invoice is due.
    #[serde(default = "thirty")]
    #[schema(minimum = 0, maximum = 365, default = 30)]
    days_until_due: i64,
    /// An existing customer at Stripe. Without it one is created there at the first sync.
    #[serde(default)]
    #[schema(example = "cus_9s6XKzkNRiz8i3")]
    stripe_customer_id: Option<String>,
    /// The language in which the customer is written to, such as `de` or `pt-BR`; English where it is absent.
    #[serde(default)]
    #[schema(example = "de", max_length = 16)]
    locale: Option<String>,
    /// The first day on which they are billed, in their time zone; always where it is absent.
    #[serde(default)]
    #[schema(value_type = Option<NaiveDate>, example = "2026-11-15")]
    active_from: Option<String>,
    /// The first day on which they are no longer billed; never where it is absent.
    #[serde(default)]
    #[schema(value_type = Option<NaiveDate>)]
    active_until: Option<String>,
    /// At most 50 keys of 40 characters, with values of 500.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

fn utc() -> String {
    "UTC".to_owned()
}
fn first() -> i64 {
    1
}
fn thirty() -> i64 {
    30
}
fn automatically() -> CollectionMethod {
    CollectionMethod::ChargeAutomatically
}

impl CreateCustomer {
    fn check(self) -> Result<NewCustomer, Problem> {
        let mut checks = Checks::new();
        checks.line("/name", &self.name, 200);
        if let Some(email) = &self.email {
            checks.email("/email", email);
        }
        if let Some(external_id) = &self.external_id {
            check_external_id(&mut checks, external_id);
        }
        if let Some(stripe_customer_id) = &self.stripe_customer_id {
            check_stripe_id(&mut checks, stripe_customer_id);
        }
        if let Some(locale) = &self.locale {
            check_locale(&mut checks, locale);
        }
        checks.range("/anchor_day", self.anchor_day, 1..=31);
        checks.range("/days_until_due", self.days_until_due, 0..=365);
        let mut day = |pointer, text: &Option<String>| {
            text.as_deref().and_then(|text| check_day(&mut checks, pointer, text))
        };
        let (active_from, active_until) =
            (day("/active_from", &self.active_from), day("/active_until", &self.active_until));
        checks.metadata(&self.metadata);
        let currency = check_currency(&mut checks, "/currency", &self.currency);
        let time_zone = check_time_zone(&mut checks, &self.time_zone);
        checks.done()?;
        Ok(NewCustomer {
            name: self.name,
            email: self.email,
            external_id: self.external_id,
            currency: currency.ok_or_else(impossible)?,
            time_zone: time_zone.ok_or_else(impossible)?,
            anchor_day: u8::try_from(self.anchor_day).map_err(|_| impossible())?,
            collection_method: self.collection_method,
            days_until_due: self.days_until_due,
            stripe_customer_id: self.stripe_customer_id,
            locale: self.locale,
            active_from,
            active_until,
            metadata: self.metadata,
        })
    }
}

/// A value that its check let through and that still cannot be read: our fault.
fn impossible() -> Problem {
    Problem::new(&kind::INTERNAL_ERROR, "A checked value could not be read.")
}

/// A currency of Stripe's, or a fault.
pub(super) fn check_currency(checks: &mut Checks, pointer: &str, text: &str) -> Option<Currency> {
    let currency = Currency::parse(text).ok();
    if currency.is_none() {
        let detail = format!("`{}` is not a currency that Stripe supports, in lower case", shown(text));
        checks.fail(&kind::UNKNOWN_CURRENCY, pointer, "unknown_currency", detail);
    }
    currency
}

fn check_time_zone(checks: &mut Checks, text: &str) -> Option<Tz> {
    let zone = text.parse().ok();
    if zone.is_none() {
        checks.invalid(
            "/time_zone",
            "unknown_time_zone",
            format!("`{}` is not an IANA time zone", shown(text)),
        );
    }
    zone
}

fn check_locale(checks: &mut Checks, text: &str) {
    if !fields::is_locale(text) {
        let detail = format!("`{}` is not a language such as de or pt-BR", shown(text));
        checks.invalid("/locale", "invalid_locale", detail);
    }
}

fn check_external_id(checks: &mut Checks, text: &str) {
    checks.id("/external_id", text);
    if text.starts_with("ot_") {
        checks.fail(&kind::INVALID_ID, "/external_id", "reserved", "ids that begin with ot_ are ours");
    }
}

fn check_stripe_id(checks: &mut Checks, text: &str) {
    checks.id("/stripe_customer_id", text);
    if !text.starts_with("cus_") {
        let detail = "Stripe's customer ids begin with cus_";
        checks.fail(&kind::INVALID_ID, "/stripe_customer_id", "wrong_prefix", detail);
    }
}

/// What may change of a customer. What is absent stays; `null` removes an e-mail address, external id or grace.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateCustomer {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<String>>,
    #[schema(value_type = Option<String>)]
    collection_method: Option<CollectionMethod>,
    #[schema(minimum = 0, maximum = 365)]
    days_until_due: Option<i64>,
    /// Days after a due date before the customer is suspended for not paying.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 365)]
    suspension_grace_days: Option<Option<i64>>,
    /// May be set once, while the customer has none.
    stripe_customer_id: Option<String>,
    #[schema(max_length = 16)]
    locale: Option<String>,
    /// The first day on which they are billed, in their time zone; null for always.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<NaiveDate>)]
    active_from: Option<Option<String>>,
    /// The first day on which they are no longer billed; null for never.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<NaiveDate>)]
    active_until: Option<Option<String>>,
    /// Merged into what is there; an empty value removes its key.
    metadata: BTreeMap<String, String>,
    #[schema(ignore)]
    currency: Option<IgnoredAny>,
    #[schema(ignore)]
    time_zone: Option<IgnoredAny>,
    #[schema(ignore)]
    anchor_day: Option<IgnoredAny>,
}

/// Tells `null` from absent.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl UpdateCustomer {
    fn check(self) -> Result<CustomerChange, Problem> {
        let mut checks = Checks::new();
        self.check_immutable(&mut checks);
        if let Some(name) = &self.name {
            checks.line("/name", name, 200);
        }
        if let Some(Some(email)) = &self.email {
            checks.email("/email", email);
        }
        if let Some(Some(external_id)) = &self.external_id {
            check_external_id(&mut checks, external_id);
        }
        if let Some(stripe_customer_id) = &self.stripe_customer_id {
            check_stripe_id(&mut checks, stripe_customer_id);
        }
        if let Some(locale) = &self.locale {
            check_locale(&mut checks, locale);
        }
        if let Some(days_until_due) = self.days_until_due {
            checks.range("/days_until_due", days_until_due, 0..=365);
        }
        if let Some(Some(days)) = self.suspension_grace_days {
            checks.range("/suspension_grace_days", days, 0..=365);
        }
        let mut day = |pointer, text: Option<Option<String>>| {
            text.map(|text| text.and_then(|text| check_day(&mut checks, pointer, &text)))
        };
        let (active_from, active_until) =
            (day("/active_from", self.active_from), day("/active_until", self.active_until));
        checks.metadata(&self.metadata);
        checks.done()?;
        Ok(CustomerChange {
            active_from,
            active_until,
            name: self.name,
            email: self.email,
            external_id: self.external_id,
            collection_method: self.collection_method,
            days_until_due: self.days_until_due,
            suspension_grace_days: self.suspension_grace_days,
            stripe_customer_id: self.stripe_customer_id,
            locale: self.locale,
            metadata: self.metadata,
        })
    }

    fn check_immutable(&self, checks: &mut Checks) {
        let why_currency = "cannot change: invoices and prices are in it. Create another customer";
        let why_calendar =
            "cannot change: every stored day and billing cycle was cut by it. Create another customer";
        let immutable = [
            ("/currency", self.currency.is_some(), why_currency),
            ("/time_zone", self.time_zone.is_some(), why_calendar),
            ("/anchor_day", self.anchor_day.is_some(), why_calendar),
        ];
        for (pointer, _, why) in immutable.into_iter().filter(|(_, sent, _)| *sent) {
            checks.invalid(pointer, "immutable", why);
        }
    }
}

/// Which customers.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CustomerQuery {
    /// Only the customer with this external id.
    #[param(value_type = Option<String>)]
    external_id: String,
    /// Only customers with exactly this e-mail address.
    #[param(value_type = Option<String>)]
    email: String,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for CustomerQuery {
    fn from_query(pairs: &mut Pairs) -> Result<CustomerQuery, Problem> {
        Ok(CustomerQuery {
            external_id: pairs.id("external_id")?.unwrap_or_default(),
            email: pairs.one("email")?.unwrap_or_default(),
            paging: Paging::from_query(pairs)?,
        })
    }
}

/// Create a customer
///
/// Opens the customer's tab: usage counts from now on, and the first billing cycle has begun.
#[utoipa::path(post, path = "/v1/customers", tag = "Customers", request_body = CreateCustomer,
    responses((status = 201, body = CustomerView)))]
pub(crate) async fn create(
    State(app): State<App>,
    by: By,
    Json(body): Json<CreateCustomer>,
) -> Result<(StatusCode, Answer<CustomerView>), Problem> {
    let customer = customers::create(&app, body.check()?, &by).await?;
    Ok((StatusCode::CREATED, Answer(CustomerView::new(&app, customer))))
}

/// Retrieve a customer
#[utoipa::path(get, path = "/v1/customers/{id}", tag = "Customers",
    params(("id" = String, Path, description = "`ot_cus_…`, or your own external id")), responses((status = 200, body = CustomerView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<CustomerView>, Problem> {
    Ok(Answer(CustomerView::new(&app, find_any(&app, &id).await?)))
}

/// Update a customer
///
/// Currency, time zone and anchor day never change.
#[utoipa::path(post, path = "/v1/customers/{id}", tag = "Customers", request_body = UpdateCustomer,
    params(("id" = String, Path, description = "`ot_cus_…`, or your own external id")), responses((status = 200, body = CustomerView)))]
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<UpdateCustomer>,
) -> Result<Answer<CustomerView>, Problem> {
    let change = body.check()?;
    let customer = find_any(&app, &id).await?;
    let customer = customers::update(&app, &customer.id, change, &by).await?;
    Ok(Answer(CustomerView::new(&app, customer)))
}

/// List customers
#[utoipa::path(get, path = "/v1/customers", tag = "Customers", params(CustomerQuery, Paging),
    responses((status = 200, body = List<CustomerView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<CustomerQuery>,
) -> Result<Answer<List<CustomerView>>, Problem> {
    let filter = CustomerFilter { external_id: query.external_id, email: query.email };
    let (rows, has_more) = app.store.customers(&query.paging.page(prefix::CUSTOMER)?, &filter).await?;
    let views = rows.into_iter().map(|customer| CustomerView::new(&app, customer)).collect();
    Ok(Answer(List::new("/v1/customers", (views, has_more))))
}
