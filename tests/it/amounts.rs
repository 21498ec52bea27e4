//! Amounts from outside: from an API that fails in every way, each comes once, or is listed with its reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chrono::TimeDelta;
use opentab::jobs;
use opentab::store::customers::Customer;
use opentab::store::{AmountFilter, LookedUpAmount, Page, both};
use opentab::workflows::by::By;
use opentab::workflows::{amounts, generate};
use serde_json::json;

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
        Company::with("").await
    }

    async fn with(more: &str) -> Company {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = Api::default();
        let address = api.serve().await;
        let toml = format!(
            "[lookup.erp]\nurl = \"http://{address}/{{external_id}}/{{month}}\"\namount = \"/data/amount\"\n\
             currency = \"/data/currency\"\ntimeout = \"1s\"\n{more}\n\
             headers = {{ Authorization = \"{LOOKUP_HEADER}\" }}\n"
        );
        let settings = vec![("OPENTAB_WEBHOOK_ALLOW", "127.0.0.1")];
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
    amounts::accept(&c.tab.app, &amount.id, &By::operator()).await.unwrap();
    c.tab.settle().await;
    assert_eq!(c.tab.draft(&ada).await.values().copied().collect::<Vec<_>>(), [150]);
    assert_eq!(c.incidents("amount_differs").await.len(), 0);
    assert!(amounts::accept(&c.tab.app, &amount.id, &By::operator()).await.is_err());
}

#[tokio::test]
async fn an_amount_that_is_missing_is_nought_where_that_is_the_policy() {
    let c = Company::with("missing = \"zero\"").await;
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
async fn a_month_generated_three_times_at_once_is_one_invoice_for_each_customer() {
    let c = Company::new().await;
    let mut customers = Vec::new();
    for n in 0..20 {
        customers.push(c.customer(&format!("C{n}"), &[Says::Amount(100 + n)]).await);
    }
    c.tab.customer("Idle").await;
    let app = &c.tab.app;
    let (dry, _) = generate::generate(app, "2026-11", true).await.unwrap();
    assert_eq!((dry.customers, dry.billed), (21, 20));
    c.tab.at("2026-12-01T00:10:00Z");
    let replica = async || {
        generate::generate(app, "2026-11", false).await.unwrap();
        jobs::run_due(app).await.unwrap();
    };
    tokio::join!(replica(), replica(), replica());
    c.pass(TimeDelta::minutes(15), 8).await;
    tokio::join!(replica(), replica(), replica());
    c.pass(TimeDelta::minutes(1), 2).await;
    assert_eq!(c.api.hits(), 20, "each amount is asked for once");
    for (n, customer) in customers.iter().enumerate() {
        assert_eq!(c.billed(customer).await, [100 + n as i64]);
        let sql = both("select count(*) from invoice where customer_id = $1 and sealed_at is not null");
        let (invoices,): (i64,) = app.store.db.one(sql, (customer.id.as_str(),)).await.unwrap();
        assert_eq!(invoices, 1);
    }
}
