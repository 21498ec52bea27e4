//! Load: users, Stripe's webhooks and people at the dashboard, who go on whatever dies, and note what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::process::{Answered, deliver};
use crate::world::World;

const DAY_MS: i64 = 86_400_000;
/// How long the users wait between requests.
const PAUSE: Duration = Duration::from_millis(30);

/// A usage event as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub meter: &'static str,
    pub quantity: i64,
    /// None: when it came.
    pub at: Option<i64>,
}

/// A customer's name and an event's id.
pub(crate) type EventKey = (String, String);

/// What was sent, and what of it was answered.
#[derive(Default)]
pub(crate) struct Told {
    pub sent: BTreeMap<EventKey, Sent>,
    pub acknowledged: BTreeSet<EventKey>,
    /// Ids of webhook events that were answered with 200.
    pub webhooks: BTreeSet<String>,
    pub webhooks_unanswered: usize,
    pub requests_unanswered: usize,
    pub syncs: usize,
    pub finalized_by_hand: usize,
    /// Answers that nothing explains.
    pub wrong: Vec<String>,
}

pub(crate) type Notes = Arc<Mutex<Told>>;

/// Starts everybody. They stop by themselves when the world is over; the deliveries go on.
pub(crate) fn start(world: &Arc<World>, seed: u64) -> (Notes, Vec<tokio::task::JoinHandle<()>>) {
    let notes = Notes::default();
    let mut tasks = Vec::new();
    for no in 0..3 {
        let chance = StdRng::seed_from_u64(seed + 1_000 * (no + 1));
        tasks.push(tokio::spawn(use_service(world.clone(), notes.clone(), chance, no)));
    }
    tasks.push(tokio::spawn(ask_for_syncs(world.clone(), notes.clone(), StdRng::seed_from_u64(seed + 1))));
    tasks.push(tokio::spawn(finalize_by_hand(world.clone(), notes.clone(), StdRng::seed_from_u64(seed + 2))));
    tokio::spawn(deliver_webhooks(world.clone(), notes.clone(), StdRng::seed_from_u64(seed + 3)));
    (notes, tasks)
}

