//! Random: a history in which one seed chooses who is billed, who moves next, and what goes wrong.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, TimeZone, Utc};

use super::chance::Chance;
use super::company::{Cost, Counts, METERS};
use super::engine::Engine;
use super::faults::{self, Rates};
use super::gates::{self, Gates};
use super::story::{Plan, Story};
use super::trace::Trace;
use super::world::{Shape, World};
use opentab_sandbox::CardOutcome;

/// Zones with their own ideas of midnight, in both directions, and clocks that change in spring and in autumn.
const ZONES: &[chrono_tz::Tz] = &[
    chrono_tz::UTC,
    chrono_tz::Europe::Berlin,
    chrono_tz::America::New_York,
    chrono_tz::Pacific::Auckland,
    chrono_tz::America::Santiago,
    chrono_tz::Asia::Kathmandu,
];
const CURRENCIES: &[&str] = &["usd", "eur", "jpy"];

/// How a random history is tempered: weights that differ from seed to seed.
struct Temper {
    steps: u64,
    /// Whether it goes on to the end of the cycles. Most do not, so that there can be many: what breaks a promise seldom
    /// takes long.
    long: bool,
    /// How many gates an actor passes before somebody else may move, at most.
    stride: u64,
    human: u64,
    kill: u64,
    jump: u64,
    mail_lost: u64,
    mail_twice: u64,
    mail_late: u64,
    mail_fault: u64,
}

impl Temper {
    fn drawn(chance: &mut Chance) -> Temper {
        let long = chance.hits(250_000);
        Temper {
            steps: if long { 15 + chance.below(50) } else { 6 + chance.below(20) },
            long,
            stride: *chance.pick(&[3, 12, 40, 80]),
            human: *chance.pick(&[0, 0, 20_000, 80_000]),
            kill: *chance.pick(&[0, 5_000, 30_000]),
            jump: *chance.pick(&[5_000, 20_000, 60_000]),
            mail_lost: *chance.pick(&[0, 0, 100_000, 900_000]),
            mail_twice: *chance.pick(&[0, 100_000, 400_000]),
            mail_late: *chance.pick(&[0, 0, 300_000]),
            mail_fault: *chance.pick(&[0, 200_000, 600_000]),
        }
    }
}

/// What one history came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub wrong: Vec<String>,
    pub simulated: Duration,
    pub gates: u64,
    pub injected: BTreeMap<&'static str, u64>,
    pub digest: Option<(String, u64)>,
}

/// Runs the history of a seed from its beginning to its checks.
pub(crate) fn history(engine: &Engine, seed: u64, trace: Trace) -> anyhow::Result<Outcome> {
    let mut chance = Chance::new(seed);
    let (shape, plans) = (shape(seed, &mut chance), plans(&mut chance));
    let temper = Temper::drawn(&mut chance);
    let rates = Rates::drawn(&mut chance);
    let begins = shape.begins;
    let mut gates = Gates::new(chance, Rates::none(), trace);
    gates.trace.note(|| format!("seed {seed}: {shape:?}"));
    let world = World::new(engine, shape, gates)?;
    let mut story = Story::begin(world, &plans)?;
    story.ticks_at_least(|world| world.chance(|chance| chance.hits(300_000)));
    if story.world.charges() {
        payday(&mut story);
    }
    gates::with(|gates| gates.rates = rates);
    for _ in 0..temper.steps {
        turn(&mut story, &temper)?;
    }
    rush(&mut story)?;
    // Some of the long ones are looked at twice; the others go straight on.
    if !temper.long || story.world.chance(|chance| chance.hits(300_000)) {
        story.heal()?;
        super::promises::check(&mut story);
    }
    if temper.long {
        story.close_the_books()?;
        super::promises::check(&mut story);
    }
    Ok(finish(story, begins))
}

/// Takes a history down and says what it came to.
pub(crate) fn finish(story: Story<'_>, begins: DateTime<Utc>) -> Outcome {
    let simulated = story.world.now() - begins;
    let wrong = story.world.wrong.clone();
    let acts = story.company.human_acts.clone();
    drop(story);
    let Some(gates) = gates::remove() else { return Outcome { wrong, simulated, ..Outcome::default() } };
    let mut injected = gates.injected;
    for (act, times) in acts {
        *injected.entry(act).or_default() += times;
    }
    Outcome { wrong, simulated, gates: gates.count, injected, digest: gates.trace.digest() }
}

