//! Prices over HTTP.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::check::Checks;
use super::customers::check_currency;
use super::expand::{Expand, Expandable, Expander};
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id, shown};
use super::kind;
use super::list::{List, Paging};
use super::meters::MeterView;
use super::problem::Problem;
use crate::app::App;
use crate::clock::prefix;
use crate::store::prices::{Price, PriceFilter};
use crate::workflows::by::By;
use crate::workflows::catalog;
use opentab_billing::{Decimal, DecimalError, Model, PriceError, PriceTerms, Tier};

/// What a meter, or nothing, costs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Price)]
pub(crate) struct PriceView {
    #[schema(example = "ot_prc_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `price`.
    #[schema(example = "price")]
    pub object: &'static str,
    /// What the line on an invoice is called.
    pub name: String,
    /// What it prices; absent for a flat fee.
    pub meter: Option<Expandable<MeterView>>,
    #[serde(flatten)]
    pub terms: TermsView,
    /// The terms in one line, for people.
    #[schema(example = "$0.002 per unit after 1,000 included")]
    pub description: String,
    /// Whether new services may use it.
    pub active: bool,
    pub(crate) archived_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// Everything that an amount depends on, besides the quantity. Which fields there are follows from the model.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct TermsView {
    #[schema(example = "usd")]
    pub currency: String,
    /// `per_unit`, `graduated`, `volume`, `package` or `flat`.
    #[schema(example = "per_unit")]
    pub model: &'static str,
    /// Minor units per unit, to 12 decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.2")]
    pub unit_amount_decimal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Vec<TierView>>,
    /// Units in a package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_size: Option<String>,
    /// Minor units per package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_amount: Option<i64>,
    /// Minor units per billing cycle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flat_amount: Option<i64>,
    /// Which API says what a billing cycle costs, by its name in the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup: Option<String>,
    /// Units per billing cycle that cost nothing.
    #[schema(example = "1000")]
    pub included_quantity: String,
    /// Minor units that a billing cycle costs at least.
    pub minimum_amount: i64,
}

/// A step of a graduated or volume price.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Tier)]
pub(crate) struct TierView {
    /// The last quantity inside; null where the tier is open.
    pub up_to: Option<String>,
    pub unit_amount_decimal: String,
    pub flat_amount: i64,
}

impl From<Tier> for TierView {
    fn from(tier: Tier) -> TierView {
        TierView {
            up_to: tier.up_to.map(|up_to| up_to.to_string()),
            unit_amount_decimal: tier.unit_amount_decimal.to_string(),
            flat_amount: tier.flat_amount,
        }
    }
}

impl From<PriceTerms> for TermsView {
    fn from(terms: PriceTerms) -> TermsView {
        let view = TermsView {
            currency: terms.currency.as_str().to_owned(),
            included_quantity: terms.included_quantity.to_string(),
            minimum_amount: terms.minimum_amount,
            ..TermsView::default()
        };
        let tiers = |tiers: Vec<Tier>| Some(tiers.into_iter().map(TierView::from).collect());
        match terms.model {
            Model::PerUnit { unit_amount_decimal } => {
                let unit_amount_decimal = Some(unit_amount_decimal.to_string());
                TermsView { model: "per_unit", unit_amount_decimal, ..view }
            }
            Model::Graduated { tiers: t } => TermsView { model: "graduated", tiers: tiers(t), ..view },
            Model::Volume { tiers: t } => TermsView { model: "volume", tiers: tiers(t), ..view },
            Model::Package { package_size, package_amount } => TermsView {
                model: "package",
                package_size: Some(package_size.to_string()),
                package_amount: Some(package_amount),
                ..view
            },
            Model::LookedUp { lookup } => TermsView { model: "looked_up", lookup: Some(lookup), ..view },
            Model::Flat { flat_amount } => {
                TermsView { model: "flat", flat_amount: Some(flat_amount), ..view }
            }
        }
    }
}

