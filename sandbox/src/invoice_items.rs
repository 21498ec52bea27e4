//! Invoice items: what is put on a draft, or waits for one.

use serde_json::{Map, Value, json};

use super::currencies::has_three_decimals;
use super::decimal::Decimal;
use super::errors::{Answer, ApiError};
use super::pages::{self, page};
use super::params::{EXPAND, Kind, METADATA, PAGE, Param, Params, both, optional, required};
use super::products::{PRICE_DATA, unit_amount};
use super::router::{Asked, Operation, delete, get, post};
use super::state::{State, merge_metadata, text_or_null, token};

/// No single item is larger than 12 digits.
const LARGEST_AMOUNT: i64 = 999_999_999_999;

/// One invoice item (`ii_`), and the line (`il_`) that shows it while it is on an invoice.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub id: String,
    pub line_id: Option<String>,
    pub invoice: Option<String>,
    pub customer: String,
    pub currency: String,
    pub amount: i64,
    /// The price of one, and how many: their product is the amount.
    unit: Decimal,
    quantity: Decimal,
    /// The price and product that it names; where it names none, Stripe makes them up.
    price: Option<(String, String)>,
    description: Value,
    discountable: bool,
    metadata: Map<String, Value>,
    period: (i64, i64),
    date: i64,
}

impl Item {
    pub(crate) fn render(&self, state: &State) -> Value {
        json!({
            "id": self.id, "object": "invoiceitem", "amount": self.amount, "currency": self.currency,
            "customer": self.customer, "customer_account": null, "date": self.date,
            "description": self.description, "discountable": self.discountable, "discounts": [],
            "frozen_fields": [], "invoice": self.invoice, "livemode": state.livemode, "metadata": self.metadata,
            "net_amount": self.amount, "parent": null, "period": self.period(), "pricing": self.pricing(),
            "proration": false, "quantity": self.quantity.truncated(),
            "quantity_decimal": self.quantity.to_string(), "tax_rates": [], "test_clock": null,
        })
    }

    /// The line that an invoice shows for it.
    pub(crate) fn render_line(&self, livemode: bool) -> Value {
        json!({
            "id": self.line_id, "object": "line_item", "amount": self.amount, "currency": self.currency,
            "description": self.description, "discount_amounts": [], "discountable": self.discountable,
            "discounts": [], "invoice": self.invoice, "livemode": livemode, "metadata": self.metadata,
            "parent": {
                "type": "invoice_item_details",
                "invoice_item_details": {
                    "invoice_item": self.id, "proration": false,
                    "proration_details": { "credited_items": null }, "subscription": null
                },
                "subscription_item_details": null,
            },
            "period": self.period(), "pretax_credit_amounts": [], "pricing": self.pricing(),
            "quantity": self.quantity.truncated(), "quantity_decimal": self.quantity.to_string(),
            "subscription": null, "subtotal": self.amount, "taxes": [],
        })
    }

    fn period(&self) -> Value {
        json!({ "start": self.period.0, "end": self.period.1 })
    }

    fn pricing(&self) -> Value {
        let made_up = || (format!("price_1{}", token(&self.id, 23)), format!("prod_{}", token(&self.id, 14)));
        let (price, product) = self.price.clone().unwrap_or_else(made_up);
        json!({
            "type": "price_details", "price_details": { "price": price, "product": product },
            "unit_amount_decimal": self.unit.to_string(),
        })
    }

    fn reprice(&mut self) -> Result<(), ApiError> {
        let amount = self.unit.times(self.quantity).filter(|amount| amount.abs() <= LARGEST_AMOUNT);
        self.amount = amount.ok_or_else(too_large)?;
        if has_three_decimals(&self.currency) && self.amount % 10 != 0 {
            let message =
                format!("Invalid amount: the last digit of an amount in {} must be 0.", self.currency);
            return Err(ApiError::invalid(message).param("amount"));
        }
        Ok(())
    }
}

fn too_large() -> ApiError {
    ApiError::invalid("Amount must be no more than 12 digits.").code("amount_too_large").param("amount")
}

