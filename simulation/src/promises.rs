//! Promises: what has to hold after every history, asked of the sandbox and of the database, not of the product.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::company::Customer;
use super::money;
use super::story::Story;
use opentab::internals::app::App;
use opentab::internals::store::both;
use opentab::internals::workflows::billing_view::billing_view;
use opentab::internals::workflows::preview::preview;

/// The states that follow each state. What is not here must never be seen.
const MOVES: &[(&str, &str, &str)] = &[
    ("invoice", "", "pending"),
    ("invoice", "pending", "draft deleted"),
    ("invoice", "draft", "open paid void uncollectible deleted"),
    ("invoice", "open", "paid void uncollectible"),
    ("invoice", "uncollectible", "paid void"),
    ("job", "queued", "running"),
    ("job", "running", "queued done failed"),
    ("job", "failed", "queued"),
    ("intent", "open", "done refused abandoned"),
    ("event", "pending", "handled ignored quarantined"),
    ("charge", "pending", "in_progress paid failed uncollectible void"),
    ("charge", "in_progress", "pending paid failed needs_attention uncollectible void"),
    ("charge", "failed", "in_progress paid needs_attention uncollectible void"),
    ("charge", "needs_attention", "in_progress paid failed uncollectible void"),
    ("charge", "uncollectible", "in_progress paid void"),
    ("email", "queued", "sending canceled failed"),
    ("email", "sending", "queued sent failed unknown"),
    // Only a person sends again what may have arrived, and here nobody does.
    ("email", "failed", "queued"),
];

/// Stripe forgets a key after a day; by clocks that differ a little, somewhat earlier.
const KEY_LIVES_MS: i64 = 23 * 3_600_000;

type Sums = BTreeMap<String, i64>;

/// Nobody sees what is somebody else's.
pub(crate) fn shown(story: &mut Story<'_>, customer: usize, text: &str) {
    let others = story.company.customers.iter().enumerate().filter(|(no, _)| *no != customer);
    let leaked: Vec<String> = others
        .filter(|(_, other)| text.contains(&other.canary) || text.contains(&other.id))
        .map(|(_, other)| other.canary.clone())
        .collect();
    for canary in leaked {
        story.world.wrong(9, format!("a billing document shows {canary}"));
    }
}

/// Checks everything that holds once nothing is under way and nothing goes wrong.
pub(crate) fn check(story: &mut Story<'_>) {
    rows(story);
    usage(story);
    for customer in 0..story.company.customers.len() {
        if !story.company.customers[customer].gone {
            invoices(story, customer);
        }
    }
    rest(story);
    if story.world.charges() {
        money::check(story);
    }
}

pub(crate) fn query<R: opentab::internals::store::Row>(story: &Story<'_>, sql: &'static str) -> Vec<R> {
    let rows = story.world.aside(story.world.engine.store.db.all(both(sql), ()));
    // A check that cannot look must not pass.
    rows.unwrap_or_else(|error| panic!("{error}: {sql}"))
}

/// Promises 6, 10 and 11: what moved, and whether it was allowed to and was written down.
fn rows(story: &mut Story<'_>) {
    let moves: Vec<(String, String, String, String)> =
        query(story, "select kind, id, before, after from sim_move order by no");
    let mut wrong = Vec::new();
    for (kind, id, before, after) in &moves {
        match kind.as_str() {
            "term" => {
                wrong.push((10, format!("the term of {id} went from {before} to {after} with a new owner")))
            }
            "stale" => wrong.push((10, format!("intent {id} was recorded under the old term {before}"))),
            "usage" | "ledger" | "audit" => {
                wrong.push((2, format!("{kind} row {id} was {after}: nothing of it ever goes")));
            }
            _ => {
                let known = MOVES.iter().find(|(k, from, _)| *k == kind && from == before);
                if !known.is_some_and(|(_, _, to)| to.split(' ').any(|to| to == after)) {
                    wrong.push((6, format!("{kind} {id} went from {before:?} to {after}")));
                }
            }
        }
    }
    let notes: Vec<(String, String, i64)> =
        query(story, "select action, subject, count(*) from audit group by action, subject");
    let notes: BTreeMap<(String, String), i64> =
        notes.into_iter().map(|(action, subject, count)| ((action, subject), count)).collect();
    let noted = |action: &str, id: &String| notes.get(&(action.to_owned(), id.clone())).copied().unwrap_or(0);
    let mut moved: BTreeMap<(&String, &[&str]), i64> = BTreeMap::new();
    for (_, id, before, after) in moves.iter().filter(|(kind, ..)| kind == "invoice") {
        let actions: &[&str] = match (before.as_str(), after.as_str()) {
            ("", _) => continue,
            (_, "draft") => &["invoice.opened"],
            (_, "deleted") => &["draft.deleted"],
            _ => &["invoice.sealed", "invoice.state"],
        };
        *moved.entry((id, actions)).or_default() += 1;
    }
    for ((id, actions), times) in moved {
        let rows: i64 = actions.iter().map(|action| noted(action, id)).sum();
        if rows < times {
            wrong.push((11, format!("invoice {id} moved {times} times, with {rows} audit rows {actions:?}")));
        }
        if noted("invoice.sealed", id) > 1 {
            wrong.push((5, format!("invoice {id} was sealed more than once")));
        }
    }
    story.world.wrong.extend(wrong.into_iter().map(|(promise, what)| format!("promise {promise}: {what}")));
}

