//! Drift: whatever differs between ledger, drafts and Stripe is found, named and put right, within the reads that there are.

use chrono::Duration;
use opentab::internals::jobs;
use opentab::internals::store;
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::drift::{self, Comparison, Difference, Extent, Reason, Repair};
use opentab::internals::workflows::reads::{self, Stopped};
use opentab_sandbox::{CardOutcome, Fault, Options, Sandbox};

use crate::payday::Payday;
use crate::secrets::STRIPE_KEY;
use crate::tab::{Setup, Tab};

/// Ada's draft shows 100 calls at 2 cents and 10 mails at 3, and from now on no webhook tells what happens.
async fn with_ada() -> (Tab, Customer) {
    with_ada_and(&[]).await
}

async fn with_ada_and(settings: &[(&'static str, &'static str)]) -> (Tab, Customer) {
    let t = Tab::with(Setup { settings: settings.to_vec(), ..Setup::default() }).await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.sells(&ada, "mails", "3").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.uses(&ada, "mails", 10, "k2").await;
    t.settle().await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    (t, ada)
}

async fn compare(t: &Tab, extent: Extent) -> Comparison {
    let found = drift::compare(&t.app, extent, &|_| {}).await.unwrap();
    assert!(found.stopped.is_none(), "{:?}", found.stopped);
    found
}

async fn differences(t: &Tab) -> Vec<Difference> {
    compare(t, Extent::Recent).await.differences
}

async fn reasons(t: &Tab) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = differences(t).await.iter().map(|found| found.reason).collect();
    reasons.sort();
    reasons
}

/// Puts right what can be put right; answers what is left.
async fn repaired(t: &Tab) -> Vec<Reason> {
    let found = differences(t).await;
    drift::repair(&t.app, &found, Repair::Delete).await.unwrap();
    jobs::run_due(&t.app).await.unwrap();
    reasons(t).await
}

