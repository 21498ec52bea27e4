//! Meddle: what somebody else does to the account around a request, as in Stripe's dashboard.

use serde_json::Value;

use super::router::{self, Asked};
use super::state::State;
use super::{form, params};

impl State {
    /// Deletes what the request is about: the object in its path, or else the customer that it names.
    pub(crate) fn delete_first(&mut self, asked: &Asked) {
        let named = Some(asked.id()).filter(|id| !id.is_empty()).or_else(|| asked.params.text("customer"));
        if let Some(path) = named.and_then(path_of) {
            self.somebody("DELETE", &path, "");
        }
    }

    /// Adds an object to a list of which one page has just been answered.
    pub(crate) fn grow_list(&mut self, template: &str, asked: &Asked, page: &Value) {
        let customer = page["data"][0]["customer"].as_str().unwrap_or_default();
        let item = "amount=1&description=Passing+by";
        match template {
            "/v1/invoices" => self.somebody("POST", template, &format!("customer={customer}")),
            "/v1/invoiceitems" => self.somebody("POST", template, &format!("customer={customer}&{item}")),
            "/v1/invoices/{invoice}/lines" => {
                let customer = self.invoices.get(asked.id()).map(|invoice| invoice.customer.clone());
                let customer = customer.unwrap_or_default();
                let form = format!("customer={customer}&invoice={}&{item}", asked.id());
                self.somebody("POST", "/v1/invoiceitems", &form);
            }
            _ => self.somebody("POST", "/v1/customers", "name=Passing+by"),
        }
    }

    /// Takes the last object of a page away, where there is another page: its cursor names nothing then.
    pub(crate) fn shrink_list(&mut self, asked: &Asked, page: &Value) {
        let last = page["data"].as_array().and_then(|data| data.last()?.get("id")?.as_str());
        let Some(id) = last.filter(|_| page["has_more"] == true) else { return };
        if id.starts_with("il_") {
            let form = format!("lines[0][id]={id}&lines[0][behavior]=delete");
            self.somebody("POST", &format!("/v1/invoices/{}/remove_lines", asked.id()), &form);
        } else if let Some(path) = path_of(id) {
            self.somebody("DELETE", &path, "");
        } else {
            self.events.remove(id);
        }
    }

    /// One request of somebody else's. What Stripe refuses them changes nothing.
    fn somebody(&mut self, method: &str, path: &str, body: &str) {
        let Some((operation, path)) = router::find(method, path) else { return };
        let checked = form::decode(body).and_then(|form| params::check(form, operation.params));
        let Ok(params) = checked else { return };
        let ours = (self.request_id.take(), self.idempotency_key.take());
        let _ = (operation.run)(self, &Asked { path, params });
        (self.request_id, self.idempotency_key) = ours;
    }
}

/// Where an object that can be deleted is deleted.
fn path_of(id: &str) -> Option<String> {
    let family = match id.split_once('_')?.0 {
        "cus" => "customers",
        "in" => "invoices",
        "ii" => "invoiceitems",
        _ => return None,
    };
    Some(format!("/v1/{family}/{id}"))
}