fn shape(seed: u64, chance: &mut Chance) -> Shape {
    // Near the ends of months, of a February, of summer time and of a year there is more to get wrong.
    let days = [
        (2026, 1, 28),
        (2026, 2, 26),
        (2026, 3, 27),
        (2026, 9, 25),
        (2026, 10, 30),
        (2026, 12, 29),
        (2028, 2, 27),
    ];
    let (year, month, day) = *chance.pick(&days);
    // Not on the hour: somewhere it is midnight then, and whether a clock is ahead would decide when a customer began.
    let begins =
        Utc.with_ymd_and_hms(year, month, day, chance.below(24) as u32, 10, 0).single().unwrap_or_default();
    let processes = 1 + chance.index(2);
    let mut settings = BTreeMap::from([
        ("OPENTAB_LINES_PER_CALL", chance.pick(&["1", "2", "50"]).to_string()),
        ("OPENTAB_GRACE", chance.pick(&["1m", "1h", "30h"]).to_string()),
    ]);
    if chance.hits(150_000) {
        settings.insert("OPENTAB_LINES_PER_INVOICE", "2".to_owned());
    }
    // A payday takes five times as long as other histories: of those there are to be many.
    if chance.hits(150_000) {
        settings.insert("OPENTAB_COLLECTION", "opentab".to_owned());
    }
    let skew = |chance: &mut Chance| {
        Duration::milliseconds(if chance.hits(700_000) { 0 } else { chance.between(-2_000, 2_000) })
    };
    let skews = (0..processes).map(|_| skew(chance)).collect();
    Shape { seed, processes, begins, settings, skews }
}

fn plans(chance: &mut Chance) -> Vec<Plan> {
    (0..*chance.pick(&[1, 1, 1, 1, 2, 3])).map(|_| plan(chance)).collect()
}

fn plan(chance: &mut Chance) -> Plan {
    let service = |chance: &mut Chance| match chance.below(5) {
        0 => (None, Cost::Flat(100 * chance.between(1, 90))),
        1 => (Some(chance.index(METERS.len())), Cost::PerUnit(100 * chance.between(1, 9))),
        2 => (Some(0), Cost::Graduated { first: 10, at: 500, then: 100 }),
        3 => (Some(chance.index(METERS.len())), Cost::Volume { up_to: 12, at: 300, beyond: 200 }),
        _ => (Some(chance.index(METERS.len())), Cost::Package { size: 7, at: 1_000 }),
    };
    Plan {
        zone: *chance.pick(ZONES),
        anchor: *chance.pick(&[1, 1, 15, 29, 31]),
        currency: chance.pick::<&'static str>(CURRENCIES),
        send_invoice: chance.hits(300_000),
        services: (0..1 + chance.index(4)).map(|_| service(chance)).collect(),
    }
}

/// One thing happens.
fn turn(story: &mut Story<'_>, temper: &Temper) -> anyhow::Result<()> {
    if story.world.charges() && story.world.chance(|chance| chance.hits(100_000)) {
        card(story);
    }
    let processes = story.world.process_count();
    let draw = story.world.chance(|chance| chance.below(1_000_000));
    let mut threshold = temper.jump;
    if draw < threshold {
        jump(story);
        return Ok(());
    }
    threshold += temper.kill;
    if draw < threshold {
        let (no, gently) = story.world.chance(|chance| (chance.index(processes), chance.hits(300_000)));
        if gently {
            story.stop(no)
        } else {
            story.kill(no)
        }
        return Ok(());
    }
    threshold += temper.human;
    if draw < threshold {
        human(story);
        return Ok(());
    }
    let process = story.world.chance(|chance| chance.index(processes));
    if !story.world.is_up(process) {
        // The supervisor takes a moment.
        if story.world.chance(|chance| chance.hits(300_000)) {
            story.world.start(process)?;
        }
        return Ok(());
    }
    match story.world.chance(|chance| chance.below(100)) {
        0..55 => go_on(story, temper.stride),
        55..67 => work(story, process),
        67..75 => usage(story, process),
        75..82 => mail(story, temper, process),
        82..87 => story.tick(process),
        87..92 => moment(story),
        92..95 => {
            let customer = story.world.chance(|chance| chance.index(story.company.customers.len()));
            if story.world.charges() && story.world.chance(|chance| chance.hits(300_000)) {
                story.ask_for_payment(process, customer)
            } else {
                story.ask_for_sync(process, customer)
            }
        }
        95..98 => {
            let customer = story.world.chance(|chance| chance.index(story.company.customers.len()));
            story.look(process, customer);
        }
        _ => story.ask_for_events(process),
    }
    Ok(())
}