/// Sends batches. What gets no answer is sent again, mostly; the rest may be there or not.
async fn use_service(world: Arc<World>, notes: Notes, mut chance: StdRng, user: u64) {
    let mut made = 0;
    let mut batch = Vec::new();
    while !world.is_over() {
        if batch.is_empty() {
            batch = new_batch(&world, &notes, &mut chance, user, &mut made);
        }
        let body = json!({ "events": batch });
        let answer = world.client.post(world.base(&mut chance), "/v1/usage", &body).await;
        let again = chance.random_bool(0.8);
        if note_usage(&mut notes.lock().unwrap(), &batch, answer, again) {
            batch.clear();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether that is the end of this batch.
fn note_usage(told: &mut Told, batch: &[Value], answer: Option<Answered>, again: bool) -> bool {
    match answer {
        Some(Answered { status: 200, body }) => acknowledge(told, batch, &body),
        Some(Answered { status: 503, .. }) => return false,
        Some(other) => told.wrong.push(format!("usage: {} {}", other.status, other.body)),
        None => {
            told.requests_unanswered += 1;
            return !again;
        }
    }
    true
}

fn acknowledge(told: &mut Told, batch: &[Value], answer: &Value) {
    let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    if results.len() != batch.len() {
        told.wrong.push(format!("{} results for {} events", results.len(), batch.len()));
    }
    for (event, result) in batch.iter().zip(results) {
        match result["result"].as_str() {
            Some("accepted" | "duplicate") => _ = told.acknowledged.insert(key(event)),
            _ => told.wrong.push(format!("{event}: {result}")),
        }
    }
}

fn key(event: &Value) -> EventKey {
    (event["customer"].as_str().unwrap().to_owned(), event["id"].as_str().unwrap().to_owned())
}

/// Some events of now, some of last month, and some that were sent before.
fn new_batch(world: &World, notes: &Notes, chance: &mut StdRng, user: u64, made: &mut usize) -> Vec<Value> {
    let size = if chance.random_bool(0.3) { 1 } else { chance.random_range(2..60) };
    let mut told = notes.lock().unwrap();
    let mut batch: Vec<Value> = Vec::new();
    for _ in 0..size {
        let customer = &world.customers[chance.random_range(0..world.customers.len())].name;
        let fresh = *made == 0 || chance.random_bool(0.9);
        let no = if fresh { *made } else { chance.random_range(0..*made) };
        *made += usize::from(fresh);
        // Who an old event belonged to is looked up: an id is unique per customer.
        let id = format!("u{user}-{no}");
        let known =
            world.customers.iter().map(|c| (c.name.clone(), id.clone())).find(|k| told.sent.contains_key(k));
        let key = known.unwrap_or_else(|| (customer.clone(), id));
        if !told.sent.contains_key(&key) {
            told.sent.insert(key.clone(), new_event(world, chance));
        }
        if batch.iter().all(|event| event["id"] != json!(key.1)) {
            batch.push(as_json(&key, &told.sent[&key]));
        }
    }
    batch
}

fn new_event(world: &World, chance: &mut StdRng) -> Sent {
    let at = match chance.random_range(0..10) {
        0 => Some(world.now_ms() - chance.random_range(0..40 * DAY_MS)),
        1..4 => Some(world.now_ms()),
        _ => None,
    };
    Sent { meter: world.meters[chance.random_range(0..2)], quantity: chance.random_range(0..20), at }
}

fn as_json((customer, id): &EventKey, sent: &Sent) -> Value {
    let mut event = json!({ "id": id, "customer": customer, "meter": sent.meter, "quantity": sent.quantity });
    if let Some(at) = sent.at.and_then(chrono::DateTime::from_timestamp_millis) {
        event["timestamp"] = json!(at.to_rfc3339());
    }
    event
}

async fn ask_for_syncs(world: Arc<World>, notes: Notes, mut chance: StdRng) {
    while !world.is_over() {
        let customer = &world.customers[chance.random_range(0..world.customers.len())].name;
        let path =
            if chance.random_bool(0.3) { "/sync".to_owned() } else { format!("/sync?customer={customer}") };
        let answer = world.client.post(world.base(&mut chance), &path, &json!({})).await;
        note_sync(&mut notes.lock().unwrap(), &path, answer);
        tokio::time::sleep(PAUSE).await;
    }
}

fn note_sync(told: &mut Told, path: &str, answer: Option<Answered>) {
    match answer {
        None => told.requests_unanswered += 1,
        Some(Answered { status: 200 | 202, .. }) => told.syncs += 1,
        // Another writer, perhaps a dead one, has the customer.
        Some(Answered { status: 503, .. }) => {}
        Some(other) => told.wrong.push(format!("{path}: {} {}", other.status, other.body)),
    }
}

/// Somebody at Stripe's dashboard finalizes a draft with something on it every now and then, in mid-cycle.
async fn finalize_by_hand(world: Arc<World>, notes: Notes, mut chance: StdRng) {
    while !world.is_over() {
        tokio::time::sleep(Duration::from_millis(chance.random_range(300..1_500))).await;
        let drafts =
            world.dashboard.get(&world.stripe, "/v1/invoices?status=draft&limit=100").await.unwrap().body;
        let drafts: Vec<&Value> =
            drafts["data"].as_array().unwrap().iter().filter(|draft| draft["total"] != json!(0)).collect();
        if drafts.is_empty() {
            continue;
        }
        let id = drafts[chance.random_range(0..drafts.len())]["id"].as_str().unwrap();
        let path = format!("/v1/invoices/{id}/finalize");
        let answer = world.dashboard.post_form(&world.stripe, &path, "").await.unwrap();
        notes.lock().unwrap().finalized_by_hand += usize::from(answer.status == 200);
    }
}

/// Stripe's webhooks, several at once, to whichever server. What is not answered comes again hours later, and three times
/// at most; where no hours pass it comes again at once.
async fn deliver_webhooks(world: Arc<World>, notes: Notes, mut chance: StdRng) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    loop {
        let due = world.sandbox.deliveries_due();
        world.delivering.store(due.len() as i64, Ordering::SeqCst);
        let posts = due.iter().map(|delivery| {
            let tries = if world.time_passes() { 1 } else { 50 };
            let bases: Vec<String> = (0..tries).map(|_| world.base(&mut chance).to_owned()).collect();
            let (http, notes) = (&http, &notes);
            async move {
                for base in &bases[1..] {
                    match deliver(http, base, delivery).await {
                        None => notes.lock().unwrap().webhooks_unanswered += 1,
                        answered => return (delivery, answered),
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                (delivery, deliver(http, &bases[0], delivery).await)
            }
        });
        let posts: Vec<_> = posts.collect();
        let mut settled = futures::stream::iter(posts).buffer_unordered(8);
        while let Some((delivery, status)) = settled.next().await {
            world.sandbox.delivery_done(&delivery.id, status);
            let mut told = notes.lock().unwrap();
            match status {
                Some(200) => _ = told.webhooks.insert(delivery.event_id.clone()),
                // Signed before days passed.
                None | Some(400 | 503) => told.webhooks_unanswered += 1,
                Some(other) => told.wrong.push(format!("webhook {}: {other}", delivery.event_type)),
            }
        }
        drop(settled);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
