//! Products and prices: what lines may refer to.

use serde_json::{Map, Value, json};

use super::decimal::Decimal;
use super::errors::{Answer, ApiError};
use super::pages::{self, page};
use super::params::{EXPAND, Kind, METADATA, PAGE, Param, Params, optional, required};
use super::router::{Asked, Operation, get, post};
use super::state::{State, merge_metadata, previous_attributes, text_or_null};

const PRODUCT: &[Param] = &[
    EXPAND,
    METADATA,
    required("name", Kind::Id),
    optional("id", Kind::Id),
    optional("active", Kind::Boolean),
    optional("description", Kind::Text(5000)),
    optional("unit_label", Kind::Text(12)),
    optional("url", Kind::Id),
    optional("shippable", Kind::Boolean),
    optional("statement_descriptor", Kind::Text(22)),
    optional("default_price_data", Kind::NotPlayed),
    optional("images", Kind::NotPlayed),
    optional("marketing_features", Kind::NotPlayed),
    optional("package_dimensions", Kind::NotPlayed),
    optional("tax_code", Kind::NotPlayed),
];
const UPDATE_PRODUCT: &[Param] = &[
    EXPAND,
    METADATA,
    optional("name", Kind::Id),
    optional("active", Kind::Boolean),
    optional("description", Kind::Text(5000)),
    optional("unit_label", Kind::Text(12)),
    optional("url", Kind::Text(5000)),
    optional("shippable", Kind::Boolean),
    optional("statement_descriptor", Kind::Text(22)),
    optional("default_price", Kind::NotPlayed),
    optional("images", Kind::NotPlayed),
    optional("marketing_features", Kind::NotPlayed),
    optional("package_dimensions", Kind::NotPlayed),
    optional("tax_code", Kind::NotPlayed),
];
const LIST_PRODUCTS: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("active", Kind::Boolean),
    optional("created", Kind::Range),
    optional("ids", Kind::List(&Kind::Id)),
    optional("shippable", Kind::NotPlayed),
    optional("url", Kind::NotPlayed),
];
const PRODUCT_DATA: &[Param] = &[
    METADATA,
    required("name", Kind::Id),
    optional("active", Kind::Boolean),
    optional("unit_label", Kind::Text(12)),
    optional("statement_descriptor", Kind::Text(22)),
    optional("tax_code", Kind::NotPlayed),
];
const RECURRING: &[Param] = &[
    required("interval", Kind::OneOf(&["day", "week", "month", "year"])),
    optional("interval_count", Kind::Integer),
    optional("usage_type", Kind::OneOf(&["licensed", "metered"])),
    optional("meter", Kind::NotPlayed),
];
const TAX_BEHAVIOR: Kind = Kind::OneOf(&["inclusive", "exclusive", "unspecified"]);
const PRICE: &[Param] = &[
    EXPAND,
    METADATA,
    required("currency", Kind::Currency),
    optional("active", Kind::Boolean),
    optional("product", Kind::Id),
    optional("product_data", Kind::Object(PRODUCT_DATA)),
    optional("unit_amount", Kind::Integer),
    optional("unit_amount_decimal", Kind::Decimal),
    optional("recurring", Kind::Object(RECURRING)),
    optional("nickname", Kind::Text(5000)),
    optional("lookup_key", Kind::Text(200)),
    optional("transfer_lookup_key", Kind::Boolean),
    optional("tax_behavior", TAX_BEHAVIOR),
    optional("billing_scheme", Kind::OneOf(&["per_unit", "tiered"])),
    optional("tiers", Kind::NotPlayed),
    optional("tiers_mode", Kind::NotPlayed),
    optional("transform_quantity", Kind::NotPlayed),
    optional("currency_options", Kind::NotPlayed),
    optional("custom_unit_amount", Kind::NotPlayed),
];
const UPDATE_PRICE: &[Param] = &[
    EXPAND,
    METADATA,
    optional("active", Kind::Boolean),
    optional("nickname", Kind::Text(5000)),
    optional("lookup_key", Kind::Text(200)),
    optional("transfer_lookup_key", Kind::Boolean),
    optional("tax_behavior", TAX_BEHAVIOR),
    optional("currency_options", Kind::NotPlayed),
];
const LIST_PRICES: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("active", Kind::Boolean),
    optional("created", Kind::Range),
    optional("currency", Kind::Currency),
    optional("lookup_keys", Kind::List(&Kind::Id)),
    optional("product", Kind::Id),
    optional("type", Kind::OneOf(&["one_time", "recurring"])),
    optional("recurring", Kind::NotPlayed),
];
/// An inline price of a line.
pub(super) const PRICE_DATA: &[Param] = &[
    required("currency", Kind::Currency),
    optional("product", Kind::Id),
    optional("product_data", Kind::Object(PRODUCT_DATA)),
    optional("unit_amount", Kind::Integer),
    optional("unit_amount_decimal", Kind::Decimal),
    optional("tax_behavior", TAX_BEHAVIOR),
];

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/products", PRODUCT, create_product),
    get("/v1/products", LIST_PRODUCTS, list_products),
    get("/v1/products/{id}", &[EXPAND], retrieve_product),
    post("/v1/products/{id}", UPDATE_PRODUCT, update_product),
    post("/v1/prices", PRICE, create_price),
    get("/v1/prices", LIST_PRICES, list_prices),
    get("/v1/prices/{price}", &[EXPAND], retrieve_price),
    post("/v1/prices/{price}", UPDATE_PRICE, update_price),
];