/// What is due by now is worked on while things still go wrong: most of what Stripe is asked for is asked for here.
fn rush(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.raise()?;
    for process in 0..story.world.process_count() {
        story.tick(process);
        story.run_all();
        story.work(process);
    }
    while story.world.actors() > 0 {
        go_on(story, 80);
    }
    Ok(())
}

/// Somebody who is under way goes on for a while.
fn go_on(story: &mut Story<'_>, stride: u64) {
    let actors = story.world.actors();
    if actors == 0 {
        return;
    }
    let (mut index, steps) = story.world.chance(|chance| (chance.index(actors), 1 + chance.below(stride)));
    for _ in 0..steps {
        if index >= story.world.actors() {
            index = 0;
        }
        if story.world.actors() == 0 {
            return;
        }
        story.step(index);
    }
}

fn work(story: &mut Story<'_>, process: usize) {
    if story.world.actors_in(process, "worker") < 3 {
        story.work(process);
    }
}

fn usage(story: &mut Story<'_>, process: usize) {
    let again = story.world.chance(|chance| chance.hits(400_000));
    if again && !story.company.batches.is_empty() {
        // A program that is not sure sends again, also what was answered long ago.
        let batch = story.world.chance(|chance| chance.index(story.company.batches.len()));
        story.send(process, batch);
        return;
    }
    let now = story.world.now();
    let events = story.world.chance(|chance| {
        let event = |chance: &mut Chance| {
            let customer = chance.index(story.company.customers.len());
            let meter = chance.index(METERS.len());
            let late =
                if chance.hits(250_000) { chance.between(0, 40 * 86_400) } else { chance.between(0, 600) };
            let quantity = chance.between(1, 20);
            (customer, meter, quantity, now - Duration::seconds(late))
        };
        (0..1 + chance.below(4)).map(|_| event(chance)).collect::<Vec<_>>()
    });
    let mut events: Vec<_> = events
        .into_iter()
        .filter(|(customer, _, _, at)| {
            let customer = &story.company.customers[*customer];
            customer.day_of(*at) >= customer.since
        })
        .collect();
    take_back(story, &mut events);
    if !events.is_empty() {
        let batch = story.consume(&events);
        story.send(process, batch);
    }
}

/// Now and then an earlier event is taken back, by an event of its own.
fn take_back(story: &Story<'_>, events: &mut Vec<(usize, usize, i64, DateTime<Utc>)>) {
    if !story.world.chance(|chance| chance.hits(100_000)) {
        return;
    }
    let summed =
        |event: &&super::company::Event| METERS[event.meter].counts == Counts::Sum && event.quantity > 0;
    let Some(event) = story.company.events.iter().rfind(summed) else { return };
    let taken =
        story.company.events.iter().any(|other| other.quantity == -event.quantity && other.at == event.at);
    if !taken {
        events.push((event.customer, event.meter, -event.quantity, event.at));
    }
}