impl PriceView {
    /// How the API shows a price; `meter` is the meter's name in `expand[]`.
    pub(super) async fn new(
        price: Price,
        meter: &str,
        expander: &mut Expander<'_>,
    ) -> Result<PriceView, Problem> {
        let meter = match price.meter_id {
            None => None,
            Some(id) => Some(expander.meter(meter, id).await?),
        };
        Ok(PriceView {
            id: price.id,
            object: "price",
            name: price.name,
            meter,
            description: price.terms.describe(),
            terms: price.terms.into(),
            active: price.archived_at.is_none(),
            archived_at: price.archived_at,
            created_at: price.created_at,
        })
    }
}

/// A price that may be created.
#[derive(Debug)]
pub(crate) struct NewPrice {
    pub name: String,
    pub meter_id: Option<String>,
    pub terms: PriceTerms,
}

/// A price to be created. It never changes: a new price is a new service from a day on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreatePrice {
    /// What the line on an invoice is called.
    #[schema(example = "API calls", max_length = 200)]
    name: String,
    /// A meter's id or event name; absent for a flat fee and for what is looked up.
    #[serde(default)]
    #[schema(example = "api_calls")]
    meter: Option<String>,
    #[schema(example = "usd")]
    currency: String,
    /// `per_unit`, `graduated`, `volume`, `package`, `flat` or `looked_up`.
    #[schema(value_type = String, example = "per_unit")]
    model: ModelName,
    /// per_unit: minor units (cents) per unit, to 12 decimals.
    #[serde(default)]
    #[schema(example = "0.2")]
    unit_amount_decimal: Option<String>,
    /// graduated, volume: ascending, the last one open.
    #[serde(default)]
    tiers: Option<Vec<CreateTier>>,
    /// package: units in a package.
    #[serde(default)]
    package_size: Option<String>,
    /// package: minor units per begun package.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    package_amount: Option<Value>,
    /// flat: minor units per billing cycle.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    flat_amount: Option<Value>,
    /// looked_up: which API says what a billing cycle costs, by its name in the settings (`[lookup.NAME]`).
    #[serde(default)]
    lookup: Option<String>,
    /// Units per billing cycle that cost nothing.
    #[serde(default)]
    #[schema(example = "1000", default = "0")]
    included_quantity: Option<String>,
    /// Minor units that a billing cycle costs at least.
    #[serde(default)]
    #[schema(value_type = Option<i64>, default = 0)]
    minimum_amount: Option<Value>,
}

/// A step of a graduated or volume price, from the end of the one before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTier {
    /// The last quantity inside; `null` or `inf` in the last tier.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "1000")]
    up_to: Option<Value>,
    /// Minor units per unit.
    #[schema(example = "0.2")]
    unit_amount_decimal: String,
    /// Minor units once, as soon as the tier is entered.
    #[serde(default)]
    #[schema(value_type = i64, default = 0)]
    flat_amount: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelName {
    PerUnit,
    Graduated,
    Volume,
    Package,
    Flat,
    LookedUp,
}

/// Reads numbers out of a body, with every fault collected.
struct Reader(Checks);

impl Reader {
    fn decimal(&mut self, pointer: &str, text: &str) -> Decimal {
        match Decimal::parse(text) {
            Ok(decimal) => return decimal,
            Err(DecimalError::TooManyDigits) => {
                self.0.fail(
                    &kind::NUMBER_OUT_OF_RANGE,
                    pointer,
                    "too_many_digits",
                    "has more than 18 digits",
                );
            }
            Err(DecimalError::TooManyDecimals) => {
                self.0.invalid(pointer, "too_many_decimals", "has more than 12 decimals");
            }
            Err(_) => {
                let detail = format!("`{}` is not a decimal number", shown(text));
                self.0.invalid(pointer, "not_a_decimal", detail);
            }
        }
        Decimal::default()
    }

