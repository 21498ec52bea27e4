//! Customer lists: all of a file or nothing, line by line, and who is billed because of it.

use opentab::internals::store::CustomerImport;
use opentab::internals::store::both;
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::imports::{ImportOptions, Report, Upload, apply_import, carry_on, report};
use serde_json::json;

use crate::server::{Reply, Server, on_both};
use crate::tab::{Setup, Tab};

/// Brings a list, in pieces of a few bytes, up to what its check says.
async fn checked(tab: &Tab, text: &str, options: ImportOptions) -> CustomerImport {
    let mut upload = Upload::begin(&tab.app, options, &By::operator()).await.unwrap();
    for piece in text.as_bytes().chunks(7) {
        if !upload.feed(piece).await.unwrap() {
            break;
        }
    }
    upload.check().await.unwrap()
}

async fn import(tab: &Tab, text: &str) -> CustomerImport {
    import_with(tab, text, ImportOptions::default()).await
}

async fn import_with(tab: &Tab, text: &str, options: ImportOptions) -> CustomerImport {
    let import = checked(tab, text, options).await;
    match import.state.as_str() {
        "applying" => carry_on(&tab.app, &import.id, |_| {}).await.unwrap(),
        _ => import,
    }
}

fn counts(import: &CustomerImport) -> (i64, i64, i64, i64) {
    (import.created_count, import.updated_count, import.unchanged_count, import.error_count)
}

async fn customer(tab: &Tab, external_id: &str) -> Customer {
    tab.app.store.customer_by_any_id(external_id).await.unwrap().expect(external_id)
}

/// Lines on the draft, where there is one.
async fn lines(tab: &Tab, external_id: &str) -> usize {
    let customer = customer(tab, external_id).await;
    match tab.current(&customer).await.stripe_invoice_id {
        None => 0,
        Some(_) => tab.draft(&customer).await.len(),
    }
}

async fn count(tab: &Tab, sql: opentab::internals::store::Sql) -> i64 {
    let (count,): (i64,) = tab.app.store.db.one(sql, ()).await.unwrap();
    count
}

#[tokio::test]
async fn a_list_creates_updates_and_leaves_alone_and_says_which() {
    let tab = Tab::new().await;
    let first = "external_id,name,email,currency,time_zone\n\
                 ada,Ada,ada@example.com,usd,Europe/Berlin\n\
                 bob,Bob,,eur,\n";
    assert_eq!(counts(&import(&tab, first).await), (2, 0, 0, 0));
    let before = customer(&tab, "bob").await;
    tab.pass(chrono::Duration::hours(1));
    let second =
        "external_id,name,email,currency\nada,Ada,ada@example.com,USD\nbob,Robert,-,\neve,Eve,,jpy\n";
    let import = import(&tab, second).await;
    assert_eq!(counts(&import), (1, 1, 1, 0));
    let Report { changes, .. } = report(&import);
    let told: Vec<_> =
        changes.iter().map(|c| (c.line, &*c.external_id, &*c.outcome, c.fields.join(","))).collect();
    assert_eq!(told, [(3, "bob", "updated", "name".to_owned()), (4, "eve", "created", String::new())]);
    let values: Vec<_> = changes
        .iter()
        .flat_map(|change| &change.values)
        .map(|value| (&*value.field, value.before.as_deref(), value.after.as_deref()))
        .collect();
    let expected =
        [("name", Some("Bob"), Some("Robert")), ("name", None, Some("Eve")), ("currency", None, Some("jpy"))];
    assert_eq!(values, expected);
    let bob = customer(&tab, "bob").await;
    assert_eq!((bob.name.as_str(), bob.id, bob.created_at), ("Robert", before.id, before.created_at));
    for id in ["ada", "bob", "eve"] {
        assert_eq!(customer(&tab, id).await.last_imported_at, Some(tab.clock.now()), "{id}");
    }
    let audits = both("select count(*) from audit where action in ('customer.created', 'customer.updated')");
    assert_eq!(count(&tab, audits).await, 4);
    assert_eq!(count(&tab, both("select count(*) from customer_import_row")).await, 0);
}