/// Promises 2, 4 and 5: what was acknowledged is stored, once.
fn usage(story: &mut Story<'_>) {
    let rows: Vec<(String, i64)> = query(story, "select event_id, quantity from usage_event");
    let stored: BTreeMap<String, i64> = rows.into_iter().collect();
    let mut wrong = Vec::new();
    for event in &story.company.events {
        match stored.get(&event.id) {
            None if event.acknowledged => {
                wrong.push((4, format!("{} was acknowledged and is gone", event.id)))
            }
            Some(quantity) if *quantity != event.quantity => {
                wrong.push((4, format!("{} is stored as {quantity}, not {}", event.id, event.quantity)));
            }
            _ => {}
        }
        if event.accepted > 1 {
            wrong.push((5, format!("{} was accepted as new {} times", event.id, event.accepted)));
        }
        if !event.acknowledged {
            wrong.push((7, format!("{} could not be sent in all the time", event.id)));
        }
    }
    if stored.len() > story.company.events.len() {
        wrong.push((2, "there is usage that nobody sent".to_owned()));
    }
    story.world.wrong.extend(wrong.into_iter().map(|(promise, what)| format!("promise {promise}: {what}")));
}

/// An invoice at Stripe, as far as it is of interest here.
struct AtStripe {
    id: String,
    status: String,
    ours: bool,
    /// Of ours, by key.
    lines: Vec<(String, i64)>,
    /// Of anybody.
    all_lines: usize,
}

fn at_stripe(story: &Story<'_>, customer: &Customer, current: Option<&str>) -> Vec<AtStripe> {
    let customers: BTreeSet<&str> = customer.at_stripe.iter().map(String::as_str).chain(current).collect();
    let invoices =
        customers.into_iter().flat_map(|id| story.world.stripe_list(&format!("/invoices?customer={id}")));
    invoices
        .filter_map(|invoice| {
            let id = invoice["id"].as_str()?.to_owned();
            let lines = story.world.stripe_list(&format!("/invoices/{id}/lines"));
            let ours = |line: &Value| {
                Some((line["metadata"]["opentab_item"].as_str()?.to_owned(), line["amount"].as_i64()?))
            };
            Some(AtStripe {
                status: invoice["status"].as_str().unwrap_or("").to_owned(),
                ours: invoice["metadata"]["opentab_id"].is_string(),
                lines: lines.iter().filter_map(ours).collect(),
                all_lines: lines.len(),
                id,
            })
        })
        .collect()
}

/// Promises 1, 2 and 3 for one customer.
fn invoices(story: &mut Story<'_>, no: usize) {
    let customer = story.company.customers[no].clone();
    let current = story.stripe_customer(no);
    let stripe = at_stripe(story, &customer, current.as_deref());
    let mut wrong: Vec<(u8, String)> = Vec::new();
    for invoice in &stripe {
        let mut keys = BTreeSet::new();
        for (key, _) in invoice.lines.iter().filter(|(key, _)| !keys.insert(key.clone())) {
            wrong.push((1, format!("{} holds {key} twice", invoice.id)));
        }
    }
    let drafts: Vec<&AtStripe> =
        stripe.iter().filter(|invoice| invoice.ours && invoice.status == "draft").collect();
    // The draft of a customer who was deleted may stay there for ever: nobody can bill it.
    if drafts.len() > 1 && !customer.was_gone {
        let ids: Vec<&String> = drafts.iter().map(|draft| &draft.id).collect();
        wrong.push((1, format!("{} has the drafts {ids:?} at Stripe", customer.canary)));
    }
    states(story, &stripe, &mut wrong);
    if customers_at_stripe(story, &customer) > 1 && !customer.was_gone {
        wrong.push((1, format!("{} is at Stripe more than once", customer.canary)));
    }
    ledger(story, &customer, no, &stripe, &mut wrong);
    if let Some(id) = current.as_ref().filter(|_| !customer.was_gone) {
        let pending = story.world.stripe_list(&format!("/invoiceitems?customer={id}&pending=true"));
        if pending.iter().any(|item| item["metadata"]["opentab_item"].is_string()) {
            wrong.push((
                2,
                format!("a line of {} is pending, and somebody will sweep it up", customer.canary),
            ));
        }
    }
    story.world.wrong.extend(wrong.into_iter().map(|(promise, what)| format!("promise {promise}: {what}")));
}