    /// A decimal that this model needs.
    fn needed(&mut self, pointer: &str, text: Option<&str>) -> Decimal {
        match text {
            Some(text) => self.decimal(pointer, text),
            None => {
                self.0.invalid(pointer, "missing_field", "is required for this model");
                Decimal::default()
            }
        }
    }

    /// An amount of whole minor units: a fraction of one cannot be paid in any currency.
    fn amount(&mut self, pointer: &str, value: Option<&Value>) -> Option<i64> {
        let value = value.filter(|value| !value.is_null())?;
        let amount = value.as_i64();
        match value {
            Value::Number(_) if amount.is_some() => {}
            Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() != 0.0) => self.0.fail(
                &kind::CURRENCY_PRECISION,
                pointer,
                "currency_precision",
                "must be whole minor units",
            ),
            Value::Number(_) => {
                let detail = "does not fit 64 bits";
                self.0.fail(&kind::NUMBER_OUT_OF_RANGE, pointer, "number_out_of_range", detail);
            }
            _ => self.0.invalid(pointer, "invalid_type", "must be a whole number of minor units"),
        }
        amount
    }

    /// An amount that this model needs.
    fn needed_amount(&mut self, pointer: &str, value: Option<&Value>) -> i64 {
        if value.is_none_or(Value::is_null) {
            self.0.invalid(pointer, "missing_field", "is required for this model");
        }
        self.amount(pointer, value).unwrap_or(0)
    }

    fn up_to(&mut self, pointer: &str, value: Option<&Value>) -> Option<Decimal> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text == "inf" => None,
            Some(Value::String(text)) => Some(self.decimal(pointer, text)),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                Some(self.decimal(pointer, &number.to_string()))
            }
            Some(_) => {
                let detail = "must be a decimal as text, a whole number, or null for the last tier";
                self.0.invalid(pointer, "invalid_type", detail);
                None
            }
        }
    }

    fn tiers(&mut self, tiers: Option<&Vec<CreateTier>>) -> Vec<Tier> {
        let Some(tiers) = tiers else {
            self.0.invalid("/tiers", "missing_field", "is required for this model");
            return Vec::new();
        };
        if tiers.len() > MOST_TIERS {
            self.0.invalid("/tiers", "too_many", format!("may have at most {MOST_TIERS} tiers"));
            return Vec::new();
        }
        tiers.iter().enumerate().map(|(index, tier)| self.tier(index, tier)).collect()
    }

    fn tier(&mut self, index: usize, tier: &CreateTier) -> Tier {
        let at = |field: &str| format!("/tiers/{index}/{field}");
        Tier {
            up_to: self.up_to(&at("up_to"), tier.up_to.as_ref()),
            unit_amount_decimal: self.decimal(&at("unit_amount_decimal"), &tier.unit_amount_decimal),
            flat_amount: self.amount(&at("flat_amount"), tier.flat_amount.as_ref()).unwrap_or(0),
        }
    }
}

const MOST_TIERS: usize = 100;

impl CreatePrice {
    /// The terms, if every field can be read and they hold together.
    /// What it says, checked.
    pub(crate) async fn read(self, app: &App) -> Result<NewPrice, Problem> {
        let terms = self.terms()?;
        check_lookup(app, &terms)?;
        let meter_id = match &self.meter {
            None => None,
            Some(id) => Some(meter_id(app, "/meter", id).await?),
        };
        Ok(NewPrice { name: self.name, meter_id, terms })
    }

    fn terms(&self) -> Result<PriceTerms, Problem> {
        let mut reader = Reader(Checks::new());
        reader.0.line("/name", &self.name, 200);
        self.check_meter(&mut reader.0);
        self.check_foreign_fields(&mut reader.0);
        let currency = check_currency(&mut reader.0, "/currency", &self.currency);
        let model = self.read_model(&mut reader);
        let included_quantity =
            self.included_quantity.as_ref().map(|text| reader.decimal("/included_quantity", text));
        let minimum_amount = reader.amount("/minimum_amount", self.minimum_amount.as_ref());
        reader.0.done()?;
        let terms = PriceTerms {
            currency: currency.ok_or_else(|| Problem::new(&kind::UNKNOWN_CURRENCY, ""))?,
            model,
            included_quantity: included_quantity.unwrap_or_default(),
            minimum_amount: minimum_amount.unwrap_or(0),
        };
        terms.validate().map_err(not_valid)?;
        Ok(terms)
    }

