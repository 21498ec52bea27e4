//! Customers: who is invoiced, and the credit that they have.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::errors::{Answer, ApiError};
use super::pages::{self, page};
use super::params::{EXPAND, Kind, METADATA, PAGE, Param, Params, both, optional};
use super::router::{Asked, Operation, delete, get, post};
use super::state::{DEFAULT_CURRENCY, State, merge_metadata, previous_attributes, text_or_null, token};

/// A customer. A deleted one stays, as a stub.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    id: String,
    pub deleted: bool,
    fields: Map<String, Value>,
    /// By currency, in minor units; negative is credit.
    balances: BTreeMap<String, i64>,
}

impl Customer {
    pub(crate) fn render(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        let mut shown = self.fields.clone();
        shown.insert("balance".into(), json!(self.balance(&self.currency())));
        Value::Object(shown)
    }

    /// The one of their first invoice or item, or the account's.
    pub(crate) fn currency(&self) -> String {
        self.text("currency").unwrap_or(DEFAULT_CURRENCY).to_owned()
    }

    pub(crate) fn balance(&self, currency: &str) -> i64 {
        self.balances.get(currency).copied().unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> Value {
        self.fields.get(name).cloned().unwrap_or(Value::Null)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// What their invoices are paid with by default.
    pub(crate) fn default_payment_method(&self) -> Option<&str> {
        self.fields.get("invoice_settings")?.get("default_payment_method")?.as_str()
    }

    /// The next invoice number, used up.
    fn number(&mut self) -> String {
        let sequence = self.fields.get("next_invoice_sequence").and_then(Value::as_i64).unwrap_or(1);
        self.fields.insert("next_invoice_sequence".into(), json!(sequence + 1));
        format!("{}-{sequence:04}", self.text("invoice_prefix").unwrap_or_default())
    }
}

const INVOICE_SETTINGS: &[Param] = &[
    optional("default_payment_method", Kind::Text(5000)),
    optional("footer", Kind::Text(5000)),
    optional("custom_fields", Kind::NotPlayed),
    optional("rendering_options", Kind::NotPlayed),
];
const ADDRESS: &[Param] = &[
    optional("city", Kind::Text(5000)),
    optional("country", Kind::Text(5000)),
    optional("line1", Kind::Text(5000)),
    optional("line2", Kind::Text(5000)),
    optional("postal_code", Kind::Text(5000)),
    optional("state", Kind::Text(5000)),
];
const COMMON: [Param; 19] = [
    EXPAND,
    METADATA,
    optional("address", Kind::Clearable(&Kind::Object(ADDRESS))),
    optional("balance", Kind::Integer),
    optional("description", Kind::Text(5000)),
    optional("email", Kind::Text(512)),
    optional("invoice_prefix", Kind::Id),
    optional("invoice_settings", Kind::Object(INVOICE_SETTINGS)),
    optional("name", Kind::Text(256)),
    optional("next_invoice_sequence", Kind::Integer),
    optional("phone", Kind::Text(20)),
    optional("preferred_locales", Kind::List(&Kind::Id)),
    optional("tax_exempt", Kind::OneOf(&["none", "exempt", "reverse"])),
    optional("shipping", Kind::NotPlayed),
    optional("source", Kind::NotPlayed),
    optional("tax", Kind::NotPlayed),
    optional("cash_balance", Kind::NotPlayed),
    optional("business_name", Kind::Text(150)),
    optional("individual_name", Kind::Text(150)),
];
const CREATE: &[Param] = &both::<22>(
    &COMMON,
    &[
        optional("payment_method", Kind::Id),
        optional("tax_id_data", Kind::NotPlayed),
        optional("test_clock", Kind::NotPlayed),
    ],
);
const UPDATE: &[Param] = &both::<25>(
    &COMMON,
    &[
        optional("bank_account", Kind::NotPlayed),
        optional("card", Kind::NotPlayed),
        optional("default_alipay_account", Kind::NotPlayed),
        optional("default_bank_account", Kind::NotPlayed),
        optional("default_card", Kind::NotPlayed),
        optional("default_source", Kind::NotPlayed),
    ],
);
const LIST: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("created", Kind::Range),
    optional("email", Kind::Id),
    optional("test_clock", Kind::NotPlayed),
];

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/customers", CREATE, create),
    get("/v1/customers", LIST, list),
    get("/v1/customers/{customer}", &[EXPAND], retrieve),
    post("/v1/customers/{customer}", UPDATE, update),
    delete("/v1/customers/{customer}", remove),
];