/// What we say of an invoice is what Stripe says of it, and nothing was finalized for nothing.
fn states(story: &Story<'_>, stripe: &[AtStripe], wrong: &mut Vec<(u8, String)>) {
    let rows: Vec<(String, String)> =
        query(story, "select stripe_invoice_id, state from invoice where stripe_invoice_id is not null");
    let ours: BTreeMap<String, String> = rows.into_iter().collect();
    for invoice in stripe.iter().filter(|invoice| invoice.ours) {
        match ours.get(&invoice.id) {
            // A draft that nobody can bill any more.
            Some(state) if state == "deleted" && invoice.status == "draft" => {}
            Some(state) if *state != invoice.status => {
                wrong.push((3, format!("{} is {state} here and {} at Stripe", invoice.id, invoice.status)));
            }
            _ => {}
        }
        let by_hand = story.company.touched.contains(&invoice.id);
        if invoice.status != "draft" && invoice.all_lines == 0 && !by_hand {
            wrong.push((2, format!("{} was finalized with nothing on it", invoice.id)));
        }
    }
}

/// Customers at Stripe that are marked as this one of ours. One may be left by a process that slept over its request until
/// Stripe had forgotten the key: it came that late, has no invoice, and nobody is billed by it.
fn customers_at_stripe(story: &Story<'_>, customer: &Customer) -> usize {
    let all = story.world.stripe_list("/customers");
    let ours: Vec<&Value> =
        all.iter().filter(|other| other["metadata"]["opentab_id"] == customer.id.as_str()).collect();
    if ours.len() < 2 {
        return ours.len();
    }
    let first: Vec<(String, i64)> = query(
        story,
        r#"select customer_id, min(created_at) from intent where effect = '{"op":"create_customer"}' group by customer_id"#,
    );
    let first = first.into_iter().find(|(id, _)| *id == customer.id).map_or(i64::MAX, |(_, at)| at);
    let is_left = |other: &&&Value| {
        let late = other["created"].as_i64().unwrap_or(0).saturating_mul(1_000)
            >= first.saturating_add(KEY_LIVES_MS);
        let path = format!("/invoices?customer={}", other["id"].as_str().unwrap_or_default());
        late && story.world.stripe_list(&path).is_empty()
    };
    ours.iter().filter(|other| !is_left(other)).count()
}