    fn check_meter(&self, checks: &mut Checks) {
        match (&self.meter, matches!(self.model, ModelName::Flat | ModelName::LookedUp)) {
            (Some(_), true) => {
                checks.invalid("/meter", "not_for_model", "costs the same however much is used");
            }
            (None, false) => checks.invalid("/meter", "missing_field", "is required for this model"),
            (Some(meter), false) => checks.id("/meter", meter),
            (None, true) => {}
        }
    }

    /// A field that the model does not read would be silently without effect.
    fn check_foreign_fields(&self, checks: &mut Checks) {
        use ModelName::{Flat, Graduated, LookedUp, Package, PerUnit, Volume};
        let fields: [(&str, bool, &[ModelName]); 6] = [
            ("/lookup", self.lookup.is_some(), &[LookedUp]),
            ("/unit_amount_decimal", self.unit_amount_decimal.is_some(), &[PerUnit]),
            ("/tiers", self.tiers.is_some(), &[Graduated, Volume]),
            ("/package_size", self.package_size.is_some(), &[Package]),
            ("/package_amount", self.package_amount.is_some(), &[Package]),
            ("/flat_amount", self.flat_amount.is_some(), &[Flat]),
        ];
        for (pointer, sent, models) in fields {
            if sent && !models.contains(&self.model) {
                checks.invalid(pointer, "not_for_model", "has no meaning for this model");
            }
        }
    }

    fn read_model(&self, reader: &mut Reader) -> Model {
        match self.model {
            ModelName::PerUnit => {
                let text = self.unit_amount_decimal.as_deref();
                Model::PerUnit { unit_amount_decimal: reader.needed("/unit_amount_decimal", text) }
            }
            ModelName::Graduated => Model::Graduated { tiers: reader.tiers(self.tiers.as_ref()) },
            ModelName::Volume => Model::Volume { tiers: reader.tiers(self.tiers.as_ref()) },
            ModelName::Package => Model::Package {
                package_size: reader.needed("/package_size", self.package_size.as_deref()),
                package_amount: reader.needed_amount("/package_amount", self.package_amount.as_ref()),
            },
            ModelName::LookedUp => Model::LookedUp { lookup: self.lookup.clone().unwrap_or_default() },
            ModelName::Flat => {
                Model::Flat { flat_amount: reader.needed_amount("/flat_amount", self.flat_amount.as_ref()) }
            }
        }
    }
}

fn not_valid(error: PriceError) -> Problem {
    let kind =
        if error.code == "currency_precision" { &kind::CURRENCY_PRECISION } else { &kind::VALIDATION_FAILED };
    Problem::field(kind, error.pointer, error.code, error.detail)
}

/// Which prices.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PriceQuery {
    /// Only prices of this meter: its id or event name.
    #[param(value_type = Option<String>)]
    meter: Option<String>,
    /// Only prices that new services may use, or only archived ones.
    active: Option<bool>,
    /// `meter` in full.
    #[param(rename = "expand[]", value_type = Option<Vec<String>>)]
    expand: Expand,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for PriceQuery {
    fn from_query(pairs: &mut Pairs) -> Result<PriceQuery, Problem> {
        Ok(PriceQuery {
            meter: pairs.id("meter")?,
            active: pairs.flag("active")?,
            expand: Expand::from_query(pairs, &["meter"])?,
            paging: Paging::from_query(pairs)?,
        })
    }
}

/// What to show in full.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PriceExpand {
    /// `meter` in full.
    #[param(rename = "expand[]", value_type = Option<Vec<String>>)]
    expand: Expand,
}