#[tokio::test]
async fn one_faulty_line_stores_nothing_and_every_fault_has_its_line() {
    let tab = Tab::new().await;
    import(&tab, "external_id,name,currency,anchor_day\nada,Ada,usd,5\n").await;
    let text = "external_id,name,currency,anchor_day,prices\n\
                new,New,usd,,\n\
                ada,Ada,eur,6,\n\
                new,New,usd,,\n\
                \"q\",\"two\nlines\",usd,,\n\
                none,,,,\n\
                sold,Sold,usd,,nothing\n";
    let import = import(&tab, text).await;
    assert_eq!(import.state, "refused");
    let faults: Vec<_> =
        report(&import).faults.into_iter().map(|f| (f.line, f.column.unwrap_or_default(), f.code)).collect();
    let faults: Vec<_> = faults.iter().map(|(line, column, code)| (*line, &**column, &**code)).collect();
    let expected = [
        (3, "currency", "immutable"),
        (3, "anchor_day", "immutable"),
        (4, "external_id", "duplicate"),
        (5, "name", "invalid_characters"),
        (7, "name", "missing"),
        (7, "currency", "missing"),
        (8, "prices", "unknown_price"),
    ];
    assert_eq!(faults, expected);
    assert_eq!(count(&tab, both("select count(*) from customer")).await, 1);
}

#[tokio::test]
async fn a_dry_run_tells_the_same_and_changes_nothing() {
    let tab = Tab::new().await;
    let text = "external_id,name,currency\nada,Ada,usd\nbob,Bob,usd\n";
    let dry = import_with(&tab, text, ImportOptions { dry_run: true, ..ImportOptions::default() }).await;
    assert_eq!((dry.state.as_str(), counts(&dry)), ("checked", (2, 0, 0, 0)));
    assert_eq!(count(&tab, both("select count(*) from customer")).await, 0);
    let real = import(&tab, text).await;
    assert_eq!((counts(&real), real.report), (counts(&dry), dry.report));
}

#[tokio::test]
async fn what_a_dead_process_left_of_a_list_a_job_applies_once() {
    let tab = Tab::new().await;
    let mut text = "external_id,name,currency\n".to_owned();
    (0..1_200).for_each(|n| text += &format!("c{n},Customer {n},usd\n"));
    let import = checked(&tab, &text, ImportOptions::default()).await;
    assert_eq!(import.state, "applying");
    tab.pass(chrono::Duration::seconds(20));
    let two = tokio::join!(apply_import(&tab.app, &import.id), opentab::internals::jobs::run_due(&tab.app));
    assert!(two.1.is_ok());
    // On PostgreSQL one of the two may have found the last rows taken: its job comes again.
    tab.pass(chrono::Duration::minutes(2));
    opentab::internals::jobs::run_due(&tab.app).await.unwrap();
    let import = tab.app.store.customer_import(&import.id).await.unwrap().unwrap();
    assert_eq!((import.state.as_str(), import.applied_count), ("done", 1_200));
    assert_eq!(count(&tab, both("select count(*) from customer")).await, 1_200);
    let audits =
        both("select count(*) from audit where action in ('customer.created', 'customers.imported')");
    assert_eq!(count(&tab, audits).await, 1_201);
}

#[tokio::test]
async fn what_is_left_of_an_older_list_does_not_undo_a_newer_one() {
    let tab = Tab::new().await;
    let older =
        checked(&tab, "external_id,name,currency\nada,Ada,usd\nbob,Bob,usd\n", ImportOptions::default())
            .await;
    assert_eq!(older.state, "applying");
    let newer = import(&tab, "external_id,name\nada,Lovelace\n").await;
    assert_eq!((counts(&newer), newer.state.as_str()), ((0, 1, 0, 0), "done"));
    tab.pass(chrono::Duration::seconds(20));
    tab.settle().await;
    let older = tab.app.store.customer_import(&older.id).await.unwrap().unwrap();
    assert_eq!((older.state.as_str(), older.applied_count), ("done", 2));
    assert_eq!(customer(&tab, "ada").await.name, "Lovelace");
    assert_eq!(customer(&tab, "bob").await.name, "Bob");
}

#[tokio::test]
async fn lists_that_come_at_once_are_each_in_as_a_whole() {
    let tab = Tab::new().await;
    let list = |name: &str| {
        let rows = (0..700).map(|n| format!("c{n},{name},usd\n"));
        format!("external_id,name,currency\n{}", rows.collect::<String>())
    };
    let (one, other) = (list("One"), list("Other"));
    let (one, other) = tokio::join!(import(&tab, &one), import(&tab, &other));
    let both_done = [&one, &other].map(|import| (import.state.as_str(), import.applied_count));
    assert_eq!(both_done, [("done", 700); 2]);
    assert_eq!((one.created_count + other.created_count, one.error_count + other.error_count), (700, 0));
    let names = both("select count(distinct name) from customer");
    assert_eq!(count(&tab, names).await, 1, "whichever came last stands, for all of them");
}

