//! Report: what it says of a month equals the ledger and Stripe to the cent, and nobody is on it twice or left out.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use opentab::internals::commands::keys;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{LookedUpAmount, NewEmail, ReportFilter, both};
use opentab::internals::workflows::report::{self, ReportQuery};
use opentab_billing::CollectionMethod;
use opentab_input::csv;
use serde_json::Value;
use tower::ServiceExt;

use crate::canaries;
use crate::tab::Tab;

/// A company with customers of three currencies, whose November is finalized, and who use something in December.
struct Company {
    t: Tab,
    customers: Vec<Customer>,
    key: String,
}

const CURRENCIES: [&str; 3] = ["usd", "eur", "jpy"];

impl Company {
    async fn with(customers: usize) -> Company {
        let t = Tab::new().await;
        let mut all = Vec::new();
        for n in 0..customers {
            // In an order that is neither that of the names nor that of the ids.
            let name = format!("Name{:02}", (n * 13 + 3) % customers);
            let currency = CURRENCIES[n % 3];
            let customer = t.customer_with(&name, currency, CollectionMethod::SendInvoice).await;
            t.flat_fee(&customer, &format!("Fee {n}"), 1_000 + n as i64 * 10).await;
            all.push(customer);
        }
        t.settle().await;
        t.at("2026-12-02T12:00:00Z");
        t.settle().await;
        let now = t.clock.now();
        let scopes = BTreeSet::from([Scope::BillingRead]);
        let key = keys::create(&t.app.store, &t.app.ids, now, "r", scopes, false, None).await.unwrap().secret;
        Company { t, customers: all, key }
    }