fn ledger(
    story: &Story<'_>,
    customer: &Customer,
    no: usize,
    stripe: &[AtStripe],
    wrong: &mut Vec<(u8, String)>,
) {
    let all: Vec<(String, String, String, i64, Option<i64>)> = query(
        story,
        "select coalesce(invoice.stripe_invoice_id, ''), invoice_line.customer_id, item_key, amount, stripe_amount
         from invoice_line join invoice on invoice.id = invoice_line.invoice_id",
    );
    let lines: Vec<_> = all.into_iter().filter(|(_, owner, ..)| *owner == customer.id).collect();
    let items: Vec<(String, String, String, i64, Option<String>)> = query(
        story,
        "select coalesce(invoice.stripe_invoice_id, ''), invoice.customer_id, item_key, amount, folded
         from item join invoice on invoice.id = item.invoice_id where invoice.state in ('pending', 'draft')",
    );
    let items: Vec<_> = items.into_iter().filter(|(_, owner, ..)| *owner == customer.id).collect();

    // What is owed is billed, or stands on the draft: once.
    let mut billed = Sums::new();
    let mut add = |key: &str, amount: i64| *billed.entry(key.to_owned()).or_default() += amount;
    for (_, _, key, amount, _) in &lines {
        add(key, *amount);
    }
    for (_, _, key, amount, folded) in &items {
        let carried: Option<Vec<(String, i64)>> =
            folded.as_deref().and_then(|text| serde_json::from_str(text).ok());
        match carried {
            None => add(key, *amount),
            Some(carried) => carried.iter().for_each(|(key, amount)| add(key, *amount)),
        }
    }
    billed.retain(|_, amount| *amount != 0);
    let owed = story.company.owed(no, billed_until(story, customer, stripe));
    compare(
        wrong,
        2,
        &format!("what {} owes, and what the ledger and the draft say", customer.canary),
        &owed,
        &billed,
    );

    // What we think that Stripe holds is what Stripe holds.
    let mut held: BTreeMap<&str, Sums> = BTreeMap::new();
    for (invoice, _, key, amount, at_stripe) in &lines {
        let invoice_ = held.entry(invoice).or_default();
        if let Some(at_stripe) = at_stripe {
            invoice_.insert(key.clone(), *at_stripe);
        }
        let edited = story.company.edited.contains(&(invoice.clone(), key.clone()));
        if at_stripe.is_some_and(|held| held != *amount) && key != "folded" && !edited {
            wrong.push((
                3,
                format!(
                    "{key} on {invoice} counts as {amount}, Stripe holds {at_stripe:?}, and nobody edited it"
                ),
            ));
        }
    }
    for (invoice, _, key, amount, _) in items.iter().filter(|(invoice, ..)| !invoice.is_empty()) {
        held.entry(invoice).or_default().insert(key.clone(), *amount);
    }
    for invoice in stripe.iter().filter(|invoice| invoice.ours) {
        let mut there = Sums::new();
        for (key, amount) in &invoice.lines {
            *there.entry(key.clone()).or_default() += amount;
        }
        let mut here = held.remove(invoice.id.as_str()).unwrap_or_default();
        there.retain(|_, amount| *amount != 0);
        here.retain(|_, amount| *amount != 0);
        let orphan = customer.was_gone && invoice.status == "draft";
        if !orphan {
            compare(
                wrong,
                3,
                &format!("{} ({}) here and at Stripe", invoice.id, invoice.status),
                &here,
                &there,
            );
        }
    }
    for (invoice, lines) in held {
        if lines.values().any(|amount| *amount != 0) {
            wrong
                .push((3, format!("Stripe does not have {invoice}, which we have {} lines on", lines.len())));
        }
    }
    straight_to_stripe(story, customer, stripe, &owed, wrong);
}

/// A cycle is billed from when the one before it has been closed: at the end of its grace, or by hand before that.
fn billed_until(
    story: &Story<'_>,
    customer: &Customer,
    stripe: &[AtStripe],
) -> chrono::DateTime<chrono::Utc> {
    let (now, after_grace) = (story.world.now(), story.world.now() - story.grace());
    let by_hand = stripe.iter().any(|invoice| story.company.touched.contains(&invoice.id));
    let current: Vec<(String, String)> =
        query(story, "select customer_id, cycle from invoice where state in ('pending', 'draft')");
    let running = customer.cycle_of(customer.day_of(now)).to_string();
    let begun = current.iter().any(|(owner, cycle)| *owner == customer.id && *cycle == running);
    if by_hand && begun { now } else { after_grace }
}

/// Where nobody touched anything and nothing is folded, what Stripe holds in all is what is owed, whatever we think.
fn straight_to_stripe(
    story: &Story<'_>,
    customer: &Customer,
    stripe: &[AtStripe],
    owed: &Sums,
    wrong: &mut Vec<(u8, String)>,
) {
    let touched = stripe.iter().any(|invoice| story.company.touched.contains(&invoice.id));
    let folded = stripe.iter().flat_map(|invoice| &invoice.lines).any(|(key, _)| key == "folded");
    if touched || folded || customer.was_gone {
        return;
    }
    let mut there = Sums::new();
    for (key, amount) in stripe.iter().flat_map(|invoice| &invoice.lines) {
        *there.entry(key.clone()).or_default() += amount;
    }
    there.retain(|_, amount| *amount != 0);
    compare(
        wrong,
        2,
        &format!("what {} owes, and what Stripe has billed and drafted", customer.canary),
        owed,
        &there,
    );
}