/// The price per unit that the parameters give: exactly one of two ways.
pub(super) fn unit_amount(params: &Params) -> Result<Decimal, ApiError> {
    match (params.integer("unit_amount"), params.text("unit_amount_decimal")) {
        (Some(_), Some(_)) => Err(ApiError::exclusive("unit_amount", "unit_amount_decimal")),
        (Some(amount), None) => Ok(Decimal::from_integer(amount)),
        (None, Some(text)) => Decimal::parse(text).ok_or_else(|| ApiError::missing("unit_amount_decimal")),
        (None, None) => Err(ApiError::missing("unit_amount")),
    }
}

impl State {
    fn add_product(&mut self, params: &Params) -> Answer {
        let id = params.text("id").map_or_else(|| self.new_id("prod"), str::to_owned);
        if self.products.get(&id).is_some() {
            return Err(ApiError::invalid("Product already exists.")
                .code("resource_already_exists")
                .param("id"));
        }
        let now = self.now();
        let mut product = json!({
            "id": id, "object": "product", "active": true, "created": now, "default_price": null,
            "description": null, "images": [], "livemode": self.livemode, "marketing_features": [], "metadata": {},
            "name": "", "package_dimensions": null, "shippable": null, "statement_descriptor": null,
            "tax_code": null, "unit_label": null, "updated": now, "url": null,
        });
        apply_product(&mut product, params)?;
        self.products.insert(&id, product.clone());
        self.emit("product.created", product.clone(), None);
        Ok(product)
    }

    /// Makes a price, and its product where it comes inline.
    pub(crate) fn add_price(&mut self, params: &Params) -> Answer {
        let unit = unit_amount(params)?;
        let product = match (params.text("product"), params.object("product_data")) {
            (Some(_), Some(_)) => return Err(ApiError::exclusive("product", "product_data")),
            (Some(id), None) => self.product(id)?["id"].clone(),
            (None, Some(data)) => self.add_product(&data)?["id"].clone(),
            (None, None) => return Err(ApiError::missing("product")),
        };
        let id = self.new_id("price");
        let whole = Decimal::from_integer(unit.truncated()) == unit;
        let recurring = params.object("recurring").map(|recurring| recurring_object(&recurring));
        let kind = if recurring.is_some() { "recurring" } else { "one_time" };
        let mut metadata = Map::new();
        merge_metadata(&mut metadata, params, "metadata")?;
        let price = json!({
            "id": id, "object": "price", "active": params.boolean("active").unwrap_or(true),
            "billing_scheme": "per_unit", "created": self.now(), "currency": params.text("currency"),
            "custom_unit_amount": null, "livemode": self.livemode,
            "lookup_key": text_or_null(params.text("lookup_key")), "metadata": metadata,
            "nickname": text_or_null(params.text("nickname")), "product": product, "recurring": recurring,
            "tax_behavior": params.text("tax_behavior").unwrap_or("unspecified"), "tiers_mode": null,
            "transform_quantity": null, "type": kind, "unit_amount": whole.then(|| unit.truncated()),
            "unit_amount_decimal": unit.to_string(),
        });
        self.prices.insert(&id, price.clone());
        self.emit("price.created", price.clone(), None);
        Ok(price)
    }

    fn product(&self, id: &str) -> Result<&Value, ApiError> {
        let product = self.products.get(id).ok_or_else(|| ApiError::no_such("product", id, "product"))?;
        if product["active"] == false {
            let message = format!("The product {id} is marked as inactive.");
            return Err(ApiError::invalid(message).code("product_inactive").param("product"));
        }
        Ok(product)
    }
}

fn recurring_object(params: &Params) -> Value {
    json!({
        "interval": params.text("interval"), "interval_count": params.integer("interval_count").unwrap_or(1),
        "meter": null,
        "usage_type": params.text("usage_type").unwrap_or("licensed"),
    })
}

