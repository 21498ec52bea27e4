//! Amounts from outside: from an API that fails in every way, each comes once, or is listed with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chrono::TimeDelta;
use opentab::internals::app::App;
use opentab::internals::jobs;
use opentab::internals::jobs::schedule::{self, GENERATE_MONTH, TICKS};
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{AmountFilter, LookedUpAmount, Page, both};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::{self, CustomerChange};
use opentab::internals::workflows::generate::Planned;
use opentab::internals::workflows::sync::sync;
use opentab::internals::workflows::{amounts, generate};
use serde_json::json;

use crate::console::Desk;
use crate::secrets::LOOKUP_HEADER;
use crate::tab::{Setup, Tab};

/// How the API answers.
#[derive(Clone, Copy, Debug)]
enum Says {
    Amount(i64),
    Null,
    NotFound,
    Broken,
    Slow,
    Euro(i64),
    Huge,
    Redirect,
    Page,
}

/// An API that does as it is told.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    /// For each customer the next answers, of which the last stays.
    answers: BTreeMap<String, Vec<Says>>,
    hits: usize,
}

impl Api {
    fn says(&self, customer: &str, answers: &[Says]) {
        self.0.lock().unwrap().answers.insert(customer.to_owned(), answers.to_vec());
    }

    fn all_say(&self, answer: Says) {
        self.0.lock().unwrap().answers.values_mut().for_each(|answers| *answers = vec![answer]);
    }

    fn hits(&self) -> usize {
        self.0.lock().unwrap().hits
    }

    fn next(&self, customer: &str) -> Says {
        let mut told = self.0.lock().unwrap();
        told.hits += 1;
        let answers = told.answers.get_mut(customer).expect("an answer");
        if answers.len() > 1 { answers.remove(0) } else { answers[0] }
    }

