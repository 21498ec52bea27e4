//! Steps: stretches that several scenarios are made of.

use chrono::Duration;

use crate::story::Story;
use crate::{gates, promises};
use opentab_sandbox::{CardOutcome, Fault};

pub(super) fn used_and_closed(story: &mut Story<'_>) -> anyhow::Result<()> {
    with_a_draft(story);
    end_of_cycle(story);
    settle(story, 2);
    Ok(())
}

pub(super) fn used_twice_and_closed(story: &mut Story<'_>) -> anyhow::Result<()> {
    with_a_draft(story);
    uses(story, 0, 5);
    end_of_cycle(story);
    settle(story, 2);
    Ok(())
}

/// Somebody has used something, and the draft shows it: how most scenarios begin.
pub(super) fn with_a_draft(story: &mut Story<'_>) {
    familiar(story, |story| {
        uses(story, 0, 5);
        settle(story, 1);
    });
}

/// The same, and the customer has put a card on file.
pub(super) fn with_a_card(story: &mut Story<'_>, does: CardOutcome) {
    with_a_draft(story);
    story.put_a_card(0, does);
}

/// What happens in another scenario too: nothing more goes wrong at its gates.
pub(super) fn familiar(story: &mut Story<'_>, tell: impl FnOnce(&mut Story<'_>)) {
    gates::with(|gates| gates.familiar = true);
    tell(story);
    gates::with(|gates| gates.familiar = false);
}

/// A write takes effect and its process dies before it hears of that, and then something else happens. When the next one
/// looks, Stripe has forgotten the key.
pub(super) fn unheard_for_two_days(story: &mut Story<'_>, write: &str, happens: impl FnOnce(&mut Story<'_>)) {
    let sent = |story: &Story<'_>| {
        let calls = story.world.sandbox.call_counts();
        calls.iter().filter(|(call, _)| call.starts_with(write)).map(|(_, times)| times).sum::<u64>()
    };
    familiar(story, |story| {
        let before = sent(story);
        uses(story, 0, 5);
        story.send_unanswered(0);
        story.run_all();
        story.ask_for_sync(0, 0);
        story.run_all();
        story.work(0);
        while story.world.actors() > 0 && sent(story) == before {
            story.step(0);
        }
        if sent(story) == before {
            story.world.wrong(1, format!("nothing was sent to {write}, so this tells nothing"));
        }
        story.kill(0);
        happens(story);
        story.world.pass(Duration::hours(48));
        settle(story, 2);
        let known = story.world.stripe_list("/customers").len();
        if known > 1 {
            story.world.wrong(1, format!("one customer is {known} at Stripe"));
        }
    });
}

/// Tells the same again and again, and each time something happens one gate later, for as long as there is another
/// gate. After each everything has to be right.
pub(super) fn at_every_gate(
    story: &mut Story<'_>,
    tell: impl Fn(&mut Story<'_>, usize) -> bool,
) -> anyhow::Result<()> {
    gates::with(|gates| gates.familiar = true);
    let mut gate = 1;
    while tell(story, gate) && story.world.wrong.is_empty() {
        story.heal()?;
        promises::check(story);
        gate += 1;
    }
    gates::with(|gates| gates.familiar = false);
    Ok(())
}

/// A worker passes so many gates of a job of this kind; then something else happens, to its end, and then the worker goes
/// on. False where the job has not so many gates.
pub(super) fn meanwhile(
    story: &mut Story<'_>,
    kind: &str,
    gates: usize,
    happens: impl FnOnce(&mut Story<'_>),
) -> bool {
    story.work(0);
    while story.world.actors() > 0 && !runs(story, kind) {
        story.step(0);
    }
    for _ in 0..gates {
        story.step(0);
    }
    let more = runs(story, kind);
    happens(story);
    while more && story.world.actors() > 1 {
        story.step(1);
    }
    story.run_all();
    more
}

fn runs(story: &Story<'_>, kind: &str) -> bool {
    let running = "select kind from job where state = 'running'";
    promises::query::<(String,)>(story, running).iter().any(|(running,)| running == kind)
}

/// Every webhook that Stripe has for us begins to arrive.
pub(super) fn hears_all(story: &mut Story<'_>) {
    story.collect_mail();
    for delivery in std::mem::take(&mut story.mail) {
        story.deliver(0, delivery);
    }
}

/// What somebody took off an invoice that they then finalized is on no other invoice.
pub(super) fn stays_off(story: &mut Story<'_>, item_key: Option<String>) {
    let (Some(item_key), Some(customer)) = (item_key, story.stripe_customer(0)) else { return };
    for invoice in story.world.stripe_list(&format!("/invoices?customer={customer}")) {
        let id = invoice["id"].as_str().unwrap_or_default();
        let lines = story.world.stripe_list(&format!("/invoices/{id}/lines"));
        if lines.iter().any(|line| line["metadata"]["opentab_item"] == item_key.as_str()) {
            story.world.wrong(2, format!("{item_key} was taken off by hand, and {id} charges it again"));
        }
    }
}

/// A write fails once and for all: whenever it is sent again, it fails the same.
pub(super) fn fails_and_is_stored(story: &mut Story<'_>, write: &str) {
    let failure = Fault::Status { status: 500, code: None, stored: true, executed: false };
    familiar(story, |story| {
        story.world.sandbox.faults().next(write, failure);
        uses(story, 0, 5);
        settle(story, 3);
    });
}

pub(super) fn uses(story: &mut Story<'_>, customer: usize, quantity: i64) -> usize {
    let at = story.world.now();
    story.consume(&[(customer, 0, quantity, at)])
}

/// Ordinary life for a while. Whoever died starts again.
pub(super) fn settle(story: &mut Story<'_>, rounds: usize) {
    for _ in 0..rounds {
        let _ = story.raise();
        story.round(0);
        story.world.pass(Duration::seconds(61));
    }
    let _ = story.raise();
}

pub(super) fn settle_without_mail(story: &mut Story<'_>) {
    let _ = story.raise();
    story.tick(0);
    story.run_all();
    let _ = story.raise();
    story.work(0);
    story.run_all();
    let _ = story.raise();
}

pub(super) fn lose_mail(story: &mut Story<'_>) {
    story.collect_mail();
    for delivery in std::mem::take(&mut story.mail) {
        story.world.sandbox.delivery_done(&delivery.id, None);
    }
}

/// Everybody moves from gate to gate in turn.
pub(super) fn in_turn(story: &mut Story<'_>) {
    let mut next = 0;
    while story.world.actors() > 0 {
        next = (next + 1) % story.world.actors();
        story.step(next);
    }
}

/// To just after the end of the cycle and its grace.
pub(super) fn end_of_cycle(story: &mut Story<'_>) {
    let now = story.world.now();
    let customer = &story.company.customers[0];
    let end = customer.start_of(customer.next_cycle(customer.cycle_of(customer.day_of(now))));
    story.world.pass(end - now + Duration::minutes(61));
}