    async fn ask(&self, query: &str, accept: &str) -> (u16, String, String) {
        let request = Request::get(format!("/v1/reports/invoices?{query}"))
            .header("authorization", format!("Bearer {}", self.key))
            .header("accept", accept);
        let request = request.body(Body::empty()).unwrap();
        let (head, body) = canaries::router(self.t.app.clone()).oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let kind = head.headers["content-type"].to_str().unwrap().to_owned();
        (head.status.as_u16(), kind, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn page(&self, query: &str) -> Value {
        let (status, _, body) = self.ask(query, "*/*").await;
        assert_eq!(status, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Every row, page by page.
    async fn rows(&self, query: &str, limit: usize) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().map(|row| format!("&starting_after={}", row["id"].as_str().unwrap()));
            let page =
                self.page(&format!("{query}&limit={limit}{}", after.clone().unwrap_or_default())).await;
            assert_eq!(page["totals"].is_null(), after.is_some());
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            if page["has_more"] == false {
                return all;
            }
            assert!(all.len() < 1_000, "it never ends");
        }
    }

    /// An amount of this cycle that the API has not given.
    async fn awaits(&self, customer: &Customer, cycle: &str, state: &str) {
        let services = self.t.app.store.priced_services(&customer.id).await.unwrap();
        let amount = LookedUpAmount {
            id: self.t.app.ids.new_id("ot_amt_"),
            service_id: services[0].service_id.clone(),
            customer_id: customer.id.clone(),
            cycle: cycle.to_owned(),
            lookup: "erp".to_owned(),
            state: state.to_owned(),
            amount: None,
            other_amount: None,
            reason: None,
            detail: None,
            attempts: 0,
            created_at: 0,
            updated_at: 0,
        };
        let mut tx = self.t.app.store.db.begin().await.unwrap();
        assert!(tx.want_amount(&amount).await.unwrap());
        tx.put_amount(&amount).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The invoice's e-mail; answers its id.
    async fn queues_email(&self, customer: &Customer) -> String {
        let invoice = self.t.sealed(customer).await.remove(0);
        let id = self.t.app.ids.new_id("ot_eml_");
        let new = NewEmail {
            id: &id,
            kind: "invoice",
            subject: &invoice.id,
            cause: "finalized",
            customer_id: Some(&customer.id),
            invoice_id: Some(&invoice.id),
            recipient: "a@example.com",
            message_id: &id,
            month: &invoice.cycle[..7],
            carrier: "smtp",
            refused: None,
            now: 0,
        };
        let mut tx = self.t.app.store.db.begin().await.unwrap();
        assert!(tx.queue_email(&new).await.unwrap());
        tx.commit().await.unwrap();
        id
    }
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["customer_name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn totals_equal_the_ledger_and_stripe_to_the_cent() {
    let company = Company::with(7).await;
    let t = &company.t;
    // One is paid, one is void.
    for (customer, what) in [(&company.customers[0], "pay"), (&company.customers[1], "void")] {
        let id = t.sealed(customer).await[0].stripe_invoice_id.clone().unwrap();
        let body = if what == "pay" { "paid_out_of_band=true" } else { "" };
        t.stripe("POST", &format!("/invoices/{id}/{what}"), body).await;
    }
    t.settle().await;
    for month in ["2026-11", "2026-12"] {
        let report = company.page(&format!("month={month}&limit=100")).await;
        let mut at_stripe: BTreeMap<(String, String), [i64; 5]> = BTreeMap::new();
        let mut ledger: BTreeMap<String, i64> = BTreeMap::new();
        for customer in &company.customers {
            for invoice in t.app.store.invoices_of(&customer.id, "~", 100).await.unwrap() {
                let Some(id) =
                    invoice.stripe_invoice_id.as_ref().filter(|_| invoice.cycle.starts_with(month))
                else {
                    continue;
                };
                let theirs = t.stripe("GET", &format!("/invoices/{id}"), "").await;
                let key = (invoice.currency.clone(), theirs["status"].as_str().unwrap().to_owned());
                let sums = at_stripe.entry(key).or_default();
                sums[0] += 1;
                for (sum, name) in
                    sums[1..].iter_mut().zip(["total", "amount_due", "amount_paid", "amount_remaining"])
                {
                    *sum += theirs[name].as_i64().unwrap();
                }
                let lines = t.app.store.ledger_lines(&invoice.id).await.unwrap();
                *ledger.entry(invoice.currency).or_default() +=
                    lines.iter().map(|line| line.amount).sum::<i64>();
            }
        }
        let told = report["totals"].as_array().unwrap();
        let ours: BTreeMap<(String, String), [i64; 5]> = told
            .iter()
            .map(|sum| {
                let names = ["invoices", "total", "amount_due", "amount_paid", "amount_remaining"];
                let key = (
                    sum["currency"].as_str().unwrap().to_owned(),
                    sum["status"].as_str().unwrap().to_owned(),
                );
                (key, names.map(|name| sum[name].as_i64().unwrap()))
            })
            .collect();
        assert_eq!(ours, at_stripe, "{month}");
        if month == "2026-11" {
            for (currency, sum) in ledger {
                let of = told.iter().filter(|total| total["currency"] == *currency);
                assert_eq!(of.map(|total| total["amount"].as_i64().unwrap()).sum::<i64>(), sum, "{currency}");
            }
        }
        // The rows come to the same.
        let rows = report["data"].as_array().unwrap();
        assert_eq!(rows.len(), 7);
        for sum in told {
            let of = rows.iter().filter(|r| r["currency"] == sum["currency"] && r["status"] == sum["status"]);
            assert_eq!(
                of.map(|row| row["amount"].as_i64().unwrap()).sum::<i64>(),
                sum["amount"].as_i64().unwrap()
            );
        }
    }
}

#[tokio::test]
async fn in_every_order_each_row_stands_on_one_page() {
    let company = Company::with(11).await;
    // Somebody without an invoice for the month is among them.
    let new = company.t.customer_like("Name05b", |_| ()).await;
    company.t.flat_fee(&new, "Looked up", 1).await;
    company.awaits(&new, "2026-11-01", "asking").await;
    for sort in ["name", "-name", "amount", "-amount", "status", "-status"] {
        let whole = company.rows(&format!("month=2026-11&sort={sort}"), 100).await;
        assert_eq!(whole.len(), 12, "{sort}");
        for limit in [1, 2, 5] {
            let paged = company.rows(&format!("month=2026-11&sort={sort}"), limit).await;
            assert_eq!(names(&paged), names(&whole), "{sort}, {limit} at a time");
        }
        // Who has no invoice comes last in every order.
        let (last, whole) = whole.split_last().unwrap();
        assert_eq!(last["status"], "not_invoiced", "{sort}");
        let key = |row: &Value| match sort.trim_start_matches('-') {
            "name" => (row["customer_name"].to_string(), 0),
            "amount" => (row["currency"].to_string(), row["total"].as_i64().unwrap()),
            _ => (row["status"].to_string(), 0),
        };
        let mut keys: Vec<_> = whole.iter().map(key).collect();
        if sort.starts_with('-') {
            keys.reverse();
        }
        assert!(keys.is_sorted(), "{sort}: {keys:?}");
    }
}

#[tokio::test]
async fn what_is_awaited_is_counted_and_listed_alike() {
    let company = Company::with(6).await;
    let [a, b, c, ..] = &company.customers[..] else { panic!() };
    company.awaits(a, "2026-11-01", "asking").await;
    company.awaits(b, "2026-11-01", "missing").await;
    company.awaits(c, "2026-12-01", "asking").await;
    let new = company.t.customer("Latecomer").await;
    company.t.flat_fee(&new, "Looked up", 1).await;
    company.awaits(&new, "2026-11-01", "missing").await;
    let sent = company.queues_email(a).await;
    company.t.app.store.claim_email(&sent, 1).await.unwrap();
    let mut tx = company.t.app.store.db.begin().await.unwrap();
    assert!(tx.settle_email(&sent, 1, "sent", None, 1).await.unwrap());
    tx.commit().await.unwrap();
    company.queues_email(b).await;
    let id = company.t.sealed(c).await[0].stripe_invoice_id.clone().unwrap();
    company.t.stripe("POST", &format!("/invoices/{id}/pay"), "paid_out_of_band=true").await;
    company.t.settle().await;
    let counts = company.page("month=2026-11").await["counts"].clone();
    assert_eq!(
        counts,
        serde_json::json!({
            "not_finalized": 0, "not_looked_up": 3, "not_delivered": 1, "not_paid": 5, "uncollectible": 0
        })
    );
    for (filter, expected) in [
        ("not_looked_up", vec![a.name.as_str(), &b.name, "Latecomer"]),
        ("not_delivered", vec![&b.name]),
        (
            "not_paid",
            company.customers.iter().filter(|one| one.id != c.id).map(|one| one.name.as_str()).collect(),
        ),
    ] {
        let rows = company.rows(&format!("month=2026-11&{filter}=true"), 2).await;
        let found: BTreeSet<_> = names(&rows).into_iter().collect();
        assert_eq!(found, expected.into_iter().collect(), "{filter}");
    }
    let rows = company.rows("month=2026-11", 100).await;
    let state = |name: &str, field: &str| {
        rows.iter().find(|row| row["customer_name"] == name).unwrap()[field].clone()
    };
    assert_eq!(state("Latecomer", "status"), "not_invoiced");
    assert_eq!(
        (state("Latecomer", "looked_up"), state(&a.name, "looked_up")),
        ("missing".into(), "asking".into())
    );
    assert_eq!((state(&a.name, "email"), state(&b.name, "email")), ("sent".into(), "queued".into()));
    assert!(state(&c.name, "email").is_null() && state(&c.name, "status") == "paid");
    // By status, currency and customer.
    let listed = async |query: &str| company.rows(&format!("month=2026-11&{query}"), 100).await.len();
    assert_eq!(listed("status=paid").await, 1);
    assert_eq!(listed("status=not_invoiced").await, 1);
    assert_eq!(listed("currency=eur").await, 2);
    assert_eq!(listed(&format!("customer={}", a.id)).await, 1);
    assert_eq!(listed("customer=latecomer&not_looked_up=true").await, 1);
    assert_eq!(listed("status=open&not_delivered=true&currency=eur").await, 1);
}

#[tokio::test]
async fn a_file_holds_every_row_and_no_formula() {
    let company = Company::with(4).await;
    let t = &company.t;
    let evil = t.customer_like("=cmd|' /C calc'!A0", |new| new.external_id = Some("-5".to_owned())).await;
    t.flat_fee(&evil, "Looked up", 1).await;
    company.awaits(&evil, "2026-11-01", "asking").await;
    let (status, kind, text) = company.ask("month=2026-11", "text/html, text/csv;q=0.9").await;
    assert_eq!(status, 200);
    assert!(kind.starts_with("text/csv"), "{kind}");
    assert_eq!(company.ask("month=2026-11&format=csv", "*/*").await.2, text);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut take = |row: &csv::Row| {
        assert_eq!(row.fault(), None);
        rows.push(row.fields().map(str::to_owned).collect());
        Ok::<(), csv::Unreadable>(())
    };
    let mut reader = csv::Reader::default();
    reader.feed(text.as_bytes(), &mut take).unwrap();
    reader.end(&mut take).unwrap();
    assert_eq!(rows.len(), 6);
    let place = |name: &str| rows[0].iter().position(|column| column == name).unwrap();
    assert_eq!(rows[5][place("customer_name")], "'=cmd|' /C calc'!A0");
    assert_eq!(rows[5][place("external_id")], "-5");
    let json = company.rows("month=2026-11", 100).await;
    for (row, json) in rows[1..].iter().zip(&json) {
        assert_eq!(row[place("customer")], json["customer"].as_str().unwrap());
        let minor = json["total"].as_i64().unwrap();
        let major = if json["currency"] == "jpy" {
            format!("{minor}")
        } else {
            format!("{}.{:02}", minor / 100, minor % 100)
        };
        assert_eq!(row[place("total")], major);
    }
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let company = Company::with(1).await;
    let own = company.t.sealed(&company.customers[0]).await[0].id.clone();
    for (query, expected) in [
        ("", 422),
        ("month=2026-13", 422),
        ("month=2026-1", 422),
        ("month=2026-11&sort=%27%3B%20DROP%20TABLE%20invoice", 422),
        ("month=2026-11&status=deleted", 422),
        ("month=2026-11&currency=USD", 422),
        ("month=2026-11&not_paid=yes", 422),
        ("month=2026-11&format=xml", 422),
        ("month=2026-11&limit=101", 422),
        ("month=2026-11&page=2", 422),
        ("month=2026-11&customer=nobody", 404),
        ("month=2026-11&ending_before=ot_inv_1", 400),
        ("month=2026-11&starting_after=ot_inv_1", 400),
        ("month=2026-11&starting_after=ot_job_1", 400),
        (&*format!("month=2026-10&starting_after={own}"), 400),
        (&*format!("month=2026-11&starting_after={own}"), 200),
    ] {
        assert_eq!(company.ask(query, "*/*").await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn months_compare_and_what_is_overdue_grows_older() {
    let company = Company::with(3).await;
    let t = &company.t;
    let usd = async |month: &str| {
        let all = report::revenue(&t.app, month).await.unwrap();
        all.into_iter().find(|one| one.currency == "usd").map(|one| one.months)
    };
    let months = usd("2026-12").await.unwrap();
    assert_eq!(months.len(), 12);
    assert_eq!(months[10..], [("2026-11".to_owned(), 1_000), ("2026-12".to_owned(), 0)]);
    assert_eq!(usd("2026-10").await, None);
    // Finalized in the first hour of December, due in 30 days.
    let due = t.sealed(&company.customers[0]).await[0].due_at.unwrap();
    for (days, bucket) in [(-1, 0), (0, 0), (1, 1), (30, 1), (31, 2), (60, 2), (61, 3), (90, 3), (91, 4)] {
        t.clock.move_to(opentab::internals::clock::from_ms(due + days * 86_400_000 + 1));
        let all = report::ageing(&t.app).await.unwrap();
        let one = all.iter().find(|one| one.currency == "usd").unwrap();
        let mut expected = [0; 5];
        expected[bucket] = 1_000;
        let found = [one.not_due, one.days_1_to_30, one.days_31_to_60, one.days_61_to_90, one.days_over_90];
        assert_eq!(found, expected, "{days} days");
    }
}

#[tokio::test]
async fn a_row_that_changes_its_place_does_not_stop_a_file() {
    let company = Company::with(5).await;
    let app = &company.t.app;
    let filter = ReportFilter { month: "2026-11".to_owned(), ..Default::default() };
    let query = ReportQuery { filter, ..Default::default() };
    let (first, more) = report::rows(app, &query, None, 2).await.unwrap();
    assert!(more && first.len() == 2);
    // The last one that was read moves behind all the others. They are read all the same.
    let moved = &first[1].customer_id;
    let sql = both("update customer set name = 'Zoe' where id = $1");
    assert_eq!(app.store.db.run(sql, (moved.as_str(),)).await.unwrap(), 1);
    let (rest, _) = report::rows(app, &query, first.last(), 10).await.unwrap();
    let seen: BTreeSet<&str> = first.iter().chain(&rest).map(|row| row.customer_id.as_str()).collect();
    assert_eq!(seen.len(), 5, "somebody is left out");
}

#[tokio::test]
async fn what_is_not_finalized_and_what_is_given_up_are_counted_and_listed() {
    let company = Company::with(3).await;
    let t = &company.t;
    let id = t.sealed(&company.customers[0]).await[0].stripe_invoice_id.clone().unwrap();
    t.stripe("POST", &format!("/invoices/{id}/mark_uncollectible"), "").await;
    t.settle().await;
    // One pays what is looked up from December on, another from January on.
    for (customer, from) in [(&company.customers[1], "2026-12-01"), (&company.customers[2], "2027-01-01")] {
        let terms = serde_json::json!({ "currency": customer.currency.as_str(), "model": "looked_up", "lookup": "erp" });
        let price = t.price("Platform", None, serde_json::from_value(terms).unwrap()).await;
        t.serves_from(customer, &price, from, None).await;
    }
    t.settle().await;
    let december = company.page("month=2026-12").await["counts"].clone();
    assert_eq!((&december["not_finalized"], &december["not_looked_up"]), (&3.into(), &1.into()));
    let november = company.page("month=2026-11").await["counts"].clone();
    assert_eq!((&november["not_paid"], &november["uncollectible"]), (&2.into(), &1.into()));
    assert_eq!((&november["not_finalized"], &november["not_looked_up"]), (&0.into(), &0.into()));
    assert_eq!(company.rows("month=2026-12&not_finalized=true", 2).await.len(), 3);
    let waiting = company.rows("month=2026-12&not_looked_up=true", 2).await;
    assert_eq!(names(&waiting), [company.customers[1].name.as_str()]);
    assert_eq!(waiting[0]["looked_up"], "waiting");
    assert_eq!(company.rows("month=2026-11&status=uncollectible", 2).await.len(), 1);
}

#[tokio::test]
async fn a_json_file_holds_every_row_whatever_the_page() {
    let company = Company::with(5).await;
    let (status, kind, text) = company.ask("month=2026-11&format=json&limit=2", "*/*").await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["data"].as_array().unwrap(), &company.rows("month=2026-11", 2).await);
    assert_eq!(file["counts"], company.page("month=2026-11").await["counts"]);
}