impl State {
    /// The living customer that the parameter `param` names.
    pub(crate) fn customer(&self, id: &str, param: &str) -> Result<&Customer, ApiError> {
        let customer = self.customers.get(id).filter(|customer| !customer.deleted);
        customer.ok_or_else(|| ApiError::no_such("customer", id, param))
    }

    /// Their first invoice or item says what they are billed in.
    pub(crate) fn settle_currency(&mut self, customer: &str, currency: &str) {
        self.change_customer(customer, |customer| {
            if customer.text("currency").is_none() {
                customer.fields.insert("currency".into(), json!(currency));
            }
        });
    }

    pub(crate) fn set_balance(&mut self, customer: &str, currency: &str, balance: i64) {
        self.change_customer(customer, |customer| {
            customer.balances.insert(currency.to_owned(), balance);
        });
    }

    /// The next number of the customer's invoices.
    pub(crate) fn take_number(&mut self, customer: &str) -> String {
        let mut number = String::new();
        self.change_customer(customer, |customer| number = customer.number());
        number
    }

    /// Changes a customer, and says so if there is a difference.
    fn change_customer(&mut self, id: &str, change: impl FnOnce(&mut Customer)) {
        let Some(customer) = self.customers.get_mut(id) else { return };
        let before = customer.render();
        change(customer);
        let after = customer.render();
        if before != after {
            let previous = previous_attributes(&before, &after);
            self.emit("customer.updated", after, Some(previous));
        }
    }
}

fn create(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let mut customer = blank(state);
    let id = customer.id.clone();
    apply(&mut customer, params)?;
    let settings = params.object("invoice_settings").unwrap_or_default();
    let default = settings.text("default_payment_method").filter(|method| !method.is_empty());
    // Nobody has a payment method before they exist, except for the one that comes with them.
    if let Some(method) = default.filter(|method| params.text("payment_method") != Some(method)) {
        return Err(not_theirs(method, "invoice_settings[default_payment_method]"));
    }
    let method = params.text("payment_method").map(|method| state.usable_method(method)).transpose()?;
    if method.as_ref().is_some_and(|method| !method.object["customer"].is_null()) {
        return Err(ApiError::invalid("The payment method is already attached to another customer."));
    }
    state.customers.insert(&id, customer);
    if let Some(method) = method {
        let attached = state.attach(method, &id)?;
        if let (Some(_), Some(customer)) = (default, state.customers.get_mut(&id)) {
            customer.fields["invoice_settings"]["default_payment_method"] = attached["id"].clone();
        }
    }
    let shown = state.object(&id).unwrap_or_default();
    state.emit("customer.created", shown.clone(), None);
    Ok(shown)
}

/// A customer of whom nothing is known yet.
fn blank(state: &mut State) -> Customer {
    let id = state.new_id("cus");
    let prefix = token(&id, 8).to_ascii_uppercase();
    let fields = json!({
        "id": id, "object": "customer", "address": null, "balance": 0, "created": state.now(), "currency": null,
        "default_source": null, "delinquent": false, "description": null, "discount": null, "email": null,
        "invoice_prefix": prefix,
        "invoice_settings": {
            "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null
        },
        "livemode": state.livemode, "metadata": {}, "name": null, "next_invoice_sequence": 1, "phone": null,
        "preferred_locales": [], "shipping": null, "tax_exempt": "none", "test_clock": null,
    });
    let fields = fields.as_object().cloned().unwrap_or_default();
    Customer { id, deleted: false, fields, balances: BTreeMap::new() }
}