async fn by_hand(t: &Tab, method: &'static str, path: &str, body: &str) -> serde_json::Value {
    let answer = t.stripe(method, path, body).await;
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

async fn stripe_id(t: &Tab, customer: &Customer) -> String {
    t.current(customer).await.stripe_invoice_id.unwrap()
}

async fn stripe_customer(t: &Tab, customer: &Customer) -> String {
    t.app.store.customer(&customer.id).await.unwrap().unwrap().stripe_customer_id.unwrap()
}

/// The line of so much becomes one of another amount.
async fn edit(t: &Tab, customer: &Customer, from: i64, to: i64) {
    let lines = t.lines_at_stripe(customer).await;
    let (line, _) = lines.into_iter().find(|line| line.1 == from).unwrap();
    let path = format!("/invoices/{}/lines/{line}", stripe_id(t, customer).await);
    by_hand(t, "POST", &path, &format!("amount={to}")).await;
}

#[tokio::test]
async fn a_hundred_drafts_that_are_equal_cost_one_read() {
    let t = Tab::new().await;
    let meter = t.meter("calls", opentab_billing::Aggregation::Sum).await;
    let terms = serde_json::json!({ "currency": "usd", "model": "per_unit", "unit_amount_decimal": "2" });
    let price = t.price("Calls", Some(&meter), serde_json::from_value(terms).unwrap()).await;
    for n in 0..101 {
        let customer = t.customer(&format!("Customer{n}")).await;
        t.serves(&customer, &price).await;
        t.uses(&customer, "calls", 10 + n, "k1").await;
    }
    t.settle().await;
    t.sandbox.reset_calls();
    let found = compare(&t, Extent::All).await;
    assert!(found.is_equal(), "{:?}", found.differences);
    assert_eq!((found.invoices, found.under_way), (101, 0));
    let value = found.value["usd"];
    assert_eq!((value.proven, value.all), (12_120, 12_120));
    // Two pages of drafts, one of each finalized state, one of pending items.
    assert_eq!((t.reads(), t.writes()), (7, Vec::new()));
}

#[tokio::test]
async fn an_edited_line_is_named_with_both_amounts_and_put_right() {
    let (t, ada) = with_ada().await;
    edit(&t, &ada, 30, 7).await;
    let found = compare(&t, Extent::Recent).await;
    let [difference] = &found.differences[..] else { panic!("{:?}", found.differences) };
    assert_eq!(difference.reason, Reason::LineAmount);
    assert_eq!((difference.ours, difference.at_stripe), (Some(30), Some(7)));
    assert!(difference.item_key.as_deref().unwrap().starts_with("2026-11-01"), "{difference:?}");
    assert_eq!((found.value["usd"].proven, found.value["usd"].all), (0, 230));
    assert_eq!(repaired(&t).await, []);
    assert_eq!(t.draft_total(&ada).await, 230);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn edits_that_cancel_out_are_found_and_a_removed_line_comes_back() {
    let (t, ada) = with_ada().await;
    edit(&t, &ada, 30, 31).await;
    edit(&t, &ada, 200, 199).await;
    assert_eq!(reasons(&t).await, [Reason::LineAmount, Reason::LineAmount]);
    assert_eq!(repaired(&t).await, []);
    let lines = t.lines_at_stripe(&ada).await;
    let path = format!("/invoices/{}/remove_lines", stripe_id(&t, &ada).await);
    by_hand(&t, "POST", &path, &format!("lines[0][id]={}&lines[0][behavior]=delete", lines[0].0)).await;
    assert_eq!(reasons(&t).await, [Reason::LineMissing]);
    assert_eq!(repaired(&t).await, []);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn only_a_draft_whose_sum_differs_has_its_lines_read() {
    let t = Tab::new().await;
    let (ada, bob) = (t.customer("Ada").await, t.customer("Bob").await);
    for n in 0..12 {
        t.flat_fee(&ada, &format!("Fee {n}"), 100 + n).await;
        t.flat_fee(&bob, &format!("Fee {n}"), 100 + n).await;
    }
    t.settle().await;
    edit(&t, &ada, 105, 1).await;
    t.sandbox.reset_calls();
    assert_eq!(reasons(&t).await, [Reason::LineAmount]);
    let reads_of =
        |operation: &str| t.sandbox.calls().iter().filter(|call| call.operation == operation).count();
    assert_eq!(
        (reads_of("GET /v1/invoices/{invoice}/lines"), reads_of("GET /v1/invoices/{invoice}")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_draft_that_was_deleted_or_finalized_unheard_is_put_right() {
    let (t, ada) = with_ada().await;
    by_hand(&t, "DELETE", &format!("/invoices/{}", stripe_id(&t, &ada).await), "").await;
    // Its lines are pending now, and would be billed by another invoice.
    let found = reasons(&t).await;
    assert_eq!(found, [Reason::MissingAtStripe, Reason::PendingItem, Reason::PendingItem]);
    assert_eq!(repaired(&t).await, []);
    assert_eq!(t.draft_total(&ada).await, 230);
    by_hand(&t, "POST", &format!("/invoices/{}/finalize", stripe_id(&t, &ada).await), "").await;
    assert_eq!(reasons(&t).await, [Reason::State]);
    assert_eq!(repaired(&t).await, []);
    assert_eq!(t.billed(&ada).await, 230);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_draft_that_was_sealed_since_it_was_compared_is_no_incident() {
    let (t, ada) = with_ada().await;
    by_hand(&t, "POST", &format!("/invoices/{}/finalize", stripe_id(&t, &ada).await), "").await;
    let found = compare(&t, Extent::Recent).await;
    assert_eq!(found.differences[0].reason, Reason::State);
    assert_eq!(repaired(&t).await, []);
    assert_eq!(t.sealed(&ada).await.len(), 1);
    drift::report(&t.app, found).await.unwrap();
    assert_eq!(t.incidents().await, ["finalized_early"]);
}

#[tokio::test]
async fn a_payment_that_we_never_heard_of_is_learned_from_the_lists() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    let sealed = t.sealed(&ada).await.remove(0);
    assert_eq!((sealed.state.as_str(), differences(&t).await), ("open", Vec::new()));
    let path = format!("/invoices/{}/pay", sealed.stripe_invoice_id.unwrap());
    by_hand(&t, "POST", &path, "paid_out_of_band=true").await;
    t.pass(Duration::days(3));
    assert_eq!(reasons(&t).await, [Reason::Amounts, Reason::Amounts, Reason::State]);
    assert_eq!(repaired(&t).await, []);
    let sealed = t.sealed(&ada).await.remove(0);
    assert_eq!((sealed.state.as_str(), sealed.amount_paid, sealed.amount_remaining), ("paid", 230, 0));
    assert_eq!(t.audited("invoice.learned").await, 1);
}

#[tokio::test]
async fn what_a_comparison_learns_ends_the_charge_too() {
    for (how, body, ends) in [("pay", "paid_out_of_band=true", "paid"), ("void", "", "void")] {
        // Stripe collects, and none of its events arrives.
        let p =
            Payday::setup("stripe", Some(CardOutcome::Declined("generic_decline")), &[]).await.begins().await;
        p.t.sandbox.faults().often("invoice", Fault::WebhookDrop, 1_000);
        let (_, stripe_id) = p.invoice().await;
        by_hand(&p.t, "POST", &format!("/invoices/{stripe_id}/{how}"), body).await;
        let found = compare(&p.t, Extent::Recent).await;
        drift::repair(&p.t.app, &found.differences, Repair::Learn).await.unwrap();
        assert_eq!((p.state().await.as_str(), p.goes_on_at().await), (ends, None), "{how}");
        assert_eq!(p.t.incidents().await.contains(&"invoice_voided".to_owned()), how == "void");
    }
}

#[tokio::test]
async fn an_orphan_draft_is_deleted_with_its_lines_and_what_others_put_there_is_not() {
    let (t, ada) = with_ada().await;
    let (ours, customer) = (t.current(&ada).await.id, stripe_customer(&t, &ada).await);
    let body = format!("customer={customer}&currency=usd&metadata[opentab_id]={ours}");
    let mut orphans = Vec::new();
    for line in ["&metadata[opentab_item]=2026-11-01:a:b", "&description=Consulting"] {
        let orphan = by_hand(&t, "POST", "/invoices", &body).await["id"].as_str().unwrap().to_owned();
        let item = format!("customer={customer}&invoice={orphan}&amount=500&currency=usd{line}");
        by_hand(&t, "POST", "/invoiceitems", &item).await;
        orphans.push(orphan);
    }
    assert_eq!(reasons(&t).await, [Reason::OrphanDraft, Reason::OrphanDraft]);
    assert_eq!(repaired(&t).await, [Reason::OrphanDraft]);
    let left = t.invoices_at_stripe(&ada).await;
    let left: Vec<&str> = left.iter().map(|invoice| invoice["id"].as_str().unwrap()).collect();
    assert_eq!(left, [orphans[1].as_str(), &stripe_id(&t, &ada).await]);
    assert!(t.all("/invoiceitems?pending=true&limit=100").await.is_empty());
    t.in_step(&ada).await;
}

#[tokio::test]
async fn what_another_opentab_keeps_on_the_account_is_left_alone() {
    let (t, _) = with_ada().await;
    let customer = by_hand(&t, "POST", "/customers", "name=Eve").await["id"].as_str().unwrap().to_owned();
    let body = format!("customer={customer}&currency=usd&metadata[opentab_id]=ot_inv_elsewhere");
    by_hand(&t, "POST", "/invoices", &body).await;
    let item = format!("customer={customer}&amount=500&currency=usd&metadata[opentab_item]=2026-11-01:a:b");
    by_hand(&t, "POST", "/invoiceitems", &item).await;
    assert_eq!(differences(&t).await, []);
}

#[tokio::test]
async fn an_orphan_that_somebody_finalized_is_reported_and_left_to_a_human() {
    let (t, ada) = with_ada().await;
    let (ours, customer) = (t.current(&ada).await.id, stripe_customer(&t, &ada).await);
    let body = format!("customer={customer}&currency=usd&metadata[opentab_id]={ours}");
    let orphan = by_hand(&t, "POST", "/invoices", &body).await["id"].as_str().unwrap().to_owned();
    let item = format!("customer={customer}&invoice={orphan}&amount=500&currency=usd");
    by_hand(&t, "POST", "/invoiceitems", &item).await;
    by_hand(&t, "POST", &format!("/invoices/{orphan}/finalize"), "").await;
    assert_eq!(repaired(&t).await, [Reason::OrphanInvoice]);
    drift::watch(&t.app).await.unwrap();
    assert_eq!(t.incidents().await, ["drift"]);
    // Nobody pays it, and it is no difference any more.
    by_hand(&t, "POST", &format!("/invoices/{orphan}/void"), "").await;
    drift::watch(&t.app).await.unwrap();
    assert!(t.incidents().await.is_empty());
}

#[tokio::test]
async fn what_is_on_its_way_is_no_difference() {
    let (t, ada) = with_ada().await;
    t.uses(&ada, "calls", 5, "k3").await;
    let found = compare(&t, Extent::Recent).await;
    assert_eq!((found.differences, found.under_way, found.value["usd"].proven), (Vec::new(), 1, 0));
    // A write that Stripe carried out and nobody heard of: it is asked again, and nothing is wrong.
    t.sandbox.faults().next("POST /v1/invoices/{invoice}/update_lines", Fault::LoseAnswer);
    t.work().await;
    let found = compare(&t, Extent::Recent).await;
    assert_eq!((found.differences, found.under_way), (Vec::new(), 1));
    t.recover().await;
    let found = compare(&t, Extent::Recent).await;
    assert_eq!((found.is_equal(), found.value["usd"].proven), (true, 240));
}

#[tokio::test]
async fn a_draft_that_only_seems_in_step_is_found_and_put_right() {
    let (t, ada) = with_ada().await;
    t.uses(&ada, "calls", 5, "k3").await;
    let sql = store::both("update billing_cycle set synced_version = version");
    t.app.store.db.run(sql, ()).await.unwrap();
    let found = differences(&t).await;
    let [difference] = &found[..] else { panic!("{found:?}") };
    let amounts = (difference.ours, difference.at_stripe);
    assert_eq!((difference.reason, amounts), (Reason::Behind, (Some(240), Some(230))));
    assert_eq!(repaired(&t).await, []);
    assert_eq!(t.draft_total(&ada).await, 240);
}

#[tokio::test]
async fn a_comparison_stops_where_the_reads_are_used_up_and_goes_on_when_they_are_back() {
    let (t, ada) = with_ada_and(&[("OPENTAB_STRIPE_READS", "4")]).await;
    edit(&t, &ada, 30, 7).await;
    let used = reads::allowance(&t.app).await.unwrap().used;
    t.sandbox.reset_calls();
    let found = drift::compare(&t.app, Extent::All, &|_| {}).await.unwrap();
    assert!(matches!(found.stopped, Some(Stopped::ReadsUsedUp { used: 4, allowed: 4 })), "{found:?}");
    assert_eq!((found.is_equal(), t.reads() as i64), (false, 4 - used));
    drift::watch(&t.app).await.unwrap();
    assert!(t.incidents().await.contains(&"reads_used_up".to_owned()));
    assert_eq!(t.reads() as i64, 4 - used);
    t.pass(Duration::days(31));
    assert!(reads::allowance(&t.app).await.unwrap().used == 0);
}

#[tokio::test]
async fn by_schedule_a_difference_is_an_incident_until_it_is_gone() {
    let (t, ada) = with_ada().await;
    let page = crate::canaries::router(t.app.clone());
    edit(&t, &ada, 30, 7).await;
    for _ in 0..2 {
        drift::watch(&t.app).await.unwrap();
    }
    assert_eq!(t.incidents().await, ["drift"]);
    assert!(metrics(&page).await.contains("opentab_differences 1\n"));
    assert!(metrics(&page).await.contains("opentab_value_proven_ratio{currency=\"usd\"} 0.0"));
    // The schedule has asked for the sync that puts it right, and the next comparison sees that it did.
    jobs::run_due(&t.app).await.unwrap();
    drift::watch(&t.app).await.unwrap();
    assert_eq!(t.incidents().await, ["draft_edited"]);
    assert!(metrics(&page).await.contains("opentab_value_proven_ratio{currency=\"usd\"} 1.0"));
}

async fn metrics(page: &axum::Router) -> String {
    use tower::ServiceExt;
    let request = axum::http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let answer = page.clone().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn by_schedule_an_amount_that_stripe_says_anew_is_learned_and_bothers_nobody() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    let sql = store::both("update invoice set amount_remaining = 1 where sealed_at is not null");
    t.app.store.db.run(sql, ()).await.unwrap();
    drift::watch(&t.app).await.unwrap();
    assert_eq!((t.sealed(&ada).await[0].amount_remaining, t.incidents().await.len()), (230, 0));
}

#[tokio::test]
async fn a_cursor_that_was_deleted_while_the_list_was_read_loses_nothing() {
    let t = Tab::new().await;
    for n in 0..101 {
        let customer = t.customer(&format!("Customer{n}")).await;
        t.flat_fee(&customer, &format!("Base {n}"), 100).await;
    }
    t.settle().await;
    t.sandbox
        .faults()
        .next("GET /v1/invoices", Fault::Status { status: 500, code: None, stored: false, executed: false });
    let found = drift::compare(&t.app, Extent::All, &|_| {}).await.unwrap();
    assert!(matches!(found.stopped, Some(Stopped::Failed(_))), "{:?}", found.stopped);
    // The last one of the first page goes while that page is judged.
    let drafts = t.all("/invoices?status=draft&limit=100").await;
    let last = drafts[99]["id"].as_str().unwrap().to_owned();
    let (stripe, gone) = (t.sandbox.router(), last.clone());
    let deleted = std::sync::Mutex::new(false);
    let watch = move |done: usize| {
        let mut deleted = deleted.lock().unwrap();
        if done == 100 && !*deleted {
            *deleted = true;
            let request = axum::http::Request::delete(format!("http://sandbox/v1/invoices/{gone}"));
            let request = request.header("authorization", format!("Bearer {STRIPE_KEY}"));
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = tower::ServiceExt::oneshot(stripe.clone(), request);
            // Whoever watches cannot wait, so somebody else does.
            let wait = move || tokio::runtime::Runtime::new().unwrap().block_on(answer);
            assert_eq!(std::thread::spawn(wait).join().unwrap().unwrap().status(), 200);
        }
    };
    let found = drift::compare(&t.app, Extent::All, &watch).await.unwrap();
    assert!(found.stopped.is_none(), "{:?}", found.stopped);
    assert_eq!(found.invoices, 101);
    let reasons: Vec<Reason> = differences(&t).await.iter().map(|found| found.reason).collect();
    assert_eq!(reasons, [Reason::MissingAtStripe, Reason::PendingItem]);
}

/// The command as a script sees it: on a file, with the sandbox on a port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_by_its_exit_code_what_it_found() {
    use std::process::Command;
    _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(Options { api_keys: vec![STRIPE_KEY.to_owned()], ..Options::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let run = |reads: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opentab"));
        command.current_dir(folder.path()).env("STRIPE_SECRET_KEY", STRIPE_KEY);
        command.env("STRIPE_API_BASE", &base).env("OPENTAB_STRIPE_READS", reads);
        let output = command.arg("reconcile").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = run("100", &["--json"]);
    assert!(code == 0 && text.contains(r#""equal":true"#), "{code} {text}");
    sandbox
        .faults()
        .next("GET /v1/invoices", Fault::Status { status: 401, code: None, stored: false, executed: false });
    assert_eq!(run("100", &[]).0, 2);
    let (code, text) = run("7", &[]);
    assert!(code == 2 && text.contains("OPENTAB_STRIPE_READS"), "{code} {text}");
}