fn mail(story: &mut Story<'_>, temper: &Temper, process: usize) {
    let fault = story
        .world
        .chance(|chance| chance.hits(temper.mail_fault).then(|| chance.pick(faults::of_webhooks()).clone()));
    match fault {
        Some(fault) => story.collect_mail_with(&fault),
        None => story.collect_mail(),
    }
    if story.mail.is_empty() {
        return;
    }
    let (index, lost, twice, late) = story.world.chance(|chance| {
        let index = if chance.hits(500_000) { 0 } else { chance.index(story.mail.len()) };
        (index, chance.hits(temper.mail_lost), chance.hits(temper.mail_twice), chance.hits(temper.mail_late))
    });
    if late {
        return;
    }
    let delivery = story.mail.remove(index);
    if lost {
        gates::note(|| format!("{} is lost on the way", delivery.event_type));
        story.world.sandbox.delivery_done(&delivery.id, None);
        return;
    }
    if twice {
        story.deliver(process, delivery.clone());
    }
    story.deliver(process, delivery);
}

/// A moment passes: enough for a lease to run out, now and then. Or somebody sets a clock.
fn moment(story: &mut Story<'_>) {
    if story.world.chance(|chance| chance.hits(40_000)) {
        let (no, ms) = story
            .world
            .chance(|chance| (chance.index(story.world.process_count()), chance.between(-240_000, 240_000)));
        story.world.skew(no, Duration::milliseconds(ms));
        gates::with(|gates| *gates.injected.entry("clock_jump").or_default() += 1);
    }
    let seconds = story.world.chance(|chance| *chance.pick(&[1, 1, 5, 20, 60]));
    story.world.pass(Duration::seconds(seconds));
}

/// Everybody has used something, somebody has a card, and somebody's cycle is over.
fn payday(story: &mut Story<'_>) {
    let now = story.world.now();
    for customer in 0..story.company.customers.len() {
        story.consume(&[(customer, 0, 5, now)]);
    }
    for _ in 0..2 {
        story.round(0);
        story.world.pass(Duration::seconds(301));
    }
    for _ in 0..story.company.customers.len() {
        card(story);
    }
    let customer = &story.company.customers[0];
    let end = customer.start_of(customer.next_cycle(customer.cycle_of(customer.day_of(now))));
    story.world.pass(end + story.grace() - story.world.now());
}

/// Somebody's card, or what becomes of it.
fn card(story: &mut Story<'_>) {
    let (customer, does) = story.world.chance(|chance| {
        let does = [
            CardOutcome::Succeeds,
            CardOutcome::Succeeds,
            CardOutcome::Succeeds,
            CardOutcome::Declined("insufficient_funds"),
            CardOutcome::Declined("generic_decline"),
            CardOutcome::NeedsAction,
        ];
        (chance.index(story.company.customers.len()), *chance.pick(&does))
    });
    story.put_a_card(customer, does);
}

/// A good while passes: to just before or after the end of somebody's cycle, or some hours or days.
fn jump(story: &mut Story<'_>) {
    let now = story.world.now();
    let customer = story.world.chance(|chance| chance.index(story.company.customers.len()));
    let customer = &story.company.customers[customer];
    let end = customer.start_of(customer.next_cycle(customer.cycle_of(customer.day_of(now))));
    let span = story.world.chance(|chance| match chance.below(4) {
        0 => Duration::minutes(chance.between(1, 600)),
        1 => Duration::hours(chance.between(1, 120)),
        2 => end - now + Duration::seconds(chance.between(-90, 90)),
        _ => end - now + Duration::minutes(chance.between(1, 2_000)),
    });
    story.world.pass(span.max(Duration::seconds(1)));
}

fn human(story: &mut Story<'_>) {
    let (customer, what, which, amount) = story.world.chance(|chance| {
        (
            chance.index(story.company.customers.len()),
            chance.below(24),
            chance.index(8),
            100 * chance.between(1, 99),
        )
    });
    match what {
        0..4 => story.edit_a_line(customer, which, amount),
        4..8 => drop(story.remove_a_line(customer, which)),
        8..11 => story.add_a_foreign_line(customer, amount),
        11..15 => story.finalize_by_hand(customer),
        15..18 => story.delete_the_draft(customer),
        18..20 => story.end_an_open_invoice(customer, "void"),
        20..21 => story.end_an_open_invoice(customer, "mark_uncollectible"),
        21..23 => story.end_an_open_invoice(customer, "pay"),
        _ => story.delete_the_customer(customer),
    }
}