fn apply_product(product: &mut Value, params: &Params) -> Result<(), ApiError> {
    let mut metadata = product["metadata"].as_object().cloned().unwrap_or_default();
    merge_metadata(&mut metadata, params, "metadata")?;
    product["metadata"] = Value::Object(metadata);
    for name in ["name", "active", "shippable"] {
        if let Some(value) = params.value(name) {
            product[name] = value.clone();
        }
    }
    for name in ["description", "unit_label", "url", "statement_descriptor"] {
        if params.has(name) {
            product[name] = text_or_null(params.text(name));
        }
    }
    Ok(())
}

fn create_product(state: &mut State, asked: &Asked) -> Answer {
    state.add_product(&asked.params)
}

fn update_product(state: &mut State, asked: &Asked) -> Answer {
    let now = state.now();
    let product = state.products.get_mut(asked.id()).ok_or_else(|| no_product(asked.id()))?;
    let before = product.clone();
    apply_product(product, &asked.params)?;
    product["updated"] = json!(now);
    let after = product.clone();
    state.emit("product.updated", after.clone(), Some(previous_attributes(&before, &after)));
    Ok(after)
}

fn no_product(id: &str) -> ApiError {
    ApiError::not_found("product", id, "id")
}

fn retrieve_product(state: &mut State, asked: &Asked) -> Answer {
    state.products.get(asked.id()).cloned().ok_or_else(|| no_product(asked.id()))
}

fn list_products(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let named = params.texts("ids");
    let wanted = |id: &str, product: &Value| {
        params.boolean("active").is_none_or(|active| product["active"] == active)
            && pages::in_range(params, "created", product["created"].as_i64())
            && (named.is_empty() || named.iter().any(|named| named == id))
    };
    let rows = state.products.newest_first().filter(|(id, product)| wanted(id, product));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, params, "/v1/products", "product", |id| state.products.get(id).cloned().unwrap_or_default())
}

fn create_price(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    if params.text("billing_scheme") == Some("tiered") {
        return Err(ApiError::invalid("The sandbox does not play tiered prices.").param("billing_scheme"));
    }
    if let Some(key) = params.text("lookup_key") {
        free_lookup_key(state, key, params.boolean("transfer_lookup_key").unwrap_or_default())?;
    }
    state.add_price(params)
}

fn free_lookup_key(state: &mut State, key: &str, transfer: bool) -> Result<(), ApiError> {
    let holder = state.prices.newest_first().find(|(_, price)| price["lookup_key"] == key);
    let Some(holder) = holder.map(|(id, _)| id.to_owned()) else { return Ok(()) };
    if !transfer {
        let message = format!("A price (`{holder}`) already uses that lookup key.");
        return Err(ApiError::invalid(message).param("lookup_key"));
    }
    if let Some(price) = state.prices.get_mut(&holder) {
        price["lookup_key"] = Value::Null;
    }
    Ok(())
}

fn update_price(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let before = retrieve_price(state, asked)?;
    if let Some(key) = params.text("lookup_key").filter(|key| before["lookup_key"] != *key) {
        free_lookup_key(state, key, params.boolean("transfer_lookup_key").unwrap_or_default())?;
    }
    let mut after = before.clone();
    let mut metadata = after["metadata"].as_object().cloned().unwrap_or_default();
    merge_metadata(&mut metadata, params, "metadata")?;
    after["metadata"] = Value::Object(metadata);
    for name in ["nickname", "lookup_key"] {
        if params.has(name) {
            after[name] = text_or_null(params.text(name));
        }
    }
    for name in ["active", "tax_behavior"] {
        if let Some(value) = params.value(name) {
            after[name] = value.clone();
        }
    }
    state.prices.insert(asked.id(), after.clone());
    state.emit("price.updated", after.clone(), Some(previous_attributes(&before, &after)));
    Ok(after)
}

fn retrieve_price(state: &mut State, asked: &Asked) -> Answer {
    let price = state.prices.get(asked.id()).cloned();
    price.ok_or_else(|| ApiError::not_found("price", asked.id(), "price"))
}

fn list_prices(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let keys = params.texts("lookup_keys");
    let wanted = |price: &Value| {
        params.boolean("active").is_none_or(|active| price["active"] == active)
            && pages::in_range(params, "created", price["created"].as_i64())
            && pages::is(params, "currency", price["currency"].as_str())
            && pages::is(params, "product", price["product"].as_str())
            && pages::is(params, "type", price["type"].as_str())
            && (keys.is_empty() || keys.iter().any(|key| price["lookup_key"] == **key))
    };
    let rows = state.prices.newest_first().filter(|(_, price)| wanted(price));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, params, "/v1/prices", "price", |id| state.prices.get(id).cloned().unwrap_or_default())
}
