//! Humans: what people do in Stripe's dashboard, and what an operator does about it.

use super::gates;
use super::story::Story;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::{self, CustomerChange};
use opentab_sandbox::CardOutcome;

impl Story<'_> {
    /// The customer's draft at Stripe.
    pub(crate) fn draft(&self, customer: usize) -> Option<String> {
        let stripe_id = self.stripe_customer(customer)?;
        let drafts = self.world.stripe("GET", &format!("/invoices?customer={stripe_id}&status=draft"), "");
        let ours =
            drafts["data"].as_array()?.iter().find(|draft| draft["metadata"]["opentab_id"].is_string());
        ours.and_then(|draft| draft["id"].as_str()).map(str::to_owned)
    }

    /// The customer at Stripe, as the service knows it.
    pub(crate) fn stripe_customer(&self, customer: usize) -> Option<String> {
        let id = self.company.customers[customer].id.clone();
        let store = self.world.engine.store.clone();
        let found = self.world.aside(async move { store.customer(&id).await }).ok().flatten();
        found.and_then(|customer| customer.stripe_customer_id)
    }

    fn our_lines(&self, invoice: &str) -> Vec<(String, String, i64)> {
        let lines = self.world.stripe_list(&format!("/invoices/{invoice}/lines"));
        let ours = lines.iter().filter_map(|line| {
            let key = line["metadata"]["opentab_item"].as_str()?;
            Some((line["id"].as_str()?.to_owned(), key.to_owned(), line["amount"].as_i64()?))
        });
        ours.collect()
    }

    fn did(&mut self, what: &'static str, invoice: Option<&str>) {
        *self.company.human_acts.entry(what).or_default() += 1;
        self.company.touched.extend(invoice.map(str::to_owned));
        gates::note(|| format!("a human: {what} {}", invoice.unwrap_or("")));
    }

    /// Changes one of our lines on the draft.
    pub(crate) fn edit_a_line(&mut self, customer: usize, which: usize, amount: i64) {
        let Some(draft) = self.draft(customer) else { return };
        let lines = self.our_lines(&draft);
        let Some((line, key, _)) = lines.get(which % lines.len().max(1)) else { return };
        let body = format!("lines[0][id]={line}&lines[0][amount]={amount}");
        self.world.stripe("POST", &format!("/invoices/{draft}/update_lines"), &body);
        self.company.edited.insert((draft.clone(), key.clone()));
        self.did("edits a line", Some(&draft));
    }

    /// Changes something about the draft that is none of our business.
    pub(crate) fn describe_the_draft(&mut self, customer: usize) {
        let Some(draft) = self.draft(customer) else { return };
        let body = format!("description=looked+at+{}", self.world.now().timestamp());
        self.world.stripe("POST", &format!("/invoices/{draft}"), &body);
        self.did("describes the draft", Some(&draft));
    }

    /// Removes one of our lines from the draft; answers its item key.
    pub(crate) fn remove_a_line(&mut self, customer: usize, which: usize) -> Option<String> {
        let draft = self.draft(customer)?;
        let lines = self.our_lines(&draft);
        let (line, key, _) = lines.get(which % lines.len().max(1))?;
        let body = format!("lines[0][id]={line}&lines[0][behavior]=delete");
        self.world.stripe("POST", &format!("/invoices/{draft}/remove_lines"), &body);
        self.company.edited.insert((draft.clone(), key.clone()));
        self.did("removes a line", Some(&draft));
        Some(key.clone())
    }

    /// Adds a line of their own to the draft.
    pub(crate) fn add_a_foreign_line(&mut self, customer: usize, amount: i64) {
        let Some(draft) = self.draft(customer) else { return };
        let body = format!("lines[0][amount]={amount}&lines[0][description]=by+hand");
        self.world.stripe("POST", &format!("/invoices/{draft}/add_lines"), &body);
        self.did("adds a line", Some(&draft));
    }

    pub(crate) fn finalize_by_hand(&mut self, customer: usize) {
        let Some(draft) = self.draft(customer) else { return };
        self.world.stripe("POST", &format!("/invoices/{draft}/finalize"), "auto_advance=false");
        self.did("finalizes", Some(&draft));
    }

    pub(crate) fn delete_the_draft(&mut self, customer: usize) {
        let Some(draft) = self.draft(customer) else { return };
        self.world.stripe("DELETE", &format!("/invoices/{draft}"), "");
        self.company.deleted.insert(draft.clone());
        self.did("deletes the draft", Some(&draft));
    }

    /// Voids, gives up or takes the money for an open invoice.
    pub(crate) fn end_an_open_invoice(&mut self, customer: usize, how: &'static str) {
        let Some(stripe_id) = self.stripe_customer(customer) else { return };
        let open = self.world.stripe("GET", &format!("/invoices?customer={stripe_id}&status=open"), "");
        let Some(id) = open["data"][0]["id"].as_str().map(str::to_owned) else { return };
        let body = if how == "pay" { "paid_out_of_band=true" } else { "" };
        self.world.stripe("POST", &format!("/invoices/{id}/{how}"), body);
        self.did(how, None);
    }

    pub(crate) fn delete_the_customer(&mut self, customer: usize) {
        let Some(stripe_id) = self.stripe_customer(customer) else { return };
        self.world.stripe("DELETE", &format!("/customers/{stripe_id}"), "");
        let customer = &mut self.company.customers[customer];
        (customer.gone, customer.was_gone) = (true, true);
        customer.at_stripe.push(stripe_id);
        customer.card = None;
        self.did("deletes the customer", None);
    }

    /// An operator makes another customer at Stripe and links it, as the notice asks for. Nothing where the service has
    /// not noticed yet that the first is gone.
    pub(crate) fn link_anew(&mut self, customer: usize) {
        let Some(app) = self.world.any_app() else { return };
        let id = self.company.customers[customer].id.clone();
        let gone = self.world.aside(async { app.store.customer(&id).await });
        let state = gone.ok().flatten().map(|customer| customer.state);
        if state != Some(opentab::internals::store::customers::CustomerState::GoneAtStripe) {
            return;
        }
        let made = self.world.stripe("POST", "/customers", "name=again");
        let Some(stripe_id) = made["id"].as_str().map(str::to_owned) else { return };
        let change = CustomerChange { stripe_customer_id: Some(stripe_id), ..CustomerChange::default() };
        if self.world.aside(customers::update(&app, &id, change, &By::operator())).is_ok() {
            self.company.customers[customer].gone = false;
        }
        self.did("links another customer", None);
    }

    /// The customer puts a card on file, if Stripe knows them yet: from now on it does this.
    pub(crate) fn put_a_card(&mut self, customer: usize, does: CardOutcome) {
        if self.company.customers[customer].card.is_none() {
            let Some(stripe_id) = self.stripe_customer(customer) else { return };
            let body = format!("customer={stripe_id}");
            let card = self.world.stripe("POST", "/payment_methods/pm_card_visa/attach", &body);
            let Some(card) = card["id"].as_str().map(str::to_owned) else { return };
            let body = format!("invoice_settings[default_payment_method]={card}");
            self.world.stripe("POST", &format!("/customers/{stripe_id}"), &body);
            self.company.customers[customer].card = Some(card);
        }
        if let Some(card) = &self.company.customers[customer].card {
            self.world.sandbox.card_will(card, does);
        }
        self.did("puts a card on file", None);
    }
}