    async fn serve(&self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{customer}/{month}", get(answer)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

async fn answer(
    State(api): State<Api>,
    Path((customer, month)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if headers.get("authorization").is_none_or(|token| token != LOOKUP_HEADER) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let amount = |amount: i64, currency: &str| {
        axum::Json(json!({ "data": { "amount": amount, "currency": currency } })).into_response()
    };
    assert_eq!(month, "2026-11");
    match api.next(&customer) {
        Says::Amount(minor_units) => amount(minor_units, "USD"),
        Says::Euro(minor_units) => amount(minor_units, "EUR"),
        Says::Null => axum::Json(json!({ "data": { "amount": null } })).into_response(),
        Says::NotFound => StatusCode::NOT_FOUND.into_response(),
        Says::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Says::Slow => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            amount(1, "USD")
        }
        Says::Huge => "x".repeat(1_000_000).into_response(),
        Says::Redirect => Redirect::temporary("http://169.254.169.254/latest").into_response(),
        Says::Page => "<html>".into_response(),
    }
}

struct Company {
    tab: Tab,
    api: Api,
    price: String,
}

impl Company {
    async fn new() -> Company {
        Company::with(&[], "").await
    }

    async fn with(settings: &[(&'static str, &'static str)], more: &str) -> Company {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = Api::default();
        let address = api.serve().await;
        let toml = format!(
            "[lookup.erp]\nurl = \"http://{address}/{{external_id}}/{{month}}\"\namount = \"/data/amount\"\n\
             currency = \"/data/currency\"\ntimeout = \"1s\"\n{more}\n\
             headers = {{ Authorization = \"{LOOKUP_HEADER}\" }}\n"
        );
        let settings = [&[("OPENTAB_WEBHOOK_ALLOW", "127.0.0.1")], settings].concat();
        let tab = Tab::with(Setup { settings, toml, ..Setup::default() }).await;
        let terms = json!({ "currency": "usd", "model": "looked_up", "lookup": "erp" });
        let price = tab.price("Platform", None, serde_json::from_value(terms).unwrap()).await;
        Company { tab, api, price }
    }

    async fn customer(&self, name: &str, answers: &[Says]) -> Customer {
        let customer = self.tab.customer(name).await;
        self.tab.serves(&customer, &self.price).await;
        self.api.says(&name.to_lowercase(), answers);
        customer
    }

    /// Time passes, in steps in which everything that is due is done.
    async fn pass(&self, step: TimeDelta, steps: usize) {
        for _ in 0..steps {
            self.tab.settle().await;
            self.tab.pass(step);
        }
        self.tab.settle().await;
    }

    async fn amount(&self, customer: &Customer) -> LookedUpAmount {
        let mut all = self.tab.app.store.amounts_of_cycle(&customer.id, "2026-11-01").await.unwrap();
        assert_eq!(all.len(), 1, "{}: {all:?}", customer.name);
        all.remove(0)
    }

    /// What stands on sealed invoices.
    async fn billed(&self, customer: &Customer) -> Vec<i64> {
        let sql = both("select amount from invoice_line where customer_id = $1 order by amount");
        let rows: Vec<(i64,)> = self.tab.app.store.db.all(sql, (customer.id.as_str(),)).await.unwrap();
        rows.into_iter().map(|(amount,)| amount).collect()
    }

    async fn incidents(&self, kind: &str) -> Vec<String> {
        let page = Page { limit: 100, after: String::new(), before: String::new() };
        let all = self.tab.app.store.open_incidents(&page).await.unwrap().0;
        all.into_iter().filter(|incident| incident.kind == kind).map(|incident| incident.subject).collect()
    }
}

#[tokio::test]
async fn every_amount_arrives_once_or_is_listed_with_its_reason() {
    let c = Company::new().await;
    let known = [
        ("Sound", vec![Says::Amount(1_250)], 1_250),
        ("Broken", vec![Says::Broken, Says::Broken, Says::Amount(700)], 700),
        ("Slow", vec![Says::Slow, Says::Amount(800)], 800),
        ("Repaired", vec![Says::Page, Says::Euro(5), Says::Huge, Says::Redirect, Says::Amount(900)], 900),
    ];
    let never = [
        ("Null", Says::Null, "missing", "null"),
        ("Nobody", Says::NotFound, "missing", "not_found"),
        ("Euro", Says::Euro(5), "asking", "wrong_currency"),
        ("Huge", Says::Huge, "asking", "too_large"),
        ("Away", Says::Redirect, "asking", "redirect"),
        ("Page", Says::Page, "asking", "unreadable"),
    ];
    let mut customers = BTreeMap::new();
    for (name, answers, _) in &known {
        customers.insert(*name, c.customer(name, answers).await);
    }
    for (name, answer, ..) in &never {
        customers.insert(*name, c.customer(name, &[*answer]).await);
    }
    c.tab.settle().await;
    assert_eq!(c.api.hits(), 0, "a cycle that is not over has no amount");
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(10), 12).await;
    for (name, _, amount) in &known {
        let found = c.amount(&customers[name]).await;
        assert_eq!((found.state.as_str(), found.amount), ("known", Some(*amount)), "{found:?}");
        assert_eq!(c.billed(&customers[name]).await, [*amount], "{name}");
    }
    for (name, _, state, reason) in &never {
        let found = c.amount(&customers[name]).await;
        assert_eq!((found.state.as_str(), found.reason.as_deref()), (*state, Some(*reason)), "{found:?}");
        assert!(c.billed(&customers[name]).await.is_empty(), "{name}");
    }
    let page = Page { limit: 100, after: String::new(), before: String::new() };
    let filter = AmountFilter { month: "2026-11".to_owned(), state: "asking".to_owned() };
    assert_eq!(c.tab.app.store.looked_up_amounts(&page, &filter).await.unwrap().0.len(), 4);
    let is_any_unknown = async |state: &str| {
        let filter = AmountFilter { month: "2026-11".to_owned(), state: state.to_owned() };
        c.tab.app.store.is_any_amount_unknown(&filter).await.unwrap()
    };
    assert!(is_any_unknown("").await && is_any_unknown("missing").await && !is_any_unknown("known").await);
    // What comes after everything was closed without it is on the next draft.
    c.pass(TimeDelta::hours(12), 8).await;
    assert_eq!(c.incidents("amount_missing").await.len(), 6);
    c.api.all_say(Says::Amount(300));
    assert_eq!(amounts::ask_again(&c.tab.app, "2026-11", false, &By::operator()).await.unwrap(), 6);
    c.pass(TimeDelta::minutes(10), 3).await;
    for (name, ..) in &never {
        let draft = c.tab.draft(&customers[name]).await;
        assert_eq!(draft.values().copied().collect::<Vec<_>>(), [300], "{name}");
    }
    assert!(c.incidents("amount_missing").await.is_empty(), "nothing is missing any more");
}

#[tokio::test]
async fn the_breaker_opens_while_the_api_is_down_and_closes_when_it_is_back() {
    let c = Company::new().await;
    let mut customers = Vec::new();
    for n in 0..8 {
        customers.push(c.customer(&format!("C{n}"), &[Says::Broken]).await);
    }
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::seconds(2), 5).await;
    let breaker = c.tab.app.store.lookup_breaker("erp").await.unwrap().unwrap();
    assert_eq!((breaker.state.as_str(), c.incidents("lookup_down").await), ("open", vec!["erp".to_owned()]));
    let hits = c.api.hits();
    assert!((5..=8).contains(&hits), "{hits} hits");
    // It is left alone, but for one try after each rest.
    c.pass(TimeDelta::seconds(30), 40).await;
    assert!(c.api.hits() - hits <= 8, "{} tries in 20 minutes", c.api.hits() - hits);
    c.api.all_say(Says::Amount(100));
    c.pass(TimeDelta::minutes(5), 12).await;
    let breaker = c.tab.app.store.lookup_breaker("erp").await.unwrap().unwrap();
    assert_eq!((breaker.state.as_str(), c.incidents("lookup_down").await.len()), ("closed", 0));
    for customer in &customers {
        assert_eq!(c.billed(customer).await, [100]);
    }
}

