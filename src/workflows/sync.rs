//! Sync: bring a customer's draft invoice up to what they owe right now, and close it where its cycle is over.

use std::collections::HashMap;

use serde_json::json;

use super::amounts::{closing_waits, want_all};
use super::by::By;
use super::carry_out::{Carried, carry_out, intend, must_be_read};
use super::current::{begin_invoice, cycle_of, roll_invoice};
use super::lease::{as_only_writer, begin_as_writer};
use super::statement::{LoadedStatement, load_statement};
use super::unsure::Unknown;
use super::{WorkflowError, close, notice, read_back};
use crate::app::App;
use crate::clock::from_ms;
use crate::store::customers::{Customer, CustomerState};
use crate::store::{Effect, Intent, Invoice, Item, Lease};
use crate::stripe::{self, DraftLine, NewInvoice, Write};
use opentab_billing::CollectionMethod;
use opentab_billing::{DraftItem, Plan, WantedItem, fold, reconcile};

/// The key of the line that carries the smallest ones, where there are more than Stripe takes.
pub(crate) const FOLD_KEY: &str = "folded";
/// More rounds than any history needs: opening, planning, closing and the next cycle take one each.
const ROUNDS: usize = 1_000;
/// A draft that is still not as it was written after so many looks will not be by itself.
const LOOKS: usize = 12;

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Writes that Stripe acknowledged.
    pub writes: usize,
    /// Invoices that were finalized on the way.
    pub finalized: Vec<String>,
}

/// What one round found.
pub(super) enum Round {
    /// The draft is right, and not due to be closed.
    InStep,
    /// Something moved: look again.
    Again,
}

/// A sync under way, by the one writer of this customer.
pub(super) struct Run<'a> {
    pub app: &'a App,
    pub lease: &'a Lease,
    pub customer: Customer,
    pub synced: Synced,
    /// Lines in one call: halved where Stripe takes issue.
    pub(crate) lines_per_call: usize,
    /// How often this draft was read back, and why the last time.
    pub looks: usize,
    looked_because: String,
}

/// Brings the customer's draft in step with what they owe, and closes what is due.
///
/// # Errors
/// Whatever was recorded stays, and the next run goes on from there.
pub async fn sync(app: &App, customer_id: &str) -> Result<Synced, WorkflowError> {
    as_only_writer(app, customer_id, async |lease| {
        let mut run = Run::begin(app, lease, customer_id).await?;
        for _ in 0..ROUNDS {
            if let Round::InStep = run.round().await? {
                return Ok(run.synced);
            }
        }
        Err(run.restless(format!("the draft did not come to rest in {ROUNDS} rounds")))
    })
    .await
}