const PERIOD: &[Param] = &[required("start", Kind::Time), required("end", Kind::Time)];
const PRICING: &[Param] = &[optional("price", Kind::Id)];
/// What lines and items have in common.
pub(super) const FIELDS: [Param; 11] = [
    METADATA,
    optional("amount", Kind::Integer),
    optional("description", Kind::Text(5000)),
    optional("discountable", Kind::Boolean),
    optional("discounts", Kind::Clearable(&Kind::NotPlayed)),
    optional("period", Kind::Object(PERIOD)),
    optional("price_data", Kind::Object(PRICE_DATA)),
    optional("pricing", Kind::Object(PRICING)),
    optional("quantity", Kind::Integer),
    optional("quantity_decimal", Kind::Decimal),
    optional("tax_rates", Kind::Clearable(&Kind::NotPlayed)),
];
const CREATE: &[Param] = &both::<20>(
    &FIELDS,
    &[
        EXPAND,
        required("customer", Kind::Id),
        optional("currency", Kind::Currency),
        optional("customer_account", Kind::NotPlayed),
        optional("invoice", Kind::Id),
        optional("subscription", Kind::NotPlayed),
        optional("tax_behavior", Kind::NotPlayed),
        optional("tax_code", Kind::Clearable(&Kind::NotPlayed)),
        optional("unit_amount_decimal", Kind::Decimal),
    ],
);
const UPDATE: &[Param] = &both::<15>(
    &FIELDS,
    &[
        EXPAND,
        optional("tax_behavior", Kind::NotPlayed),
        optional("tax_code", Kind::Clearable(&Kind::NotPlayed)),
        optional("unit_amount_decimal", Kind::Decimal),
    ],
);
const LIST: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("created", Kind::Range),
    optional("customer", Kind::Id),
    optional("customer_account", Kind::NotPlayed),
    optional("invoice", Kind::Id),
    optional("pending", Kind::Boolean),
];

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/invoiceitems", CREATE, create),
    get("/v1/invoiceitems", LIST, list),
    get("/v1/invoiceitems/{invoiceitem}", &[EXPAND], retrieve),
    post("/v1/invoiceitems/{invoiceitem}", UPDATE, update),
    delete("/v1/invoiceitems/{invoiceitem}", remove),
];

/// The one way in which the parameters say what it costs, if they do.
fn pricing_given(params: &Params) -> Result<Option<&'static str>, ApiError> {
    let ways = ["amount", "price_data", "pricing", "unit_amount_decimal"];
    let mut given = ways.into_iter().filter(|way| params.has(way));
    match (given.next(), given.next()) {
        (Some(one), Some(other)) => Err(ApiError::exclusive(one, other)),
        (one, _) => Ok(one),
    }
}

fn quantity_given(params: &Params) -> Result<Option<Decimal>, ApiError> {
    let quantity = match (params.integer("quantity"), params.text("quantity_decimal")) {
        (Some(_), Some(_)) => return Err(ApiError::exclusive("quantity", "quantity_decimal")),
        (Some(quantity), None) => Some(Decimal::from_integer(quantity)),
        (None, text) => text.and_then(Decimal::parse),
    };
    match quantity {
        Some(quantity) if quantity.is_negative() => {
            let message = "Invalid integer: this value must be greater than or equal to 0.";
            Err(ApiError::invalid(message).code("parameter_invalid_integer").param("quantity"))
        }
        quantity => Ok(quantity),
    }
}

impl State {
    /// A new item for `customer` in `currency`, not stored yet.
    pub(crate) fn new_item(
        &mut self,
        customer: &str,
        currency: &str,
        params: &Params,
    ) -> Result<Item, ApiError> {
        let now = self.now();
        let mut item = Item {
            id: self.new_id("ii"),
            line_id: None,
            invoice: None,
            customer: customer.to_owned(),
            currency: currency.to_owned(),
            amount: 0,
            unit: Decimal::from_integer(0),
            quantity: Decimal::from_integer(1),
            price: None,
            description: Value::Null,
            discountable: true,
            metadata: Map::new(),
            period: (now, now),
            date: now,
        };
        if pricing_given(params)?.is_none() {
            return Err(ApiError::missing("amount"));
        }
        self.write_item(&mut item, params)?;
        // Credits are not discounted unless somebody says so.
        item.discountable = params.boolean("discountable").unwrap_or(item.amount >= 0);
        Ok(item)
    }

    /// Writes the parameters of a line or an item.
    pub(crate) fn write_item(&mut self, item: &mut Item, params: &Params) -> Result<(), ApiError> {
        let (way, quantity) = (pricing_given(params)?, quantity_given(params)?);
        if let (Some("amount"), Some(_)) = (way, quantity) {
            return Err(ApiError::exclusive("amount", "quantity"));
        }
        if let Some(way) = way {
            self.price_item(item, params, way)?;
        }
        item.quantity = quantity.unwrap_or(item.quantity);
        if way.is_some() || quantity.is_some() {
            item.reprice()?;
        }
        merge_metadata(&mut item.metadata, params, "metadata")?;
        if params.has("description") {
            item.description = text_or_null(params.text("description"));
        }
        item.discountable = params.boolean("discountable").unwrap_or(item.discountable);
        if let Some(period) = params.object("period") {
            item.period = period_of(&period)?;
        }
        Ok(())
    }

    fn price_item(&mut self, item: &mut Item, params: &Params, way: &str) -> Result<(), ApiError> {
        let inline = params.object("price_data").unwrap_or_default();
        let named = params.object("pricing").unwrap_or_default();
        let price = match way {
            "amount" => {
                item.unit = Decimal::from_integer(params.integer("amount").unwrap_or_default());
                item.quantity = Decimal::from_integer(1);
                item.price = None;
                return Ok(());
            }
            "unit_amount_decimal" => {
                item.unit = unit_amount(params)?;
                item.price = None;
                return Ok(());
            }
            "price_data" => {
                check_currency(item, inline.text("currency"))?;
                self.add_price(&inline)?
            }
            _ => self.one_time_price(named.required("price")?)?,
        };
        check_currency(item, price["currency"].as_str())?;
        let text = |name: &str| price[name].as_str().unwrap_or_default().to_owned();
        item.unit = Decimal::parse(&text("unit_amount_decimal")).ok_or_else(too_large)?;
        item.price = Some((text("id"), text("product")));
        Ok(())
    }