#[tokio::test]
async fn a_service_that_begins_in_a_cycle_that_was_billed_has_its_amount_asked_for() {
    let c = Company::new().await;
    let ada = c.tab.customer("Ada").await;
    c.api.says("ada", &[Says::Amount(700)]);
    c.tab.at("2026-12-05T00:00:00Z");
    c.pass(TimeDelta::minutes(1), 2).await;
    c.tab.serves_from(&ada, &c.price, "2026-11-01", Some("2026-12-01")).await;
    c.pass(TimeDelta::minutes(10), 2).await;
    assert_eq!((c.api.hits(), c.amount(&ada).await.amount), (1, Some(700)));
    assert_eq!(c.tab.draft(&ada).await.values().copied().collect::<Vec<_>>(), [700]);
}

#[tokio::test]
async fn an_amount_that_comes_while_its_invoice_is_closed_is_on_it() {
    let c = Company::new().await;
    let mut customers = Vec::new();
    for n in 0..40 {
        customers.push(c.customer(&format!("C{n}"), &[Says::Amount(700)]).await);
    }
    c.tab.at("2026-12-01T01:05:00Z");
    for customer in &customers {
        sync(&c.tab.app, &customer.id).await.unwrap();
        let amount = c.amount(customer).await;
        let (synced, asked) =
            tokio::join!(sync(&c.tab.app, &customer.id), amounts::look_up(&c.tab.app, &amount.id));
        assert!(synced.is_ok() && asked.is_ok());
    }
    c.pass(TimeDelta::minutes(10), 3).await;
    for customer in &customers {
        let sealed: Vec<String> =
            c.tab.sealed(customer).await.into_iter().map(|invoice| invoice.cycle).collect();
        assert_eq!((sealed, c.billed(customer).await), (vec!["2026-11-01".to_owned()], vec![700]));
    }
}