#[tokio::test]
async fn a_customer_at_stripe_that_two_lines_far_apart_name_refuses_the_list() {
    let tab = Tab::new().await;
    let mut text = "external_id,name,currency,stripe_customer_id\n".to_owned();
    for n in 0..1_500 {
        let stripe = if [0, 1_400].contains(&n) { "cus_twice" } else { "" };
        text += &format!("c{n},Customer {n},usd,{stripe}\n");
    }
    let import = import(&tab, &text).await;
    let faults: Vec<_> = report(&import).faults.into_iter().map(|f| (f.line, f.column, f.code)).collect();
    let twice = (1_402, Some("stripe_customer_id".to_owned()), "duplicate".to_owned());
    assert_eq!((import.state.as_str(), faults), ("refused", vec![twice]));
    assert_eq!(count(&tab, both("select count(*) from customer")).await, 0);
}

#[tokio::test]
async fn a_list_with_prices_ends_in_drafts_at_stripe() {
    let tab = Tab::new().await;
    let terms = |currency: &str, amount: i64| {
        serde_json::from_value(json!({ "currency": currency, "model": "flat", "flat_amount": amount }))
            .unwrap()
    };
    tab.price("Basic", None, terms("usd", 900)).await;
    let euro = tab.price("Basis", None, terms("eur", 800)).await;
    let text = format!("external_id,name,currency,plan\nada,Ada,usd,Basic\nbob,Bob,eur,{euro}\n");
    assert_eq!(counts(&import(&tab, &text).await), (2, 0, 0, 0));
    // Again: nobody pays twice.
    assert_eq!(counts(&import(&tab, &text).await), (0, 0, 2, 0));
    tab.settle().await;
    for (id, amount) in [("ada", 900), ("bob", 800)] {
        let draft = tab.draft(&customer(&tab, id).await).await;
        assert_eq!(draft.values().copied().collect::<Vec<_>>(), [amount], "{id}");
    }
    let wrong = "external_id,name,currency,plan\neve,Eve,jpy,Basic\n";
    assert_eq!(import(&tab, wrong).await.state, "refused");
}

#[tokio::test]
async fn a_customer_is_billed_on_active_days_only() {
    let tab = Tab::new().await;
    tab.price(
        "Basic",
        None,
        serde_json::from_value(json!({ "currency": "usd", "model": "flat", "flat_amount": 900 })).unwrap(),
    )
    .await;
    let text = "external_id,name,currency,plan,active_from,active_until\n\
                now,Now,usd,Basic,,2026-11-15\n\
                later,Later,usd,Basic,2026-12-01,\n\
                gone,Gone,usd,Basic,,2026-11-01\n";
    import(&tab, text).await;
    tab.settle().await;
    assert_eq!(lines(&tab, "now").await, 1);
    for id in ["later", "gone"] {
        assert_eq!(lines(&tab, id).await, 0, "{id}");
    }
    // The end is taken back, and the line comes; an end before the cycle takes it away again.
    import(&tab, "external_id,active_until\ngone,-\nnow,2026-11-01\n").await;
    tab.settle().await;
    assert_eq!(lines(&tab, "gone").await, 1);
    assert_eq!(lines(&tab, "now").await, 0);
    tab.at("2026-12-02T00:00:00Z");
    tab.settle().await;
    assert_eq!(lines(&tab, "later").await, 1);
}

