//! Account: who the sandbox is, and its balance.

use serde_json::json;

use super::errors::Answer;
use super::params::EXPAND;
use super::router::{Asked, Operation, get};
use super::state::{ACCOUNT, DEFAULT_CURRENCY, State};

pub(super) const OPERATIONS: &[Operation] =
    &[get("/v1/account", &[EXPAND], account), get("/v1/balance", &[EXPAND], balance)];

fn account(_: &mut State, _: &Asked) -> Answer {
    Ok(json!({
        "id": ACCOUNT, "object": "account", "business_profile": null, "charges_enabled": true, "country": "US",
        "default_currency": DEFAULT_CURRENCY, "details_submitted": true, "email": null, "metadata": {},
        "payouts_enabled": true, "type": "standard",
    }))
}

fn balance(state: &mut State, _: &Asked) -> Answer {
    let nothing = json!([{ "amount": 0, "currency": DEFAULT_CURRENCY, "source_types": { "card": 0 } }]);
    Ok(json!({ "object": "balance", "available": nothing, "livemode": state.livemode, "pending": nothing }))
}