#[tokio::test]
async fn where_lists_decide_nobody_is_asked_about_whom_none_named() {
    let c = Company::with(&[("OPENTAB_BILLED_CUSTOMERS", "imported")], "").await;
    let ada = c.customer("Ada", &[Says::Broken]).await;
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(10), 2).await;
    assert_eq!(c.api.hits(), 0);
    assert!(c.tab.app.store.amounts_of_cycle(&ada.id, "2026-11-01").await.unwrap().is_empty());
    assert_ne!(c.tab.current(&ada).await.cycle, "2026-11-01", "and nothing waits for it");
}

#[tokio::test]
async fn the_first_answer_stands_until_a_person_takes_the_later_one() {
    let c = Company::new().await;
    let ada = c.customer("Ada", &[Says::Amount(100), Says::Amount(250)]).await;
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(1), 4).await;
    assert_eq!(c.billed(&ada).await, [100]);
    amounts::ask_again(&c.tab.app, "2026-11", true, &By::operator()).await.unwrap();
    c.pass(TimeDelta::minutes(1), 2).await;
    let amount = c.amount(&ada).await;
    assert_eq!((amount.amount, amount.other_amount), (Some(100), Some(250)));
    assert_eq!(c.incidents("amount_differs").await, std::slice::from_ref(&amount.id));
    assert!(c.tab.current(&ada).await.stripe_invoice_id.is_some());
    assert_eq!(c.tab.draft(&ada).await.len(), 0);
    let other = amounts::accept(&c.tab.app, &amount.id, 7_000, &By::operator()).await;
    assert!(other.is_err(), "nobody was shown that one");
    amounts::accept(&c.tab.app, &amount.id, 250, &By::operator()).await.unwrap();
    c.tab.settle().await;
    assert_eq!(c.tab.draft(&ada).await.values().copied().collect::<Vec<_>>(), [150]);
    assert_eq!(c.incidents("amount_differs").await.len(), 0);
    assert!(amounts::accept(&c.tab.app, &amount.id, 250, &By::operator()).await.is_err());
}

#[tokio::test]
async fn a_later_answer_that_there_is_no_amount_is_reported_and_an_api_that_is_away_is_not() {
    let c = Company::new().await;
    let first = Says::Amount(100);
    let none = c.customer("None", &[first, Says::Null]).await;
    let gone = c.customer("Gone", &[first, Says::NotFound]).await;
    let euro = c.customer("Euro", &[first, Says::Euro(100)]).await;
    let away = c.customer("Away", &[first, Says::Broken, Says::Page, first]).await;
    let dead = c.customer("Dead", &[first, Says::Page]).await;
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(1), 4).await;
    amounts::ask_again(&c.tab.app, "2026-11", true, &By::operator()).await.unwrap();
    c.pass(TimeDelta::minutes(20), 12).await;
    let mut reported = Vec::new();
    for (customer, other, reason) in [
        (&none, Some(0), Some("null")),
        (&gone, Some(0), Some("not_found")),
        (&euro, None, Some("wrong_currency")),
        (&away, None, None),
        (&dead, None, Some("unreadable")),
    ] {
        let found = c.amount(customer).await;
        assert_eq!((found.state.as_str(), found.amount), ("known", Some(100)), "{}", customer.name);
        assert_eq!((found.other_amount, found.reason.as_deref()), (other, reason), "{}", customer.name);
        reported.push(found.id);
    }
    let differs: BTreeSet<String> = c.incidents("amount_differs").await.into_iter().collect();
    assert_eq!(differs, reported[..3].iter().cloned().collect());
    // It is not asked for ever, either.
    let hits = c.api.hits();
    c.pass(TimeDelta::hours(2), 3).await;
    assert_eq!(c.api.hits(), hits);
    // Somebody takes it: what was billed is given back.
    amounts::accept(&c.tab.app, &reported[0], 0, &By::operator()).await.unwrap();
    c.tab.settle().await;
    assert_eq!(c.tab.draft(&none).await.values().copied().collect::<Vec<_>>(), [-100]);
    assert!(amounts::accept(&c.tab.app, &reported[2], 0, &By::operator()).await.is_err());
}