#[tokio::test]
async fn where_lists_decide_only_those_whom_a_list_named_are_billed() {
    let tab =
        Tab::with(Setup { settings: vec![("OPENTAB_BILLED_CUSTOMERS", "imported")], ..Setup::default() })
            .await;
    tab.price(
        "Basic",
        None,
        serde_json::from_value(json!({ "currency": "usd", "model": "flat", "flat_amount": 900 })).unwrap(),
    )
    .await;
    let all = "external_id,name,currency,plan\nada,Ada,usd,Basic\nbob,Bob,usd,Basic\n";
    import(&tab, all).await;
    tab.settle().await;
    tab.at("2026-12-02T00:00:00Z");
    tab.settle().await;
    import(&tab, "external_id\nada\n").await;
    tab.settle().await;
    let billed = async |id: &str| {
        let id = customer(&tab, id).await.id;
        let sql = both("select count(*) from invoice_line where customer_id = $1");
        let (lines,): (i64,) = tab.app.store.db.one(sql, (id,)).await.unwrap();
        lines
    };
    assert_eq!((billed("ada").await, billed("bob").await), (1, 1), "November's lists named both");
    assert_eq!(lines(&tab, "ada").await, 1);
    assert_eq!(lines(&tab, "bob").await, 0);
    // A list for the month, brought late: the difference is on the draft.
    tab.at("2027-01-03T00:00:00Z");
    tab.settle().await;
    let december = ImportOptions { month: Some("2026-12".to_owned()), ..ImportOptions::default() };
    import_with(&tab, "external_id\nbob\n", december).await;
    tab.settle().await;
    let lines = tab.draft(&customer(&tab, "bob").await).await;
    assert!(lines.keys().all(|key| key.starts_with("2026-12-01/")) && lines.len() == 1, "{lines:?}");
}

async fn send(server: &Server, query: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("content-type: text/csv\r\ncontent-length: {}\r\n{headers}", body.len());
    server.raw(&server.head("POST", &format!("/v1/customers/import{query}"), &head), body).await
}

async fn a_file_over_http_is_in_and_listed(server: Server) {
    let text = "\u{feff}Kunde,Name,E-Mail,Currency\r\nada,\"=cmd|' /C calc'!A0\",a@example.com,usd\r\n";
    let reply = send(&server, "?map=Kunde%3Dexternal_id&file_name=list.csv", "", text.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let import = reply.json();
    assert_eq!((&import["created"], &import["state"]), (&json!(1), &json!("done")));
    let ada = server.get("/v1/customers/ada").await.json();
    assert_eq!(ada["name"], "=cmd|' /C calc'!A0");
    assert!(ada["last_imported_at"].is_string());
    let dry = send(&server, "?dry_run=true&map=Kunde%3Did", "", text.as_bytes()).await.json();
    assert_eq!((&dry["unchanged"], &dry["state"]), (&json!(1), &json!("checked")));
    let listed = server.get("/v1/customers/imports").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let one = server.get(&format!("/v1/customers/imports/{}", import["id"].as_str().unwrap())).await.json();
    assert_eq!(one["file_name"], "list.csv");
}

async fn more_rows_than_a_file_may_have_are_too_large(server: Server) {
    // An id that is none: nothing of it is worth setting down, which makes the million quick.
    let text = format!("external_id,name,currency\n{}", "?\n".repeat(1_000_001));
    let reply = send(&server, "", "", text.as_bytes()).await;
    assert_eq!((reply.status, reply.slug().as_str()), (413, "payload-too-large"), "{reply:?}");
    let one_less = &text[..text.len() - 2];
    assert_eq!(send(&server, "", "", one_less.as_bytes()).await.status, 422);
}

async fn what_breaks_off_leaves_no_row_behind(server: Server) {
    let rows = (0..3_000).map(|n| format!("c{n},New,usd\n")).collect::<String>();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut packer, format!("external_id,name,currency\n{rows}").as_bytes()).unwrap();
    let whole = packer.finish().unwrap();
    let (cut, end) = (whole.len() - 100, whole.len() - 8);
    let foreign = [&whole[..cut], &[0xff; 64 * 1024]].concat();
    let changed = [&whole[..end], &[whole[end] ^ 1], &whole[end + 1..]].concat();
    for packed in [&foreign[..], &changed, &whole[..cut], &whole[..end], &whole[..whole.len() / 2]] {
        let reply = send(&server, "", "content-encoding: gzip\r\n", packed).await;
        assert_eq!(reply.status, 422, "{reply:?}");
        let listed = server.get("/v1/customers/imports").await.json();
        assert_eq!(listed["data"][0]["state"], "abandoned");
    }
    for table in [both("select count(*) from customer_import_row"), both("select count(*) from customer")] {
        let (rows,): (i64,) = server.app.store.db.one(table, ()).await.unwrap();
        assert_eq!(rows, 0);
    }
    assert_eq!(send(&server, "", "content-encoding: gzip\r\n", &whole).await.status, 200);
}

on_both!(
    a_file_over_http_is_in_and_listed,
    more_rows_than_a_file_may_have_are_too_large,
    what_breaks_off_leaves_no_row_behind,
);