impl FromQuery for PriceExpand {
    fn from_query(pairs: &mut Pairs) -> Result<PriceExpand, Problem> {
        Ok(PriceExpand { expand: Expand::from_query(pairs, &["meter"])? })
    }
}

async fn meter_id(app: &App, pointer: &str, id: &str) -> Result<String, Problem> {
    let found = app.store.meter_by_any_id(id).await?.map(|meter| meter.id);
    let detail = || format!("there is no meter `{}`", shown(id));
    found.ok_or_else(|| Problem::field(&kind::UNKNOWN_METER, pointer, "unknown_meter", detail()))
}

/// The settings have to say where it is looked up.
fn check_lookup(app: &App, terms: &PriceTerms) -> Result<(), Problem> {
    let Model::LookedUp { lookup } = &terms.model else { return Ok(()) };
    if app.config.lookups.iter().any(|known| known.name == *lookup) {
        Ok(())
    } else {
        let detail = format!("opentab.toml has no [lookup.{}]", shown(lookup));
        Err(Problem::invalid("/lookup", "unknown_lookup", detail))
    }
}

async fn view(app: &App, price: Price, expand: &Expand) -> Result<Answer<PriceView>, Problem> {
    Ok(Answer(PriceView::new(price, "meter", &mut Expander::new(app, expand)).await?))
}

/// Create a price
///
/// Prices never change. To charge something else, end the service and begin another with the new price.
#[utoipa::path(post, path = "/v1/prices", tag = "Prices", request_body = CreatePrice,
    responses((status = 201, body = PriceView)))]
pub(crate) async fn create(
    State(app): State<App>,
    by: By,
    Json(body): Json<CreatePrice>,
) -> Result<(StatusCode, Answer<PriceView>), Problem> {
    let new = body.read(&app).await?;
    let price = catalog::create_price(&app, new.name, new.meter_id, new.terms, &by).await?;
    Ok((StatusCode::CREATED, view(&app, price, &Expand::default()).await?))
}

/// Retrieve a price
#[utoipa::path(get, path = "/v1/prices/{id}", tag = "Prices",
    params(("id" = String, Path, description = "`ot_prc_…`"), PriceExpand),
    responses((status = 200, body = PriceView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<PriceExpand>,
) -> Result<Answer<PriceView>, Problem> {
    expect_id(&id, prefix::PRICE)?;
    let found = app.store.price(&id).await?;
    let price = found.ok_or_else(|| Problem::not_found(format!("There is no price `{}`.", shown(&id))))?;
    view(&app, price, &query.expand).await
}

/// Archive a price
///
/// Services that have it keep it; new ones cannot take it.
#[utoipa::path(post, path = "/v1/prices/{id}/archive", tag = "Prices",
    params(("id" = String, Path, description = "`ot_prc_…`")), responses((status = 200, body = PriceView)))]
pub(crate) async fn archive(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<Answer<PriceView>, Problem> {
    expect_id(&id, prefix::PRICE)?;
    let price = catalog::archive_price(&app, &id, &by).await?;
    view(&app, price, &Expand::default()).await
}

/// List prices
#[utoipa::path(get, path = "/v1/prices", tag = "Prices", params(PriceQuery, Paging),
    responses((status = 200, body = List<PriceView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<PriceQuery>,
) -> Result<Answer<List<PriceView>>, Problem> {
    let meter_id = match &query.meter {
        None => String::new(),
        Some(id) => meter_id(&app, "meter", id).await?,
    };
    let filter = PriceFilter { meter_id, active: query.active };
    let (rows, has_more) = app.store.prices(&query.paging.page(prefix::PRICE)?, &filter).await?;
    let mut expander = Expander::new(&app, &query.expand);
    let mut views = Vec::with_capacity(rows.len());
    for price in rows {
        views.push(PriceView::new(price, "meter", &mut expander).await?);
    }
    Ok(Answer(List::new("/v1/prices", (views, has_more))))
}