#[tokio::test]
async fn an_amount_that_is_missing_is_nought_where_that_is_the_policy() {
    let c = Company::with(&[], "missing = \"zero\"").await;
    let ada = c.customer("Ada", &[Says::Null]).await;
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(1), 2).await;
    let amount = c.amount(&ada).await;
    assert_eq!(
        (amount.state.as_str(), amount.amount, amount.reason.as_deref()),
        ("known", Some(0), Some("null"))
    );
}

#[tokio::test]
async fn a_month_that_three_replicas_generate_at_once_is_one_invoice_for_each_customer() {
    let c = Company::new().await;
    let mut customers = Vec::new();
    for n in 0..20 {
        customers.push(c.customer(&format!("C{n}"), &[Says::Amount(100 + n)]).await);
    }
    c.tab.customer("Idle").await;
    let app = &c.tab.app;
    c.tab.at("2026-12-01T00:10:00Z");
    let replicas = [c.tab.replica(), c.tab.replica(), c.tab.replica()];
    let generate = async |replica: &App| {
        generate::generate(replica, "2026-11").await.unwrap();
        jobs::run_due(replica).await.unwrap();
    };
    tokio::join!(generate(&replicas[0]), generate(&replicas[1]), generate(&replicas[2]));
    c.pass(TimeDelta::minutes(15), 8).await;
    tokio::join!(generate(&replicas[0]), generate(&replicas[1]), generate(&replicas[2]));
    c.pass(TimeDelta::minutes(1), 2).await;
    assert_eq!(c.api.hits(), 20, "each amount is asked for once");
    for (n, customer) in customers.iter().enumerate() {
        assert_eq!(c.billed(customer).await, [100 + n as i64]);
        let sql = both("select count(*) from invoice where customer_id = $1 and sealed_at is not null");
        let (invoices,): (i64,) = app.store.db.one(sql, (customer.id.as_str(),)).await.unwrap();
        assert_eq!(invoices, 1);
    }
}

#[tokio::test]
async fn a_dry_run_says_what_each_customer_would_be_billed_or_why_not() {
    let c = Company::new().await;
    let ada = c.customer("Ada", &[Says::Amount(100)]).await;
    c.tab.flat_fee(&ada, "Basics", 900).await;
    c.tab.customer("Idle").await;
    let gone = c.customer("Gone", &[Says::Amount(100)]).await;
    let until = Some(Some("2026-11-01".parse().unwrap()));
    let change = CustomerChange { active_until: until, ..CustomerChange::default() };
    customers::update(&c.tab.app, &gone.id, change, &By::operator()).await.unwrap();
    let plan = async |month: &str| {
        let mut all = BTreeMap::new();
        let note = |one: &Planned| {
            all.insert(one.customer_name.clone(), (one.left_out, one.owed, one.lines.len(), one.awaited));
        };
        let found = generate::plan(&c.tab.app, month, note).await.unwrap();
        (found.customers, found.billed, all.into_values().collect::<Vec<_>>())
    };
    let (idle, over) = ((Some("no_service"), 0, 0, 0), (Some("not_active"), 0, 0, 0));
    assert_eq!(plan("2026-11").await, (3, 1, vec![(None, 900, 2, 1), over, idle]));
    assert_eq!(plan("2026-12").await.2[0], (Some("not_begun"), 0, 0, 0));
    assert!(c.tab.jobs("queued").await.iter().all(|(kind, ..)| kind != generate::GENERATE));
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(1), 3).await;
    assert_eq!(plan("2026-11").await.2[0], (None, 1_000, 2, 0));
}