    fn one_time_price(&self, id: &str) -> Answer {
        let price = self.prices.get(id).ok_or_else(|| ApiError::no_such("price", id, "pricing[price]"))?;
        if price["type"] == "recurring" {
            let message =
                "The price specified is recurring: this field only accepts prices with `type=one_time`.";
            return Err(ApiError::invalid(message).param("pricing[price]"));
        }
        if price["active"] == false {
            return Err(ApiError::invalid("The price specified is inactive.").param("pricing[price]"));
        }
        Ok(price.clone())
    }
}

fn check_currency(item: &Item, currency: Option<&str>) -> Result<(), ApiError> {
    match currency {
        Some(currency) if currency != item.currency => {
            let expected = &item.currency;
            let message =
                format!("The currency of the price ({currency}) is not the invoice's ({expected}).");
            Err(ApiError::invalid(message).param("currency"))
        }
        _ => Ok(()),
    }
}

fn period_of(period: &Params) -> Result<(i64, i64), ApiError> {
    let (start, end) =
        (period.integer("start").unwrap_or_default(), period.integer("end").unwrap_or_default());
    if end < start {
        let message = "`period[end]` must be greater than or equal to `period[start]`.";
        return Err(ApiError::invalid(message).param("period[end]"));
    }
    Ok((start, end))
}

fn create(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let customer = params.required("customer")?.to_owned();
    let theirs = state.customer(&customer, "customer")?.currency();
    let mut currency = params.text("currency").map_or(theirs, str::to_owned);
    if let Some(invoice) = params.text("invoice") {
        let invoice = state.draft_for_item(invoice, &customer)?;
        if params.text("currency").is_some_and(|given| given != invoice.currency) {
            let message =
                format!("The invoice is in {}: items in {currency} cannot be added.", invoice.currency);
            return Err(ApiError::invalid(message).param("currency"));
        }
        currency.clone_from(&invoice.currency);
    } else if params.text("currency").is_none()
        && let Some(inline) = params.object("price_data")
    {
        currency = inline.text("currency").map_or(currency, str::to_owned);
    }
    let item = state.new_item(&customer, &currency, params)?;
    let id = item.id.clone();
    state.settle_currency(&customer, &currency);
    match params.text("invoice").map(str::to_owned) {
        Some(invoice) => state.change_invoice(&invoice, |state| state.put_on(&invoice, item)),
        None => state.store_new_item(item),
    }
    Ok(state.object(&id).unwrap_or_default())
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Item, ApiError> {
    state.items.get(id).ok_or_else(|| ApiError::not_found("invoiceitem", id, "invoiceitem"))
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    Ok(find(state, asked.id())?.render(state))
}

fn update(state: &mut State, asked: &Asked) -> Answer {
    let mut item = find(state, asked.id())?.clone();
    check_editable(state, &item, "This invoice item's invoice is no longer editable.")?;
    state.write_item(&mut item, &asked.params)?;
    match item.invoice.clone() {
        Some(invoice) => state.change_invoice(&invoice, |state| state.items.insert(asked.id(), item)),
        None => state.items.insert(asked.id(), item),
    }
    retrieve(state, asked)
}

fn check_editable(state: &State, item: &Item, message: &str) -> Result<(), ApiError> {
    let invoice = item.invoice.as_ref().and_then(|invoice| state.invoices.get(invoice));
    match invoice {
        Some(invoice) if !invoice.is_draft() => Err(ApiError::not_editable(message)),
        _ => Ok(()),
    }
}

fn remove(state: &mut State, asked: &Asked) -> Answer {
    let item = find(state, asked.id())?.clone();
    let message = "Can't delete an invoice item that is attached to an invoice that is no longer editable";
    // Recorded without a code, unlike other edits of finalized invoices.
    check_editable(state, &item, message).map_err(|_| ApiError::invalid(message))?;
    match item.invoice.clone() {
        Some(invoice) => state.change_invoice(&invoice, |state| state.delete_item(asked.id())),
        None => state.delete_item(asked.id()),
    }
    Ok(json!({ "id": asked.id(), "object": "invoiceitem", "deleted": true }))
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let wanted = |item: &Item| {
        pages::is(params, "customer", Some(&item.customer))
            && pages::is(params, "invoice", item.invoice.as_deref())
            && pages::in_range(params, "created", Some(item.date))
            && params.boolean("pending").is_none_or(|pending| pending == item.invoice.is_none())
    };
    let rows = state.items.newest_first().filter(|(_, item)| wanted(item));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, params, "/v1/invoiceitems", "invoiceitem", |id| state.object(id).unwrap_or_default())
}