impl<'a> Run<'a> {
    async fn begin(app: &'a App, lease: &'a Lease, customer_id: &str) -> Result<Run<'a>, WorkflowError> {
        let customer = app.store.customer(customer_id).await?;
        let customer = customer.ok_or_else(|| WorkflowError::NotFound(format!("customer {customer_id}")))?;
        Ok(Run {
            app,
            lease,
            customer,
            synced: Synced::default(),
            lines_per_call: app.config.lines_per_call,
            looks: 0,
            looked_because: String::new(),
        })
    }

    fn restless(&self, why: String) -> WorkflowError {
        WorkflowError::Unbillable { customer_id: self.customer.id.clone(), why }
    }

    /// Reads the draft back, unless that has not helped before: a refusal that comes again and again is for a human.
    async fn look(&mut self, invoice: &Invoice) -> Result<Round, WorkflowError> {
        self.looks += 1;
        if self.looks <= LOOKS {
            let read = read_back::read_back(self, invoice).await;
            return Unknown::draft(invoice).after(self.app, self.lease, read).await;
        }
        let why = format!("the draft at Stripe does not become what was written: {}", self.looked_because);
        let mut tx = begin_as_writer(self.app, self.lease).await?;
        notice::report(self.app, &mut tx, "out_of_step", &invoice.id, &why).await?;
        tx.commit().await?;
        Err(self.restless(why))
    }

    async fn round(&mut self) -> Result<Round, WorkflowError> {
        self.finish_open_intents().await?;
        let current = self.app.store.current_invoice(&self.customer.id).await?;
        if let Some(lost) =
            current.as_ref().filter(|draft| draft.read_back && draft.stripe_invoice_id.is_none())
        {
            return read_back::look_for_draft(self, lost).await;
        }
        if let Some(unread) =
            current.as_ref().filter(|draft| draft.read_back && draft.stripe_invoice_id.is_some())
        {
            return self.look(unread).await;
        }
        if self.customer.state == CustomerState::GoneAtStripe {
            return Ok(Round::InStep);
        }
        let Some(invoice) = current else { return self.begin_current().await };
        let cycle = cycle_of(&self.customer, &invoice)?;
        // Before the statement is read: an amount that comes in between is on it.
        let due = self.app.clock.now_ms() >= invoice.close_at;
        let closing = due && !closing_waits(self.app, &self.customer, &invoice, &cycle).await?;
        let loaded = load_statement(self.app, &self.customer, &cycle).await?;
        want_all(self.app, &self.customer, &loaded).await?;
        let wanted = wanted_items(self.app, &self.customer, &loaded)?;
        let items = self.app.store.items(&invoice.id).await?;
        let plan = reconcile(&wanted.items, &on_draft(&items));
        let empty = wanted.items.is_empty() && items.is_empty() && invoice.foreign_amount == 0;
        mutant!(EmptyIsFinalized, let empty = false);
        if closing && empty {
            let has_services = !loaded.services.is_empty();
            mutant!(RollSkipsCycles, let has_services = false);
            return self.roll(&invoice, has_services).await;
        }
        if invoice.stripe_invoice_id.is_none() {
            return if loaded.services.is_empty() && wanted.items.is_empty() {
                self.rest(&invoice, &loaded, &wanted, &items).await
            } else {
                self.open(&invoice).await
            };
        }
        mutant!(NoFinalSync, let plan = if closing { Plan::default() } else { plan });
        if !plan.is_empty() {
            return self.carry_out_plan(&invoice, &plan, &wanted, &items).await;
        }
        self.rest(&invoice, &loaded, &wanted, &items).await?;
        if closing {
            return close::close(self, &invoice).await;
        }
        self.learn_line_ids(&invoice, &items).await?;
        Ok(Round::InStep)
    }

    /// First what was begun: nothing new is planned while nobody knows how an earlier write ended.
    async fn finish_open_intents(&mut self) -> Result<(), WorkflowError> {
        mutant!(IntentsForgotten, return Ok(()));
        for intent in self.app.store.open_intents(&self.customer.id).await? {
            let finished = self.finish(&intent).await;
            Unknown::end_of(&intent).after(self.app, self.lease, finished).await?;
        }
        // What was settled may have changed the customer: a created one has an id now.
        if let Some(customer) = self.app.store.customer(&self.customer.id).await? {
            self.customer = customer;
        }
        Ok(())
    }

    async fn finish(&mut self, intent: &Intent) -> Result<(), WorkflowError> {
        let now = self.app.clock.now_ms();
        if must_be_read(intent, now) {
            return read_back::resolve(self, intent).await;
        }
        match carry_out(self.app, self.lease, intent, now).await? {
            Carried::Done | Carried::Finalized(_) => self.synced.writes += 1,
            Carried::ReadBack(why) => self.looked_because = why,
            Carried::TooManyLines => {}
        }
        Ok(())
    }

    /// There is always a current invoice; where it went missing (deleted at Stripe), the next one begins.
    async fn begin_current(&mut self) -> Result<Round, WorkflowError> {
        let cycle = self.customer.cycle_rule().cycle_at(self.app.clock.now());
        let mut tx = begin_as_writer(self.app, self.lease).await?;
        begin_invoice(self.app, &mut tx, &self.customer, &cycle).await?;
        tx.commit().await?;
        Ok(Round::Again)
    }

    /// A draft with nothing on it is not finalized: it goes on into the cycle that is running now.
    async fn roll(&mut self, invoice: &Invoice, has_services: bool) -> Result<Round, WorkflowError> {
        let now = self.app.clock.now();
        let rule = self.customer.cycle_rule();
        // With a service every cycle may owe something; without one nothing was skipped.
        let next =
            if has_services { rule.next(&cycle_of(&self.customer, invoice)?) } else { rule.cycle_at(now) };
        let mut tx = begin_as_writer(self.app, self.lease).await?;
        roll_invoice(self.app, &mut tx, &self.customer, invoice, &next).await?;
        let detail = json!({ "from": invoice.cycle, "to": next.first_day });
        By::service("sync").note(self.app, &mut tx, "invoice.rolled", &invoice.id, detail).await?;
        tx.commit().await?;
        Ok(Round::Again)
    }

    /// Opens the draft at Stripe, and the customer before it where Stripe has none.
    async fn open(&mut self, invoice: &Invoice) -> Result<Round, WorkflowError> {
        let (write, effect) = match &self.customer.stripe_customer_id {
            None => {
                let customer = &self.customer;
                let write = stripe::create_customer(&customer.id, &customer.name, customer.email.as_deref());
                (write, Effect::CreateCustomer)
            }
            Some(stripe_customer_id) => (self.open_write(invoice, stripe_customer_id), Effect::OpenInvoice),
        };
        self.carry_out_all(invoice, vec![(write, effect)]).await?;
        Ok(Round::Again)
    }

    fn open_write(&self, invoice: &Invoice, stripe_customer_id: &str) -> Write {
        let send = invoice.collection_method == CollectionMethod::SendInvoice.as_str();
        stripe::create_invoice(&NewInvoice {
            id: &invoice.id,
            stripe_customer_id,
            currency: &invoice.currency,
            days_until_due: send.then_some(u32::try_from(self.customer.days_until_due).unwrap_or(30)),
        })
    }

    /// One call to remove, one to change, one to add, for every so many lines; removals first, to stay within the cap.
    async fn carry_out_plan(
        &mut self,
        invoice: &Invoice,
        plan: &Plan,
        wanted: &Wanted,
        items: &[Item],
    ) -> Result<Round, WorkflowError> {
        let needs_ids = plan.remove.iter().chain(plan.update.iter().map(|(before, _)| before));
        if needs_ids.clone().any(|item| item.stripe_line_id.is_none()) {
            self.learn_line_ids(invoice, items).await?;
            return Ok(Round::Again);
        }
        if wanted.folded.is_some() || items.iter().any(|item| item.item_key == FOLD_KEY) {
            // A line may move into the folded one or out of it: finalized by hand in the middle of that, what stands on
            // neither is carried over, though its cycle has not changed.
            let mut tx = begin_as_writer(self.app, self.lease).await?;
            tx.unsync_cycles(&invoice.customer_id).await?;
            tx.commit().await?;
        }
        let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
        let writes = writes_of(plan, wanted, stripe_id, self.lines_per_call);
        match self.carry_out_all(invoice, writes).await? {
            Carried::TooManyLines if self.lines_per_call == 1 => {
                Err(self.restless("Stripe takes issue with a call of a single line".to_owned()))
            }
            Carried::TooManyLines => {
                self.lines_per_call = (self.lines_per_call / 2).max(1);
                Ok(Round::Again)
            }
            _ => Ok(Round::Again),
        }
    }

    /// Writes all of them down, then sends one after another. Stops where Stripe's draft is not as we know it.
    pub(super) async fn carry_out_all(
        &mut self,
        invoice: &Invoice,
        writes: Vec<(Write, Effect)>,
    ) -> Result<Carried, WorkflowError> {
        let intents = intend(self.app, self.lease, &self.customer.id, Some(&invoice.id), writes).await?;
        for (sent, intent) in intents.iter().enumerate() {
            let carried = carry_out(self.app, self.lease, intent, invoice.close_at).await;
            match carried {
                Ok(Carried::Done) => self.synced.writes += 1,
                Ok(finalized @ Carried::Finalized(_)) => {
                    self.synced.writes += 1;
                    return Ok(finalized);
                }
                Ok(other) => {
                    if let Carried::ReadBack(why) = &other {
                        self.looked_because.clone_from(why);
                    }
                    self.abandon(&intents[sent + 1..], "planned behind a write that changed the plan")
                        .await?;
                    return Ok(other);
                }
                Err(error) => {
                    // What was not sent is planned anew; what got no answer stays open.
                    self.abandon(&intents[sent + 1..], "planned behind a write that did not go through")
                        .await?;
                    return Err(error);
                }
            }
        }
        Ok(Carried::Done)
    }

    /// A write that belongs to the customer alone, not to the current invoice.
    pub(super) async fn carry_out_alone(
        &mut self,
        write: Write,
        effect: Effect,
    ) -> Result<(), WorkflowError> {
        let intents = intend(self.app, self.lease, &self.customer.id, None, vec![(write, effect)]).await?;
        for intent in &intents {
            carry_out(self.app, self.lease, intent, self.app.clock.now_ms()).await?;
            self.synced.writes += 1;
        }
        Ok(())
    }

    async fn abandon(&self, never_sent: &[Intent], why: &str) -> Result<(), WorkflowError> {
        if never_sent.is_empty() {
            return Ok(());
        }
        let mut tx = begin_as_writer(self.app, self.lease).await?;
        for intent in never_sent {
            let now = self.app.clock.now_ms();
            tx.settle_intent(&intent.id, crate::store::Ending::Abandoned, Some(why), now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The draft shows what is owed: remember up to which change.
    async fn rest(
        &mut self,
        invoice: &Invoice,
        loaded: &LoadedStatement,
        wanted: &Wanted,
        items: &[Item],
    ) -> Result<Round, WorkflowError> {
        let mut tx = begin_as_writer(self.app, self.lease).await?;
        // What the folded line carries can change while its sum stays: Stripe need not know, the ledger must.
        for item in items.iter().filter(|item| item.item_key == FOLD_KEY && item.folded != wanted.folded) {
            tx.put_item(&invoice.id, &Item { folded: wanted.folded.clone(), ..item.clone() }).await?;
        }
        tx.forget_put_amounts(&invoice.id).await?;
        tx.mark_cycles_synced(&self.customer.id, &loaded.cycles).await?;
        let now = self.app.clock.now_ms();
        tx.invoice_synced(&invoice.id, now).await?;
        tx.resolve_incident("stripe_refused", &self.customer.id, now).await?;
        tx.resolve_incident("out_of_step", &invoice.id, now).await?;
        tx.commit().await?;
        Ok(Round::InStep)
    }

    /// Reads Stripe's ids of lines that an answer did not show: it embeds only the first ten.
    async fn learn_line_ids(&mut self, invoice: &Invoice, items: &[Item]) -> Result<(), WorkflowError> {
        if items.iter().all(|item| item.stripe_line_id.is_some()) {
            return Ok(());
        }
        read_back::read_lines(self, invoice).await.map(|_| ())
    }
}

/// What the draft should hold.
pub(crate) struct Wanted {
    pub items: Vec<WantedItem>,
    /// What the folded line carries, as JSON `[[item key, amount], …]`; none where nothing is folded.
    pub folded: Option<String>,
}

/// The statement's lines, within the number that Stripe takes.
pub(crate) fn wanted_items(
    app: &App,
    customer: &Customer,
    loaded: &LoadedStatement,
) -> Result<Wanted, WorkflowError> {
    let all = loaded.statement.wanted_items();
    let amounts: HashMap<String, i64> = all.iter().map(|item| (item.key.clone(), item.amount)).collect();
    let unbillable = |why: String| WorkflowError::Unbillable { customer_id: customer.id.clone(), why };
    let (items, folded) = fold(all, app.config.lines_per_invoice, FOLD_KEY.to_owned())
        .map_err(|why| unbillable(why.to_string()))?;
    let carried: Vec<(&String, i64)> =
        folded.iter().filter_map(|key| Some((key, *amounts.get(key)?))).collect();
    let folded = if carried.is_empty() {
        None
    } else {
        Some(serde_json::to_string(&carried).map_err(|why| unbillable(why.to_string()))?)
    };
    Ok(Wanted { items, folded })
}

/// Acknowledged items as reconcile wants them.
pub(crate) fn on_draft(items: &[Item]) -> Vec<DraftItem> {
    let draft_item = |item: &Item| DraftItem {
        key: item.item_key.clone(),
        amount: item.amount,
        description: item.description.clone(),
        period: (from_ms(item.period_start), from_ms(item.period_end)),
        stripe_line_id: item.stripe_line_id.clone(),
    };
    items.iter().map(draft_item).collect()
}

fn item(wanted: &WantedItem, all: &Wanted, stripe_line_id: Option<String>) -> Item {
    Item {
        item_key: wanted.key.clone(),
        amount: wanted.amount,
        description: wanted.description.clone(),
        period_start: wanted.period.0.timestamp_millis(),
        period_end: wanted.period.1.timestamp_millis(),
        folded: all.folded.clone().filter(|_| wanted.key == FOLD_KEY),
        stripe_line_id,
        put_amount: None,
    }
}

fn line(wanted: &WantedItem) -> DraftLine<'_> {
    DraftLine {
        item_key: &wanted.key,
        amount: wanted.amount,
        description: &wanted.description,
        period: (wanted.period.0.timestamp(), wanted.period.1.timestamp()),
    }
}

fn writes_of(plan: &Plan, wanted: &Wanted, stripe_id: &str, per_call: usize) -> Vec<(Write, Effect)> {
    let id = |item: &DraftItem| item.stripe_line_id.clone().unwrap_or_default();
    let mut writes = Vec::new();
    let remove = &*plan.remove;
    mutant!(RemovalsForgotten, let remove = &[]);
    for chunk in remove.chunks(per_call) {
        let ids: Vec<String> = chunk.iter().map(id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let item_keys = chunk.iter().map(|item| item.key.clone()).collect();
        writes.push((stripe::remove_lines(stripe_id, &ids), Effect::RemoveLines { item_keys }));
    }
    for chunk in plan.update.chunks(per_call) {
        let ids: Vec<String> = chunk.iter().map(|(before, _)| id(before)).collect();
        let lines: Vec<_> =
            ids.iter().zip(chunk).map(|(id, (_, after))| (id.as_str(), line(after))).collect();
        let items = chunk.iter().map(|(before, after)| item(after, wanted, before.stripe_line_id.clone()));
        writes
            .push((stripe::update_lines(stripe_id, &lines), Effect::UpdateLines { items: items.collect() }));
    }
    for chunk in plan.add.chunks(per_call) {
        let lines: Vec<_> = chunk.iter().map(line).collect();
        let items = chunk.iter().map(|added| item(added, wanted, None)).collect();
        writes.push((stripe::add_lines(stripe_id, &lines), Effect::AddLines { items }));
    }
    writes
}