#[tokio::test]
async fn the_schedule_generates_the_month_before_once_over_all_replicas() {
    let c = Company::new().await;
    let ada = c.customer("Ada", &[Says::Amount(100)]).await;
    let tick = async |app: &App| {
        let entry = TICKS.iter().find(|tick| tick.name == GENERATE_MONTH).unwrap();
        let taken = schedule::tick(app, *entry).await.unwrap();
        jobs::run_due(app).await.unwrap();
        taken
    };
    // Whoever starts in the middle of a month makes up for its first; there is nothing to ask for in October.
    assert!(tick(&c.tab.app).await);
    c.tab.at("2026-11-30T23:59:00Z");
    assert!(!tick(&c.tab.app).await, "it is still November");
    c.tab.at("2026-12-01T00:00:00Z");
    let replicas = [c.tab.replica(), c.tab.replica(), c.tab.replica()];
    let all = tokio::join!(tick(&replicas[0]), tick(&replicas[1]), tick(&replicas[2]));
    assert_eq!([all.0, all.1, all.2].into_iter().filter(|taken| *taken).count(), 1);
    c.tab.pass(TimeDelta::seconds(10));
    jobs::run_due(&c.tab.app).await.unwrap();
    // Nobody has asked for anything else: the sync and the amount are the schedule's.
    assert_eq!((c.api.hits(), c.amount(&ada).await.amount), (1, Some(100)));
    assert!(!tick(&c.tab.app).await);
}

#[tokio::test]
async fn the_console_lists_amounts_asks_again_and_takes_a_later_one_after_a_yes() {
    let c = Company::new().await;
    let ada = c.customer("Ada", &[Says::Amount(100), Says::Amount(250)]).await;
    c.customer("Bob", &[Says::Null, Says::Amount(70)]).await;
    c.tab.at("2026-12-01T01:05:00Z");
    c.pass(TimeDelta::minutes(1), 4).await;
    let desk = Desk::of(&c.tab).await;
    let page = desk.page("/console/amounts").await;
    for said in ["value=\"2026-11\"", ">Ada<", ">Bob<", "$1.00", ">missing</span>"] {
        assert!(page.contains(said), "{said} is not on the page");
    }
    assert!(!desk.page("/console/amounts?month=2026-11&state=missing").await.contains(">Ada<"));
    let asked = desk.form("/console/press/amounts", "month=2026-11&known_too=true").await;
    assert!(desk.page(asked.header("location")).await.contains("asked for 2 amounts"));
    c.pass(TimeDelta::minutes(1), 4).await;
    let page = desk.page("/console/amounts?month=2026-11&state=differs").await;
    assert!(page.contains("later $2.50") && !page.contains(">Bob<"), "{page}");
    let id = c.amount(&ada).await.id;
    // Asked, and not answered: the first one stands.
    let about = desk.form("/console/press/amount", &format!("id={id}")).await.body;
    assert!(about.contains("Bill $2.50 in place of $1.00?"), "{about}");
    // A yes to something else than what stands there now is asked about anew.
    let changed = desk.form("/console/press/amount", &format!("id={id}&other=7000&confirmed=yes")).await;
    assert!(changed.status == 200 && changed.body.contains("Bill $2.50"), "{}", changed.body);
    assert_eq!(c.amount(&ada).await.amount, Some(100));
    desk.form_and_yes("/console/press/amount", &format!("id={id}")).await;
    assert_eq!(c.amount(&ada).await.amount, Some(250));
    for (path, wrong) in [
        ("/console/press/amounts", "month=November"),
        ("/console/press/amount", "id=ot_cus_1"),
        ("/console/press/amount", &format!("id={id}&other=250&confirmed=yes")),
    ] {
        let status = desk.form(path, wrong).await.status;
        assert!((400..500).contains(&status), "{path} {wrong}: {status}");
    }
}
