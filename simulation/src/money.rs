//! Money: what has to hold of charges, and of what people are told of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::promises::query;
use super::story::Story;

/// Promises 1, 7 and 8, where the service charges by itself.
pub(crate) fn check(story: &mut Story<'_>) {
    let mut wrong: Vec<(u8, String)> = Vec::new();
    tries(story, &mut wrong);
    states(story, &mut wrong);
    notices(story, &mut wrong);
    story.world.wrong.extend(wrong.into_iter().map(|(promise, what)| format!("promise {promise}: {what}")));
}

/// Whatever was sent to be paid was written down, and nothing was tried again before somebody had asked how it ended.
fn tries(story: &Story<'_>, wrong: &mut Vec<(u8, String)>) {
    let rows: Vec<(String,)> = query(story, "select idempotency_key from charge_attempt");
    let written: BTreeSet<String> = rows.into_iter().map(|(key,)| key).collect();
    let mut unclear: BTreeMap<String, bool> = BTreeMap::new();
    for about in story.world.wire.payments() {
        let open = unclear.entry(about.invoice.clone()).or_default();
        match about.pay {
            None => *open = *open && !about.clear,
            Some(key) if !written.contains(&key) => {
                wrong
                    .push((1, format!("{} was charged under {key}, which nobody wrote down", about.invoice)));
            }
            Some(key) => {
                if *open {
                    let what = "was charged again before anybody asked how the try before had ended";
                    wrong.push((1, format!("{} {what}: {key}", about.invoice)));
                }
                *open = !about.clear;
            }
        }
    }
}

/// What is said of a charge is what Stripe says of its invoice, and nothing is left in between.
fn states(story: &Story<'_>, wrong: &mut Vec<(u8, String)>) {
    let now = story.world.now().timestamp_millis();
    let rows: Vec<(String, String, String, Option<i64>)> = query(
        story,
        "select invoice.stripe_invoice_id, charge.state, collection, next_attempt_at
         from charge join invoice on invoice.id = charge.invoice_id where invoice.stripe_invoice_id is not null",
    );
    for (id, state, collection, next) in rows {
        let there = story.world.stripe("GET", &format!("/invoices/{id}"), "");
        let status = there["status"].as_str().unwrap_or_default();
        let ended = |word: &str| matches!(word, "paid" | "void");
        if (ended(&state) || ended(status)) && state != status {
            wrong.push((3, format!("the charge of {id} is {state}, and the invoice {status}")));
        }
        if collection == "opentab" && state == "in_progress" {
            wrong.push((7, format!("nobody knows how the last try to charge {id} ended")));
        }
        let waits = matches!(state.as_str(), "pending" | "failed");
        if collection == "opentab" && waits && next.is_some_and(|next| next < now - 900_000) {
            wrong.push((
                7,
                format!(
                    "the charge of {id} should have gone on {} s ago",
                    (now - next.unwrap_or(now)) / 1_000
                ),
            ));
        }
    }
    let held: Vec<(String,)> = query(
        story,
        "select id from customer where suspended_at is not null and not exists (
             select 1 from charge where customer_id = customer.id and suspend_at is not null
                 and state in ('pending', 'in_progress', 'failed', 'needs_attention', 'uncollectible'))",
    );
    for (id,) in held {
        wrong.push((7, format!("customer {id} is suspended and owes nothing")));
    }
    let spared: Vec<(String, i64)> = query(
        story,
        "select charge.customer_id, suspend_at from charge join customer on customer.id = charge.customer_id
         where suspended_at is null and suspend_at is not null
             and charge.state in ('pending', 'failed', 'needs_attention')",
    );
    for (id, suspend_at) in spared {
        if suspend_at < now - 900_000 {
            let late = (now - suspend_at) / 1_000;
            wrong.push((7, format!("customer {id} should have been suspended {late} s ago")));
        }
    }
}

/// Whoever is told hears of each cause once.
fn notices(story: &Story<'_>, wrong: &mut Vec<(u8, String)>) {
    let failures: Vec<(String, String)> =
        query(story, "select subject, detail from audit where action = 'charge.failed'");
    let mut causes: BTreeMap<String, i64> = BTreeMap::new();
    for (invoice, detail) in failures {
        let detail: Value = serde_json::from_str(&detail).unwrap_or_default();
        *causes.entry(invoice).or_default() += i64::from(detail["tries"] == 1);
    }
    let told: Vec<(String, i64)> = query(
        story,
        "select subject, count(*) from outgoing_event where kind = 'charge.failed' group by subject",
    );
    for (invoice, times) in told {
        let causes = causes.get(&invoice).copied().unwrap_or(0);
        if times > causes {
            wrong.push((
                8,
                format!("{invoice} failed for {causes} causes, and the application was told {times} times"),
            ));
        }
    }
    let brought: Vec<(String, i64)> = query(
        story,
        "select id, (select count(*) from email where email.invoice_id = invoice.id and email.kind = 'invoice')
         from invoice where sealed_at is not null and total <> 0 and state in ('open', 'paid', 'uncollectible')",
    );
    for (invoice, times) in brought {
        if times != 1 {
            wrong.push((8, format!("{invoice} is finalized, and there are {times} e-mails that bring it")));
        }
    }
    let mut sent = BTreeSet::new();
    for email in story.world.office.mail.delivered() {
        if !sent.insert(email.message_id.clone()) {
            wrong.push((8, format!("{} was sent twice: {}", email.message_id, email.subject)));
        }
    }
    let unseen: Vec<(String,)> = query(
        story,
        "select id from email where state = 'unknown'
         and not exists (select 1 from incident where kind = 'email_unknown' and subject = email.id)",
    );
    for (id,) in unseen {
        wrong.push((8, format!("e-mail {id} is unknown, and nobody is told")));
    }
    let stuck: Vec<(String,)> = query(story, "select id from email where state = 'sending'");
    for (id,) in stuck {
        wrong.push((7, format!("nobody says what became of e-mail {id}")));
    }
}