fn compare(wrong: &mut Vec<(u8, String)>, promise: u8, what: &str, left: &Sums, right: &Sums) {
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for key in keys {
        let (a, b) = (left.get(key).copied().unwrap_or(0), right.get(key).copied().unwrap_or(0));
        if a != b {
            wrong.push((promise, format!("{what}: {key} is {a} and {b}")));
        }
    }
}

/// What the customer is shown of the running cycles is what they owe.
fn page(story: &Story<'_>, app: &App, no: usize, wrong: &mut Vec<(u8, String)>) {
    let customer = &story.company.customers[no];
    let view = story.world.aside(async {
        let row = app.store.customer(&customer.id).await.ok()??;
        billing_view(app, &row).await.ok()
    });
    let Some(view) = view else { return wrong.push((3, format!("{} has no page", customer.canary))) };
    let owed = story.company.owed(no, story.world.now());
    for line in view.current.lines.iter().chain(view.next.iter().flat_map(|next| &next.lines)) {
        let owes = owed.get(&line.item_key).copied().unwrap_or(0);
        if line.owed != owes {
            let what = format!("the page of {} says of {}", customer.canary, line.item_key);
            wrong.push((3, format!("{what} that {} is owed, and it is {owes}", line.owed)));
        }
    }
}

/// Promise 7: nothing waits that could go on, and what cannot is shown. Promise 3 once more: the page and the draft.
fn rest(story: &mut Story<'_>) {
    let now = story.world.now().timestamp_millis();
    let mut wrong: Vec<(u8, String)> = Vec::new();
    let intents: Vec<(String, String)> = query(story, "select id, effect from intent where state = 'open'");
    for (id, effect) in intents {
        wrong.push((7, format!("nobody knows how intent {id} ended: {effect}")));
    }
    let jobs: Vec<(String, String, String, Option<String>, i64)> =
        query(story, "select kind, subject, state, last_error, run_at from job where state <> 'done'");
    for (kind, subject, state, error, run_at) in jobs {
        if state != "queued" || run_at <= now {
            let error = error.unwrap_or_default();
            wrong.push((7, format!("job {kind} of {subject} is {state}: {error}")));
        }
    }
    let events: Vec<(String, String)> =
        query(story, "select id, kind from stripe_event where state = 'pending'");
    for (id, kind) in events {
        wrong.push((7, format!("nobody has reacted to {kind} {id}")));
    }
    let closing: Vec<(String, String, i64)> =
        query(story, "select id, customer_id, close_at from invoice where state in ('pending', 'draft')");
    let gone: BTreeSet<&String> = story
        .company
        .customers
        .iter()
        .filter(|customer| customer.gone)
        .map(|customer| &customer.id)
        .collect();
    for (id, customer, close_at) in &closing {
        if *close_at <= now - 900_000 && !gone.contains(customer) {
            wrong.push((
                7,
                format!("invoice {id} should have been closed {} s ago", (now - close_at) / 1_000),
            ));
        }
    }
    let changed: Vec<(String, String)> =
        query(story, "select billing_cycle.customer_id, billing_cycle.cycle
         from billing_cycle join invoice on invoice.customer_id = billing_cycle.customer_id
         where version > synced_version and state in ('pending', 'draft') and billing_cycle.cycle <= invoice.cycle");
    for (customer, cycle) in changed.iter().filter(|(customer, _)| !gone.contains(customer)) {
        wrong.push((7, format!("the draft of {customer} does not show what changed in {cycle}")));
    }
    let forged: Vec<(String,)> =
        query(story, "select id from stripe_event where id like '%\\_forged' escape '\\'");
    for (id,) in forged {
        wrong.push((5, format!("{id} was never Stripe's, and is stored")));
    }
    for (no, customer) in story.company.customers.iter().enumerate().filter(|(_, customer)| !customer.gone) {
        let Some(app) = story.world.any_app() else { continue };
        page(story, &app, no, &mut wrong);
        let looked = story.world.aside(async {
            let row = app.store.customer(&customer.id).await.ok()??;
            preview(&app, &row).await.ok()?
        });
        match looked {
            None => wrong.push((3, format!("{} has no current invoice", customer.canary))),
            Some(preview) if !preview.plan.is_empty() => {
                wrong.push((
                    3,
                    format!("the draft of {} is not what is owed: {:?}", customer.canary, preview.plan),
                ));
            }
            Some(_) => {}
        }
    }
    story.world.wrong.extend(wrong.into_iter().map(|(promise, what)| format!("promise {promise}: {what}")));
}