/// Writes the parameters that both create and update take.
fn apply(customer: &mut Customer, params: &Params) -> Result<(), ApiError> {
    check(params)?;
    let mut metadata = customer.field("metadata").as_object().cloned().unwrap_or_default();
    merge_metadata(&mut metadata, params, "metadata")?;
    customer.fields.insert("metadata".into(), Value::Object(metadata));
    for name in ["description", "email", "name", "phone"] {
        if params.has(name) {
            customer.fields.insert(name.into(), text_or_null(params.text(name)));
        }
    }
    for name in ["business_name", "individual_name"] {
        match params.text(name) {
            // Never null: shown only where it is set.
            Some("") => drop(customer.fields.remove(name)),
            Some(text) => drop(customer.fields.insert(name.into(), json!(text))),
            None => {}
        }
    }
    for name in ["invoice_prefix", "next_invoice_sequence", "preferred_locales", "tax_exempt"] {
        if let Some(value) = params.value(name) {
            customer.fields.insert(name.into(), value.clone());
        }
    }
    if params.has("address") {
        customer.fields.insert("address".into(), address(params));
    }
    if let Some(balance) = params.integer("balance") {
        customer.balances.insert(customer.currency(), balance);
    }
    if let Some(footer) = params.object("invoice_settings").filter(|settings| settings.has("footer")) {
        customer.fields["invoice_settings"]["footer"] = text_or_null(footer.text("footer"));
    }
    Ok(())
}

fn check(params: &Params) -> Result<(), ApiError> {
    if let Some(email) = params.text("email").filter(|email| !email.is_empty())
        && (!email.contains('@') || email.contains(char::is_whitespace))
    {
        return Err(ApiError::invalid(format!("Invalid email address: {email}"))
            .code("email_invalid")
            .param("email"));
    }
    if let Some(prefix) = params.text("invoice_prefix") {
        let allowed = |character: char| character.is_ascii_uppercase() || character.is_ascii_digit();
        if !(1..=12).contains(&prefix.len()) || !prefix.chars().all(allowed) {
            let message = "An invoice prefix has 1 to 12 uppercase letters or digits.";
            return Err(ApiError::invalid(message).param("invoice_prefix"));
        }
    }
    match params.integer("next_invoice_sequence") {
        Some(sequence) if sequence < 1 => {
            Err(ApiError::invalid("This value must be greater than or equal to 1.")
                .code("parameter_invalid_integer")
                .param("next_invoice_sequence"))
        }
        _ => Ok(()),
    }
}

fn address(params: &Params) -> Value {
    let Some(given) = params.object("address") else { return Value::Null };
    let part = |name: &str| text_or_null(given.text(name));
    json!({
        "city": part("city"), "country": part("country"), "line1": part("line1"), "line2": part("line2"),
        "postal_code": part("postal_code"), "state": part("state"),
    })
}

/// A payment method that the customer does not have.
pub(super) fn not_theirs(method: &str, param: &str) -> ApiError {
    let message = format!(
        "The customer does not have a payment method with the ID {method}. \
         The payment method must be attached to the customer."
    );
    ApiError::invalid(message).code("resource_missing").param(param)
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let wanted = |customer: &Customer| {
        !customer.deleted
            && pages::is(params, "email", customer.text("email"))
            && pages::in_range(params, "created", customer.field("created").as_i64())
    };
    let rows = state.customers.newest_first().filter(|(_, customer)| wanted(customer));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, params, "/v1/customers", "customer", |id| state.object(id).unwrap_or_default())
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    let customer = state.customers.get(asked.id());
    Ok(customer.ok_or_else(|| ApiError::not_found("customer", asked.id(), "id"))?.render())
}

fn update(state: &mut State, asked: &Asked) -> Answer {
    let (id, params) = (asked.id(), &asked.params);
    let customer = state.customer(id, "id").map_err(|error| error.status(404))?;
    let mut changed = customer.clone();
    apply(&mut changed, params)?;
    let settings = params.object("invoice_settings").unwrap_or_default();
    if let Some(method) = settings.text("default_payment_method") {
        let theirs = state.method_of(method, id).is_some();
        if !method.is_empty() && !theirs {
            return Err(not_theirs(method, "invoice_settings[default_payment_method]"));
        }
        changed.fields["invoice_settings"]["default_payment_method"] = text_or_null(Some(method));
    }
    state.change_customer(id, |customer| *customer = changed);
    Ok(state.object(id).unwrap_or_default())
}

fn remove(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.id();
    let last = state.customer(id, "id").map_err(|error| error.status(404))?.render();
    if let Some(customer) = state.customers.get_mut(id) {
        customer.deleted = true;
    }
    state.emit("customer.deleted", last, None);
    Ok(json!({ "id": id, "object": "customer", "deleted": true }))
}
