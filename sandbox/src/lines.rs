//! Lines: the lines of an invoice - listed, and added, changed and removed in bulk on drafts.

use serde_json::{Value, json};

use super::errors::{Answer, ApiError};
use super::invoice_items::{FIELDS, Item};
use super::pages::page;
use super::params::{EXPAND, Kind, PAGE, Param, Params, both, optional, required};
use super::router::{Asked, Operation, get, post};
use super::state::{State, merge_metadata};

const TAX_AMOUNTS: Param = optional("tax_amounts", Kind::Clearable(&Kind::NotPlayed));
const ADDED: &[Param] = &both::<13>(&FIELDS, &[TAX_AMOUNTS, optional("invoice_item", Kind::Id)]);
const UPDATED: &[Param] = &both::<13>(&FIELDS, &[TAX_AMOUNTS, required("id", Kind::Id)]);
const REMOVED: &[Param] =
    &[required("id", Kind::Id), required("behavior", Kind::OneOf(&["delete", "unassign"]))];
const INVOICE_METADATA: Param = optional("invoice_metadata", Kind::Metadata);
const ADD: &[Param] = &[EXPAND, INVOICE_METADATA, required("lines", Kind::List(&Kind::Object(ADDED)))];
const UPDATE: &[Param] = &[EXPAND, INVOICE_METADATA, required("lines", Kind::List(&Kind::Object(UPDATED)))];
const REMOVE: &[Param] = &[EXPAND, INVOICE_METADATA, required("lines", Kind::List(&Kind::Object(REMOVED)))];
const UPDATE_ONE: &[Param] = &both::<13>(&FIELDS, &[TAX_AMOUNTS, EXPAND]);

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/invoices/{invoice}/add_lines", ADD, add),
    post("/v1/invoices/{invoice}/update_lines", UPDATE, update),
    post("/v1/invoices/{invoice}/remove_lines", REMOVE, remove),
    get("/v1/invoices/{invoice}/lines", &PAGE, list),
    post("/v1/invoices/{invoice}/lines/{line_item_id}", UPDATE_ONE, update_one),
];

impl State {
    /// Puts a new item at the end of a draft.
    pub(crate) fn put_on(&mut self, invoice: &str, mut item: Item) {
        item.line_id = Some(self.new_id("il"));
        item.invoice = Some(invoice.to_owned());
        if let Some(invoice) = self.invoices.get_mut(invoice) {
            invoice.lines.push(item.id.clone());
        }
        self.store_new_item(item);
    }

    /// Stores an item, and says so if it is new.
    pub(crate) fn store_new_item(&mut self, item: Item) {
        let known = self.items.get(&item.id).is_some();
        let id = item.id.clone();
        self.items.insert(&id, item);
        if !known && let Some(object) = self.object(&id) {
            self.emit("invoiceitem.created", object, None);
        }
    }

    /// Takes an item off its draft; it is pending from then on, and waits for the next invoice.
    pub(crate) fn take_off(&mut self, item_id: &str) {
        let Some(item) = self.items.get_mut(item_id) else { return };
        item.line_id = None;
        let Some(invoice) = item.invoice.take() else { return };
        if let Some(invoice) = self.invoices.get_mut(&invoice) {
            invoice.lines.retain(|known| known != item_id);
        }
    }

    /// Deletes an item, and its line.
    pub(crate) fn delete_item(&mut self, item_id: &str) {
        let Some(object) = self.object(item_id) else { return };
        self.take_off(item_id);
        self.items.remove(item_id);
        self.emit("invoiceitem.deleted", object, None);
    }

    /// The item behind the line `il_` of `invoice`.
    fn item_of_line(&self, invoice: &str, line: &str) -> Option<&Item> {
        let lines = &self.invoices.get(invoice)?.lines;
        let mut items = lines.iter().filter_map(|id| self.items.get(id));
        items.find(|item| item.line_id.as_deref() == Some(line))
    }

    fn check_bulk(&self, asked: &Asked) -> Result<Vec<Params>, ApiError> {
        self.editable_draft(asked.id(), "invoice")?;
        let lines = asked.params.objects("lines");
        if lines.len() > self.bulk_line_cap {
            let message =
                format!("You can update a maximum of {} line items in one API call.", self.bulk_line_cap);
            return Err(ApiError::invalid(message).param("lines"));
        }
        Ok(lines)
    }

    /// Writes `invoice_metadata`, then does `work`: all of it is one change of the invoice.
    fn change_lines(&mut self, asked: &Asked, work: impl FnOnce(&mut State)) -> Answer {
        let id = asked.id();
        let mut metadata = self.invoices.get(id).map(|invoice| invoice.metadata.clone()).unwrap_or_default();
        merge_metadata(&mut metadata, &asked.params, "invoice_metadata")?;
        self.change_invoice(id, |state| {
            work(state);
            if let Some(invoice) = state.invoices.get_mut(id) {
                invoice.metadata = metadata;
            }
        });
        Ok(self.object(id).unwrap_or_default())
    }

    /// The pending item that `add_lines` puts on a draft, changed as asked.
    fn pending_item(
        &mut self,
        id: &str,
        asked: &Asked,
        line: &Params,
        param: &str,
    ) -> Result<Item, ApiError> {
        let item = self.items.get(id).cloned().ok_or_else(|| ApiError::no_such("invoiceitem", id, param))?;
        let draft = self.editable_draft(asked.id(), "invoice")?;
        if item.invoice.is_some() {
            return Err(ApiError::invalid("The invoice item is already attached to an invoice.").param(param));
        }
        if item.customer != draft.customer || item.currency != draft.currency {
            let message = "The invoice item's customer and currency have to be those of the invoice.";
            return Err(ApiError::invalid(message).param(param));
        }
        let mut changed = item;
        self.write_item(&mut changed, line)?;
        Ok(changed)
    }
}

fn add(state: &mut State, asked: &Asked) -> Answer {
    let lines = state.check_bulk(asked)?;
    let draft = state.editable_draft(asked.id(), "invoice")?;
    let (customer, currency, count) = (draft.customer.clone(), draft.currency.clone(), draft.lines.len());
    if count + lines.len() > state.items_cap {
        return Err(too_many(state.items_cap));
    }
    let mut items: Vec<Item> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let item = match line.text("invoice_item") {
            Some(id) if items.iter().any(|item| item.id == id) => {
                return Err(ApiError::invalid("The invoice item is named twice.").param("lines"));
            }
            Some(id) => state.pending_item(id, asked, line, &format!("lines[{index}][invoice_item]"))?,
            None => {
                state.new_item(&customer, &currency, line).map_err(|error| error.inside("lines", index))?
            }
        };
        items.push(item);
    }
    state.change_lines(asked, |state| items.into_iter().for_each(|item| state.put_on(asked.id(), item)))
}

/// An invoice cannot have more items.
pub(super) fn too_many(cap: usize) -> ApiError {
    ApiError::invalid(format!("An invoice can have at most {cap} invoice items.")).param("lines")
}

fn no_such_line(id: &str, param: &str) -> ApiError {
    ApiError::no_such("line item", id, param)
}

fn update(state: &mut State, asked: &Asked) -> Answer {
    let lines = state.check_bulk(asked)?;
    let mut items: Vec<Item> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let (id, param) = (line.required("id")?, format!("lines[{index}][id]"));
        let item = state.item_of_line(asked.id(), id).ok_or_else(|| no_such_line(id, &param))?;
        if items.iter().any(|known| known.id == item.id) {
            return Err(ApiError::invalid("The line item is named twice.").param(param));
        }
        let mut item = item.clone();
        state.write_item(&mut item, line).map_err(|error| error.inside("lines", index))?;
        items.push(item);
    }
    state.change_lines(asked, |state| items.into_iter().for_each(|item| state.store_new_item(item)))
}

fn remove(state: &mut State, asked: &Asked) -> Answer {
    let lines = state.check_bulk(asked)?;
    let mut removed: Vec<(String, bool)> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let (id, param) = (line.required("id")?, format!("lines[{index}][id]"));
        let item = state.item_of_line(asked.id(), id).ok_or_else(|| no_such_line(id, &param))?;
        if removed.iter().any(|(known, _)| *known == item.id) {
            return Err(ApiError::invalid("The line item is named twice.").param(param));
        }
        removed.push((item.id.clone(), line.text("behavior") == Some("delete")));
    }
    state.change_lines(asked, |state| {
        for (item, delete) in &removed {
            if *delete { state.delete_item(item) } else { state.take_off(item) }
        }
    })
}

fn update_one(state: &mut State, asked: &Asked) -> Answer {
    let (invoice, line) = (asked.id(), asked.nested_id());
    state.editable_draft(invoice, "invoice")?;
    let item = state.item_of_line(invoice, line);
    let mut item = item.cloned().ok_or_else(|| no_such_line(line, "line_item_id").status(404))?;
    state.write_item(&mut item, &asked.params)?;
    let shown = item.render_line(state.livemode);
    state.change_invoice(invoice, |state| state.store_new_item(item));
    Ok(shown)
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let invoice = state.invoices.get(asked.id());
    let invoice = invoice.ok_or_else(|| ApiError::not_found("invoice", asked.id(), "invoice"))?;
    let items: Vec<&Item> = invoice.lines.iter().filter_map(|id| state.items.get(id)).collect();
    let ids: Vec<&str> = items.iter().filter_map(|item| item.line_id.as_deref()).collect();
    let url = format!("/v1/invoices/{}/lines", asked.id());
    let render = |line: &str| {
        let item = items.iter().find(|item| item.line_id.as_deref() == Some(line));
        item.map_or(Value::Null, |item| item.render_line(state.livemode))
    };
    let mut list = page(&ids, &asked.params, &url, "line item", render)?;
    list["total_count"] = json!(ids.len());
    Ok(list)
}
