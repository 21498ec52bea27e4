//! The operator's console: nobody sees it without a key, everything that needs a human is on it, and a button does what
//! it says.

use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use opentab::internals::commands::keys;
use opentab::internals::http;
use opentab::internals::jobs;
use opentab::internals::mailer::Outcome;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{EmailFilter, NewJob, NewStripeEvent, Page};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::outgoing::{self, NewEndpoint};
use opentab::internals::workflows::remedy::REMEDIES;
use opentab::internals::workflows::{notice, tell};
use opentab_sandbox::{CardOutcome, Fault};
use serde_json::json;
use tower::ServiceExt;

use crate::canaries;
use crate::payday::Payday;
use crate::tab::{Setup, Tab};

/// What a browser got.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap_or("").to_owned()
    }
}

/// Somebody at the console, in a browser.
pub(crate) struct Desk<'t> {
    tab: &'t Tab,
    web: axum::Router,
    cookie: String,
}

impl<'t> Desk<'t> {
    fn new(tab: &'t Tab) -> Desk<'t> {
        Desk { tab, web: canaries::router(tab.app.clone()), cookie: String::new() }
    }

    /// Signed in with a key of these scopes.
    async fn with(tab: &'t Tab, scopes: &[Scope]) -> Desk<'t> {
        let mut desk = Desk::new(tab);
        let (_, key) = desk.key(scopes).await;
        desk.cookie = desk.sign_in(&key).await.cookie();
        desk
    }

    pub(crate) async fn of(tab: &'t Tab) -> Desk<'t> {
        Desk::with(tab, &[Scope::Admin]).await
    }

    /// A new key's id and text.
    async fn key(&self, scopes: &[Scope]) -> (String, String) {
        let (app, scopes) = (&self.tab.app, scopes.iter().copied().collect::<BTreeSet<_>>());
        let made =
            keys::create(&app.store, &app.ids, app.clock.now(), "<b>Me</b>", scopes, false, None).await;
        let made = made.unwrap();
        (made.key.id, made.secret)
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], form: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "opentab.test");
        if method == "POST" {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(form.to_owned())).unwrap();
        let (head, body) = self.web.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Reply { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn sign_in(&self, key: &str) -> Reply {
        self.send("POST", "/console/sign-in", &[], &format!("key={key}&to=%2Fconsole")).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[("cookie", &self.cookie)], "").await
    }

    /// Sends a form of a page of ours.
    pub(crate) async fn form(&self, path: &str, form: &str) -> Reply {
        let origin = [("cookie", &*self.cookie), ("sec-fetch-site", "same-origin")];
        self.send("POST", path, &origin, form).await
    }

    /// Sends it, and sends the form that asks once more as it is; the page that it leads to.
    pub(crate) async fn form_and_yes(&self, path: &str, form: &str) -> String {
        let asked = self.form(path, form).await;
        assert_eq!(asked.status, 200, "{}", asked.body);
        let fields = asked.body.split("<input type=\"hidden\" name=\"").skip(1).map(|field| {
            let (name, rest) = field.split_once("\" value=\"").unwrap();
            format!("{name}={}", rest.split_once('"').unwrap().0)
        });
        let reply = self.form(path, &fields.collect::<Vec<_>>().join("&")).await;
        assert_eq!(reply.status, 303, "{}", reply.body);
        let page = self.page(reply.header("location")).await;
        assert!(page.contains("role=\"status\""), "nothing says that it was done");
        page
    }

    /// The text of a page that is there.
    pub(crate) async fn page(&self, path: &str) -> String {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.body
    }

    async fn press(&self, action: &str, subject: &str, more: &str) -> Reply {
        let origin = [("cookie", &*self.cookie), ("sec-fetch-site", "same-origin")];
        let form = format!("action={action}&subject={subject}&back=%2Fconsole{more}");
        self.send("POST", "/console/press", &origin, &form).await
    }

    /// Presses, says yes where that is asked, and works until all is at rest.
    async fn does(&self, action: &str, subject: &str) {
        let mut reply = self.press(action, subject, "").await;
        if reply.status == 200 {
            assert!(reply.body.contains("name=\"confirmed\" value=\"yes\""), "{}", reply.body);
            reply = self.press(action, subject, "&confirmed=yes").await;
        }
        assert_eq!(reply.status, 303, "{action}: {}", reply.body);
        assert!(
            reply.header("location").ends_with(&format!("?did={action}")),
            "{}",
            reply.header("location")
        );
        let after = self.page(reply.header("location")).await;
        assert!(after.contains("role=\"status\""), "nothing says that {action} was done");
        jobs::run_due(&self.tab.app).await.unwrap();
    }

    /// Whether the page has a button for it.
    async fn offers(&self, path: &str, action: &str, subject: &str) -> bool {
        let fields = format!(
            "name=\"action\" value=\"{action}\"><input type=\"hidden\" name=\"subject\" value=\"{subject}\">"
        );
        self.page(path).await.contains(&fields)
    }
}

impl Tab {
    /// An incident, as a workflow opens it; its id.
    async fn goes_wrong(&self, kind: &str, subject: &str, message: &str) -> String {
        let mut tx = self.app.store.db.begin().await.unwrap();
        notice::report(&self.app, &mut tx, kind, subject, message).await.unwrap();
        tx.commit().await.unwrap();
        let page = Page { limit: 1, after: String::new(), before: String::new() };
        self.app.store.open_incidents(&page).await.unwrap().0[0].id.clone()
    }

    async fn endpoint(&self) -> String {
        let new = NewEndpoint {
            url: "https://app.example/hooks".to_owned(),
            description: String::new(),
            events: vec!["customer.suspended".to_owned()],
        };
        outgoing::create(&self.app, new, &By::operator()).await.unwrap().id
    }

    async fn suspends_somebody(&self, id: &str) {
        let mut tx = self.app.store.db.begin().await.unwrap();
        tell::application(&self.app, &mut tx, "customer.suspended", id, json!({ "id": id })).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn delivered_states(&self) -> Vec<String> {
        let page = Page { limit: 100, after: String::new(), before: String::new() };
        let all = self.app.store.deliveries(&page, &Default::default()).await.unwrap().0;
        all.into_iter().map(|delivery| delivery.state).collect()
    }

    async fn event_state(&self, id: &str) -> String {
        self.app.store.stripe_event(id).await.unwrap().unwrap().state
    }

    /// An event in quarantine.
    async fn puzzles(&self, id: &str, reason: &str) {
        let (mut tx, now) = (self.app.store.db.begin().await.unwrap(), self.clock.now_ms());
        let payload = json!({
            "id": id, "object": "event", "type": "invoice.updated", "created": now / 1_000, "livemode": false,
            "api_version": null,
            "data": { "object": { "id": "in_1", "object": "invoice", "customer": "cus_1", "status": "open" } },
        });
        let new = NewStripeEvent {
            id,
            kind: "invoice.updated",
            object_id: Some("in_1"),
            livemode: false,
            created_at: now / 1_000,
            payload: &payload.to_string(),
            ignored: None,
            polled: false,
            now,
        };
        assert!(tx.insert_stripe_event(&new).await.unwrap());
        tx.settle_stripe_event(id, "quarantined", Some(reason), now).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn stripe_id_of(t: &Tab, customer: &Customer) -> String {
    t.current(customer).await.stripe_invoice_id.unwrap()
}

#[tokio::test]
async fn nobody_sees_anything_before_they_have_signed_in() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let desk = Desk::new(&t);
    for path in
        ["/console", "/console/invoices", "/console/customers", &format!("/console/customers/{}", ada.id)]
    {
        let reply = desk.get(path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(!reply.body.contains("Ada") && reply.body.contains("name=\"key\""), "{path}");
        assert!(reply.header("content-security-policy").starts_with("default-src 'none'"));
    }
    // A customer's own cookie, and an API key in a header, are worth nothing here.
    let (_, key) = desk.key(&[Scope::Admin]).await;
    let bearer = format!("Bearer {key}");
    for header in
        [("authorization", &*bearer), ("cookie", "opentab_billing=x"), ("cookie", "opentab_console=")]
    {
        assert_eq!(desk.send("GET", "/console/customers", &[header], "").await.status, 401, "{header:?}");
    }
}

#[tokio::test]
async fn a_key_opens_the_console_until_somebody_signs_out() {
    let t = Tab::new().await;
    t.customer("Ada").await;
    let mut desk = Desk::new(&t);
    let (_, key) = desk.key(&[Scope::BillingRead]).await;
    let reply = desk.sign_in(&key).await;
    assert_eq!((reply.status, reply.header("location")), (303, "/console"));
    let cookie = reply.header("set-cookie").to_owned();
    for part in ["opentab_console=", "HttpOnly", "SameSite=Strict", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(&key) && !cookie.contains("Secure"), "{cookie}");
    desk.cookie = reply.cookie();
    assert!(desk.page("/console/customers").await.contains("Ada"));
    let out = desk.send("POST", "/console/sign-out", &[("cookie", &desk.cookie)], "").await;
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    // Who has copied the cookie is out as well.
    assert_eq!(desk.get("/console/customers").await.status, 401);
    assert_eq!(t.audited("console.signed_in").await, 1);
}

#[tokio::test]
async fn behind_tls_the_cookie_is_kept_to_this_host() {
    let settings = vec![("OPENTAB_PUBLIC_URL", "https://billing.example")];
    let t = Tab::with(Setup { settings, ..Setup::default() }).await;
    let mut desk = Desk::new(&t);
    let (_, key) = desk.key(&[Scope::Admin]).await;
    let reply = desk.sign_in(&key).await;
    let cookie = reply.header("set-cookie");
    assert!(cookie.starts_with("__Host-opentab_console=") && cookie.ends_with("; Secure"), "{cookie}");
    assert!(cookie.contains("Path=/;") && !cookie.contains("Domain"), "{cookie}");
    desk.cookie = reply.cookie();
    desk.page("/console").await;
}

#[tokio::test]
async fn a_wrong_key_opens_nothing_and_not_too_often() {
    let t = Tab::new().await;
    let desk = Desk::new(&t);
    let (_, good) = desk.key(&[Scope::Admin]).await;
    for _ in 0..10 {
        let reply = desk.sign_in("ot_sk_test_wrong").await;
        assert_eq!((reply.status, reply.cookie()), (403, String::new()));
    }
    let reply = desk.sign_in(&good).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "7"), "{}", reply.body);
    t.pass(chrono::Duration::seconds(7));
    assert_eq!(desk.sign_in(&good).await.status, 303);
}

#[tokio::test]
async fn a_key_of_the_other_mode_or_without_the_scope_opens_nothing() {
    let t = Tab::new().await;
    let desk = Desk::new(&t);
    let (_, small) = desk.key(&[Scope::UsageWrite, Scope::Sync]).await;
    let reply = desk.sign_in(&small).await;
    assert!(reply.status == 403 && reply.body.contains("billing:read"), "{}", reply.body);
    let app = &t.app;
    let live = [Scope::Admin].into();
    let live = keys::create(&app.store, &app.ids, app.clock.now(), "live", live, true, None).await.unwrap();
    assert_eq!(desk.sign_in(&live.secret).await.status, 403);
}

#[tokio::test]
async fn a_revoked_or_expired_key_ends_its_sessions_at_once() {
    let t = Tab::new().await;
    let mut desk = Desk::new(&t);
    let (id, key) = desk.key(&[Scope::Admin]).await;
    desk.cookie = desk.sign_in(&key).await.cookie();
    desk.page("/console").await;
    keys::revoke(&t.app.store, &t.app.ids, t.clock.now(), &id).await.unwrap();
    assert_eq!(desk.get("/console").await.status, 401);
    let (_, key) = desk.key(&[Scope::Admin]).await;
    desk.cookie = desk.sign_in(&key).await.cookie();
    t.pass(chrono::Duration::hours(12));
    assert_eq!(desk.get("/console").await.status, 401);
}

#[tokio::test]
async fn who_may_only_read_sees_no_buttons_and_presses_none() {
    let t = Tab::new().await;
    let id = t.goes_wrong("reads_used_up", "stripe", "No reads are left.").await;
    let desk = Desk::with(&t, &[Scope::BillingRead]).await;
    let page = desk.page("/console").await;
    assert!(page.contains("No reads are left.") && !page.contains("action=\"/console/press\""), "{page}");
    let reply = desk.press("resolve", &id, "").await;
    assert!(reply.status == 403 && reply.body.contains("billing:write"), "{}", reply.body);
    assert_eq!(t.incidents().await, ["reads_used_up"]);
}

#[tokio::test]
async fn what_another_site_asks_for_is_not_done() {
    let t = Tab::new().await;
    let id = t.goes_wrong("reads_used_up", "stripe", "x").await;
    let desk = Desk::of(&t).await;
    let form = format!("action=resolve&subject={id}&back=%2Fconsole");
    let from = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
    ];
    for header in from {
        for path in ["/console/press", "/console/sign-out", "/console/sign-in"] {
            let reply = desk.send("POST", path, &[("cookie", &desk.cookie), header], &form).await;
            assert!(
                reply.status == 403 && reply.body.contains("cross-site-request"),
                "{path}: {}",
                reply.body
            );
        }
    }
    assert_eq!(t.incidents().await, ["reads_used_up"]);
    desk.does("resolve", &id).await;
    assert!(t.incidents().await.is_empty());
}

#[tokio::test]
async fn a_button_leads_back_into_the_console_and_nowhere_else() {
    let t = Tab::new().await;
    let id = t.goes_wrong("reads_used_up", "stripe", "x").await;
    let desk = Desk::of(&t).await;
    let form = format!("action=resolve&subject={id}&back=https%3A%2F%2Fevil.example");
    let reply = desk.send("POST", "/console/press", &[("cookie", &desk.cookie)], &form).await;
    assert_eq!((reply.status, reply.header("location")), (303, "/console?did=resolve"));
    let reply = desk.send("POST", "/console/sign-in", &[], "key=x&to=%2F%2Fevil.example").await;
    assert!(!reply.body.contains("evil.example"), "{}", reply.body);
}

#[tokio::test]
async fn every_kind_of_incident_is_shown_with_what_to_press() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    for remedy in REMEDIES {
        let subject = match remedy.kind {
            kind if kind.starts_with("charge_") => invoice.clone(),
            "customer_gone_at_stripe" => p.ada.id.clone(),
            kind => format!("thing_{kind}"),
        };
        p.t.goes_wrong(remedy.kind, &subject, &format!("Message of {}.", remedy.kind)).await;
    }
    let page = Desk::of(&p.t).await.page("/console").await;
    for remedy in REMEDIES {
        let advice = remedy.advice.replace('\'', "&#39;");
        for text in
            [&format!("Message of {}.", remedy.kind), &format!("<code>{}</code>", remedy.kind), &advice]
        {
            assert!(page.contains(text.as_str()), "{text} is not shown");
        }
    }
    // Of the invoice: who, how much, and where at Stripe.
    let (_, stripe_id) = p.invoice().await;
    for text in [">Ada</a>", "$2.00", &format!("https://dashboard.stripe.com/test/invoices/{stripe_id}")] {
        assert!(page.contains(text), "{text} is not shown");
    }
}

#[tokio::test]
async fn the_api_says_the_same_about_an_incident() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    let id = p.t.goes_wrong("charge_needs_attention", &invoice, "x").await;
    let desk = Desk::new(&p.t);
    let bearer = format!("Bearer {}", desk.key(&[Scope::BillingRead]).await.1);
    let reply = desk.send("GET", "/v1/incidents", &[("authorization", &bearer)], "").await;
    let list: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    let incident = &list["data"][0];
    assert!(incident["advice"].as_str().unwrap().contains("dashboard"), "{incident}");
    let actions = incident["actions"].as_array().unwrap();
    let names: Vec<&str> = actions.iter().map(|action| action["action"].as_str().unwrap()).collect();
    assert_eq!(names, ["retry", "pay", "mark_uncollectible", "void", "resolve"]);
    assert_eq!(actions[1]["request"], format!("POST /v1/invoices/{invoice}/pay"));
    assert_eq!(actions[1]["command"], format!("opentab invoices charge {invoice}"));
    assert_eq!(actions[4]["request"], format!("POST /v1/incidents/{id}/resolve"));
}

/// Ids of what needs a human, over all pages of so many, in both directions.
async fn needs_of(desk: &Desk<'_>, bearer: &str, limit: usize) -> Vec<(String, String)> {
    let (mut all, mut after, mut last_page) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/v1/incidents?limit={limit}{after}");
        let reply = desk.send("GET", &path, &[("authorization", bearer)], "").await;
        let list: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let page: Vec<serde_json::Value> = list["data"].as_array().unwrap().clone();
        let text = |of: &serde_json::Value, name: &str| of[name].as_str().unwrap().to_owned();
        all.extend(page.iter().map(|need| (text(need, "object"), text(need, "kind"))));
        if !list["has_more"].as_bool().unwrap() {
            let back = format!("/v1/incidents?limit={limit}&ending_before={}", text(&page[0], "id"));
            let reply = desk.send("GET", &back, &[("authorization", bearer)], "").await;
            let before: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            let kinds = before["data"].as_array().unwrap().iter().map(|need| text(need, "kind"));
            let first_of_last = all.len() - page.len();
            let wanted: Vec<String> =
                all[last_page..first_of_last].iter().map(|(_, kind)| kind.clone()).collect();
            assert_eq!(kinds.collect::<Vec<_>>(), wanted, "the page before the last");
            return all;
        }
        assert_eq!(page.len(), limit);
        last_page = all.len() - limit;
        after = format!("&starting_after={}", text(&page[page.len() - 1], "id"));
    }
}

#[tokio::test]
async fn the_api_lists_all_that_the_console_lists_page_by_page() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let t = &p.t;
    for no in 0..3 {
        t.goes_wrong("reads_used_up", &format!("stripe{no}"), "x").await;
    }
    let (invoice, _) = p.invoice().await;
    let sql =
        opentab::internals::store::both("update charge set state = 'needs_attention' where invoice_id = $1");
    t.app.store.db.run(sql, (&invoice,)).await.unwrap();
    let now = t.clock.now_ms();
    let new = NewJob { id: "ot_job_1", kind: "prune", subject: "all", run_at: now, deadline: now, now };
    let id = t.app.store.enqueue(&new).await.unwrap();
    let job = t.app.store.claim_job(&id, now, now + 1).await.unwrap().unwrap();
    t.app.store.fail_job(&job, now, "panicked: it fell over").await.unwrap();
    t.puzzles("evt_1", "nobody knows what it is about").await;
    let desk = Desk::of(t).await;
    let bearer = format!("Bearer {}", desk.key(&[Scope::BillingRead]).await.1);
    let waiting = |kind: &str| ("waiting".to_owned(), kind.to_owned());
    let incident = ("incident".to_owned(), "reads_used_up".to_owned());
    let all = [
        waiting("job_failed"),
        waiting("charge_needs_attention"),
        incident.clone(),
        incident.clone(),
        incident,
        waiting("event_quarantined"),
    ];
    for limit in [1, 2, 3, 4, 5, 10] {
        assert_eq!(needs_of(&desk, &bearer, limit).await, all, "{limit} on a page");
    }
    let page = desk.page("/console").await;
    for (_, kind) in &all {
        assert!(page.contains(kind.as_str()), "{kind}");
    }
    let reply = desk.send("GET", "/v1/incidents?limit=1", &[("authorization", &bearer)], "").await;
    let list: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    let failed = &list["data"][0];
    assert_eq!((&failed["id"], &failed["opened_at"]), (&"ot_job_1".into(), &"2026-12-01T01:00:00Z".into()));
    assert_eq!(failed["actions"][0]["command"], "opentab jobs retry ot_job_1");
    assert!(failed["message"].as_str().unwrap().contains("it fell over"));
    let wrong = desk.send("GET", "/v1/incidents?starting_after=%3B", &[("authorization", &bearer)], "").await;
    assert!(wrong.status == 400 && wrong.body.contains("invalid-cursor"), "{}", wrong.body);
}

#[tokio::test]
async fn a_charge_is_asked_for_twice_and_made_once() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    let desk = Desk::of(&p.t).await;
    p.t.sandbox.reset_calls();
    let asked = desk.press("pay", &invoice, "").await;
    assert!(
        asked.status == 200 && asked.body.contains("$2.00") && asked.body.contains("Ada"),
        "{}",
        asked.body
    );
    assert!(p.t.writes().is_empty(), "money moved before anybody said yes");
    desk.does("pay", &invoice).await;
    p.t.deliver().await;
    p.paid_once("by the console").await;
    let reply = desk.press("pay", &invoice, "&confirmed=yes").await;
    assert!(reply.status == 409 && reply.body.contains("paid already"), "{}", reply.body);
    let page = desk.page(&format!("/console/invoices/{invoice}")).await;
    assert!(page.contains("Not now: it is paid."), "{page}");
}

#[tokio::test]
async fn a_retry_is_made_by_the_workers() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    Desk::of(&p.t).await.does("retry", &invoice).await;
    p.t.deliver().await;
    p.paid_once("by the workers").await;
}

#[tokio::test]
async fn an_invoice_can_be_written_off_voided_and_rebilled() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    let desk = Desk::of(&p.t).await;
    let refused = desk.press("rebill", &invoice, "&confirmed=yes").await;
    assert!(refused.status == 409 && refused.body.contains("not void"), "{}", refused.body);
    desk.does("mark_uncollectible", &invoice).await;
    assert_eq!(p.state().await, "uncollectible");
    desk.does("void", &invoice).await;
    assert_eq!(p.state().await, "void");
    desk.does("rebill", &invoice).await;
    p.t.settle().await;
    assert_eq!(p.t.draft_total(&p.ada).await, 200, "it is not owed again");
    assert_eq!(p.t.audited("invoice.rebilled").await, 1);
}

#[tokio::test]
async fn a_charge_that_nobody_tries_stays_on_the_page_without_its_incident() {
    let settings = [("OPENTAB_SUSPENSION_GRACE", "0d")];
    let p = Payday::setup("opentab", Some(CardOutcome::Succeeds), &settings).await.begins().await;
    let (invoice, _) = p.invoice().await;
    let sql = opentab::internals::store::both(
        "update charge set state = 'needs_attention', message = 'Nobody knows.' where invoice_id = $1",
    );
    p.t.app.store.db.run(sql, (&invoice,)).await.unwrap();
    let desk = Desk::of(&p.t).await;
    let page = desk.page("/console").await;
    assert!(page.contains("Nobody knows.") && page.contains("charge_needs_attention"), "{page}");
    assert!(desk.offers("/console", "pay", &invoice).await);
}

#[tokio::test]
async fn a_job_that_waits_is_run_again() {
    let t = Tab::new().await;
    let now = t.clock.now_ms();
    let new = NewJob { id: "ot_job_1", kind: "prune", subject: "all", run_at: now, deadline: now, now };
    let id = t.app.store.enqueue(&new).await.unwrap();
    let job = t.app.store.claim_job(&id, now, now + 1).await.unwrap().unwrap();
    t.app.store.fail_job(&job, now, "panicked: it fell over").await.unwrap();
    let desk = Desk::of(&t).await;
    let page = desk.page("/console").await;
    assert!(page.contains("it fell over") && page.contains("job_failed"), "{page}");
    desk.does("retry_job", &id).await;
    assert_eq!(t.app.store.job(&id).await.unwrap().unwrap().state, "done");
    assert!(desk.page("/console").await.contains("Nothing. Everything goes on by itself."));
    assert_eq!(desk.press("retry_job", &id, "").await.status, 409);
    assert_eq!(t.audited("job.retried").await, 1);
}

#[tokio::test]
async fn a_refused_write_is_shown_once_and_syncing_runs_its_job_again() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    let refused = Fault::Status { status: 400, code: None, stored: false, executed: false };
    t.sandbox.faults().often("", refused, 1_000);
    t.uses(&ada, "calls", 100, "k1").await;
    for _ in 0..12 {
        t.work().await;
        t.pass(chrono::Duration::hours(2));
    }
    assert_eq!((t.incidents().await, t.jobs("failed").await.len()), (vec!["stripe_refused".to_owned()], 1));
    let desk = Desk::of(&t).await;
    assert!(!desk.page("/console").await.contains("job_failed"), "one thing is listed twice");
    t.sandbox.faults().clear();
    desk.does("sync", &ada.id).await;
    assert_eq!((t.incidents().await.len(), t.draft_total(&ada).await), (0, 200));
}

#[tokio::test]
async fn a_puzzling_event_is_reacted_to_again_or_set_aside() {
    let t = Tab::new().await;
    t.puzzles("evt_1", "it cannot be read").await;
    t.puzzles("evt_2", "it cannot be read").await;
    let desk = Desk::of(&t).await;
    assert!(
        desk.offers("/console", "replay", "evt_1").await
            && desk.offers("/console", "set_aside", "evt_2").await
    );
    desk.does("set_aside", "evt_2").await;
    assert_eq!(t.event_state("evt_2").await, "ignored");
    desk.does("replay", "evt_1").await;
    // Read this time: its customer is nobody's, which is an incident of its own.
    assert_eq!(t.incidents().await, ["unknown_customer"]);
    assert!(!desk.offers("/console", "set_aside", "evt_1").await, "it is listed twice");
    assert!(desk.offers("/console", "replay", "cus_1").await);
    desk.does("replay", "cus_1").await;
    assert_eq!(t.audited("stripe_event.replayed").await, 2);
}

#[tokio::test]
async fn an_endpoint_is_switched_on_again_and_gets_what_it_missed() {
    let t = Tab::new().await;
    let endpoint = t.endpoint().await;
    t.listener.answers(Ok(500));
    t.suspends_somebody("ot_cus_1").await;
    // One is given up, another still waits.
    let given_up = opentab::internals::store::both("update webhook_delivery set state = 'failed'");
    t.app.store.db.run(given_up, ()).await.unwrap();
    t.suspends_somebody("ot_cus_2").await;
    for _ in 0..10 {
        jobs::run_due(&t.app).await.unwrap();
        t.pass(chrono::Duration::hours(30));
    }
    assert_eq!(t.incidents().await, ["webhook_endpoint_disabled"]);
    t.listener.answers(Ok(200));
    assert_eq!(t.delivered_states().await, ["pending", "failed"]);
    Desk::of(&t).await.does("switch_on", &endpoint).await;
    assert_eq!(t.delivered_states().await, ["delivered", "delivered"]);
    assert!(t.incidents().await.is_empty());
}

#[tokio::test]
async fn what_an_endpoint_missed_is_shown_until_it_is_sent_again() {
    let t = Tab::new().await;
    let endpoint = t.endpoint().await;
    t.suspends_somebody("ot_cus_1").await;
    let sql =
        opentab::internals::store::both("update webhook_delivery set state = 'failed', last_error = $1");
    t.app.store.db.run(sql, ("it answered 503",)).await.unwrap();
    let desk = Desk::of(&t).await;
    let page = desk.page("/console").await;
    assert!(page.contains("deliveries_failed") && page.contains("it answered 503"), "{page}");
    desk.does("redeliver", &endpoint).await;
    assert_eq!(t.delivered_states().await, ["delivered"]);
    assert!(!desk.page("/console").await.contains("deliveries_failed"));
}

#[tokio::test]
async fn an_email_of_unknown_ending_is_sent_again_by_a_person_only() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::Unknown("the connection broke".to_owned()));
    let mut tx = t.app.store.db.begin().await.unwrap();
    tell::customer(&t.app, &mut tx, "suspended", &ada.id, None, "x").await.unwrap();
    tx.commit().await.unwrap();
    t.settle().await;
    assert_eq!((t.incidents().await, t.mail.tried()), (vec!["email_unknown".to_owned()], 1));
    let page = Page { limit: 1, after: String::new(), before: String::new() };
    let email = t.app.store.emails(&page, &EmailFilter::default()).await.unwrap().0[0].id.clone();
    let desk = Desk::of(&t).await;
    assert!(desk.offers("/console", "resend", &email).await);
    assert!(desk.offers(&format!("/console/customers/{}", ada.id), "resend", &email).await);
    desk.does("resend", &email).await;
    assert_eq!((t.incidents().await.len(), t.mail.tried()), (0, 2));
    assert_eq!(desk.press("resend", &email, "").await.status, 409);
}

#[tokio::test]
async fn a_difference_is_repaired() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    let (draft, lines) = (stripe_id_of(&t, &ada).await, t.lines_at_stripe(&ada).await);
    t.stripe(
        "POST",
        &format!("/invoices/{draft}/update_lines"),
        &format!("lines[0][id]={}&lines[0][amount]=777", lines[0].0),
    )
    .await;
    let incident = t.goes_wrong("drift", &t.current(&ada).await.id, "Ledger and Stripe differ.").await;
    let desk = Desk::of(&t).await;
    assert!(desk.offers("/console", "repair", &t.current(&ada).await.id).await);
    desk.does("repair", &t.current(&ada).await.id).await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 200);
    desk.does("repair", "all").await;
    assert!(!t.incidents().await.contains(&"drift".to_owned()), "{incident}: {:?}", t.incidents().await);
}

#[tokio::test]
async fn a_draft_is_synced_and_stripe_is_asked_for_events() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.settle().await;
    t.uses(&ada, "calls", 100, "k1").await;
    let desk = Desk::of(&t).await;
    desk.does("sync", &ada.id).await;
    assert_eq!(t.draft_total(&ada).await, 200);
    t.sandbox.reset_calls();
    desk.does("poll", "webhooks").await;
    assert_eq!((t.reads(), t.audited("poll.asked").await), (1, 1));
    assert_eq!(desk.press("sync", "ot_cus_nobody", "").await.status, 404);
}

#[tokio::test]
async fn a_stripe_that_refuses_the_key_is_on_the_first_page() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    let refused = Fault::Status { status: 401, code: None, stored: false, executed: false };
    t.sandbox.faults().often("", refused, 1_000);
    t.uses(&ada, "calls", 1, "k1").await;
    t.work().await;
    let page = Desk::of(&t).await.page("/console").await;
    assert!(page.contains("stripe_unauthorized") && page.contains("STRIPE_SECRET_KEY"), "{page}");
}

#[tokio::test]
async fn names_and_messages_are_shown_as_they_are_and_never_run() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    let evil = "<script>alert(1)</script>\"'><img src=x>";
    let sql = opentab::internals::store::both("update customer set name = $1, email = $1, external_id = $1");
    p.t.app.store.db.run(sql, (evil,)).await.unwrap();
    let sql = opentab::internals::store::both("update charge set message = $1");
    p.t.app.store.db.run(sql, (evil,)).await.unwrap();
    let sql = opentab::internals::store::both(
        "update invoice set number = $1, hosted_invoice_url = 'javascript:alert(1)'",
    );
    p.t.app.store.db.run(sql, (evil,)).await.unwrap();
    p.t.goes_wrong(evil, &invoice, evil).await;
    let desk = Desk::of(&p.t).await;
    let paths = [
        "/console",
        "/console/invoices",
        "/console/customers",
        &format!("/console/invoices/{invoice}"),
        &format!("/console/customers/{}", p.ada.id),
    ];
    for path in paths {
        let page = desk.page(path).await;
        assert!(page.contains("&#60;script&#62;alert(1)"), "{path} does not show it: {page}");
        for text in ["<script", "<img", "href=\"javascript:", "<b>Me"] {
            assert!(!page.contains(text), "{path} holds {text}");
        }
    }
    let page = desk.page("/console/customers?text=%3Cscript%3E%22").await;
    assert!(!page.contains("<script"), "{page}");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let t = Tab::new().await;
    for at in 0..30 {
        t.customer(&format!("Customer{at:02}")).await;
    }
    let desk = Desk::of(&t).await;
    let first = desk.page("/console/customers").await;
    assert!(first.contains("Customer29") && first.contains("Customer05") && !first.contains("Customer04"));
    let next =
        first.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&");
    let second = desk.page(&next).await;
    assert!(
        second.contains("Customer04") && !second.contains("Customer05") && !second.contains("rel=\"next\"")
    );
    let back =
        second.split("rel=\"prev\" href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&");
    let again = desk.page(&back).await;
    assert!(again.contains("Customer05") && again.contains("Customer29") && !again.contains("rel=\"prev\""));
    let found = desk.page("/console/customers?text=CUSTOMER07&standing=").await;
    assert!(found.contains("Customer07") && !found.contains("Customer08"));
    assert!(desk.page("/console/customers?text=%25").await.contains("There are no such customers."));
}

#[tokio::test]
async fn invoices_are_found_by_status_reason_customer_and_month() {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let (invoice, _) = p.invoice().await;
    let desk = Desk::of(&p.t).await;
    let shown = ["", "?status=failed", "?status=failed&reason=declined", "?customer=ada", "?month=2026-12"];
    let hidden = ["?status=paid", "?reason=network", "?customer=nobody", "?month=2026-10"];
    for query in shown {
        assert!(desk.page(&format!("/console/invoices{query}")).await.contains(&invoice), "{query}");
    }
    for query in hidden {
        assert!(!desk.page(&format!("/console/invoices{query}")).await.contains(&invoice), "{query}");
    }
    let page = desk.page(&format!("/console/invoices/{invoice}")).await;
    for text in ["declined", "ot_att_", "calls", "payment failed", "charge.failed"] {
        assert!(page.contains(text), "{text} is not shown");
    }
    assert_eq!(desk.get("/console/invoices/ot_inv_nothing").await.status, 404);
    assert!(
        desk.get("/console/invoices/ot_inv_nothing").await.body.contains("<h1>There is nothing here</h1>")
    );
}

impl Desk<'_> {
    /// Sends a customer list as the page's form does; where it leads.
    async fn uploads(&self, list: &str, month: &str) -> Reply {
        let part = |head: &str, text: &str| {
            format!("--cut\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n")
        };
        let form = part("name=\"month\"", month)
            + &part("name=\"map\"", "Kunde=external_id, Notes=")
            + &part("name=\"file\"; filename=\"<i>list</i>.csv\"\r\ncontent-type: text/csv", list)
            + "--cut--\r\n";
        let request = Request::post("/console/press/import")
            .header("host", "opentab.test")
            .header("cookie", &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "multipart/form-data; boundary=cut");
        let answer = self.web.clone().oneshot(request.body(Body::from(form)).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        Reply { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// The address of the preview of a list.
    async fn previews(&self, list: &str) -> String {
        let reply = self.uploads(list, "").await;
        assert_eq!(reply.status, 303, "{}", reply.body);
        reply.header("location").to_owned()
    }

    async fn says_yes(&self, preview: &str) -> Reply {
        let id = preview.rsplit('/').next().unwrap();
        let origin = [("cookie", &*self.cookie), ("sec-fetch-site", "same-origin")];
        self.send("POST", &format!("/console/press/import/{id}"), &origin, "").await
    }

    async fn name_of(&self, external_id: &str) -> Option<String> {
        let found = self.tab.app.store.customer_by_any_id(external_id).await.unwrap();
        found.map(|customer| customer.name)
    }
}

#[tokio::test]
async fn exactly_the_list_that_was_shown_is_imported() {
    let t = Tab::new().await;
    let desk = Desk::of(&t).await;
    t.customer("Ada").await;
    let list = "Kunde,name,currency,email,Notes\nada,<b>Ada</b>,usd,-,x\neve,Eve,eur,,\n";
    let preview = desk.previews(list).await;
    let page = desk.page(&preview).await;
    for shown in [
        "<del>Ada</del>",
        "<ins>&#60;b&#62;Ada&#60;/b&#62;</ins>",
        "<del>ada@example.com</del>",
        "removed",
        "<ins>Eve</ins>",
        "Import 2 changes",
        "&#60;i&#62;list&#60;/i&#62;.csv",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert_eq!(desk.name_of("ada").await.as_deref(), Some("Ada"), "looking changes nothing");
    assert_eq!(desk.name_of("eve").await, None);
    let reply = desk.says_yes(&preview).await;
    assert_eq!((reply.status, reply.header("location")), (303, &*preview));
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(desk.name_of("ada").await.as_deref(), Some("<b>Ada</b>"));
    assert_eq!(desk.name_of("eve").await.as_deref(), Some("Eve"));
    assert!(desk.page(&preview).await.contains("What has changed"));
    // A second press, of somebody who went back, does nothing.
    assert_eq!(desk.says_yes(&preview).await.status, 404);
    assert!(desk.page("/console/import").await.contains("imported"));
}

#[tokio::test]
async fn a_list_that_would_do_something_else_by_now_is_shown_again() {
    let t = Tab::new().await;
    let desk = Desk::of(&t).await;
    t.customer("Ada").await;
    let preview = desk.previews("external_id,name,currency\nada,Ada L,usd\neve,Eve,eur\n").await;
    // In between somebody makes Eve.
    t.customer_with("Eve", "eur", opentab_billing::CollectionMethod::SendInvoice).await;
    let reply = desk.says_yes(&preview).await;
    assert_eq!(reply.header("location"), format!("{preview}?changed=true"), "{}", reply.body);
    assert_eq!(desk.name_of("ada").await.as_deref(), Some("Ada"), "nothing was imported");
    let page = desk.page(reply.header("location")).await;
    assert!(page.contains("Something was changed") && page.contains("Import 1 change<"), "{page}");
    // What is shown now holds.
    assert_eq!(desk.says_yes(&preview).await.header("location"), preview);
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(desk.name_of("ada").await.as_deref(), Some("Ada L"));
    // Where a line has come to be at fault, all of it is refused.
    let preview = desk.previews("external_id,name,currency\nada,Ada M,usd\nbob,Bob,eur\n").await;
    t.customer("Bob").await;
    desk.says_yes(&preview).await;
    jobs::run_due(&t.app).await.unwrap();
    let page = desk.page(&preview).await;
    assert!(page.contains("Nothing was imported") && page.contains("<th scope=\"row\">3</th>"), "{page}");
    assert_eq!(desk.name_of("ada").await.as_deref(), Some("Ada L"));
}

#[tokio::test]
async fn a_preview_is_kept_for_a_day() {
    let t = Tab::new().await;
    let desk = Desk::of(&t).await;
    let preview = desk.previews("external_id,name,currency\nada,Ada,usd\n").await;
    t.pass(chrono::Duration::hours(23));
    opentab::internals::workflows::prune::prune(&t.app).await.unwrap();
    assert!(Desk::of(&t).await.page(&preview).await.contains("Import 1 change"));
    t.pass(chrono::Duration::hours(2));
    opentab::internals::workflows::prune::prune(&t.app).await.unwrap();
    let desk = Desk::of(&t).await;
    assert!(desk.page(&preview).await.contains("not kept any more"));
    assert_eq!(desk.says_yes(&preview).await.status, 404);
    assert_eq!(desk.name_of("ada").await, None);
}

#[tokio::test]
async fn a_faulty_list_and_a_faulty_form_say_where() {
    let t = Tab::new().await;
    let desk = Desk::of(&t).await;
    let page = desk.page(&desk.previews("Kunde,name,currency\nada,Ada,gold\nada,Ada,usd\n").await).await;
    assert!(page.contains("At fault") && page.contains("<code>currency</code>"), "{page}");
    assert!(!page.contains("class=\"button\">Import"), "{page}");
    assert_eq!(desk.uploads("external_id\nada\n", "november").await.status, 422);
    let form = desk.send("POST", "/console/press/import", &[("cookie", &desk.cookie)], "file=x").await;
    assert_eq!(form.status, 415);
    // Nothing of another site's is taken, nor of somebody who may only look.
    let elsewhere = [("cookie", &*desk.cookie), ("sec-fetch-site", "cross-site")];
    assert_eq!(desk.send("POST", "/console/press/import", &elsewhere, "").await.status, 403);
    let reader = Desk::with(&t, &[Scope::BillingRead]).await;
    assert_eq!(reader.uploads("external_id,name,currency\nada,Ada,usd\n", "").await.status, 403);
    assert!(!reader.page("/console/import").await.contains("type=\"file\""));
    assert_eq!(t.audited("customers.import_checked").await, 1);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_taken() {
    let t = Tab::new().await;
    let mut desk = Desk::of(&t).await;
    let limits = http::extract::Limits { upload_bytes: 1_000, ..Default::default() };
    desk.web = canaries::router_with(t.app.clone(), limits);
    assert_eq!(desk.uploads(&"x".repeat(900), "").await.status, 303);
    assert_eq!(desk.uploads(&"x".repeat(1_100), "").await.status, 413);
}

#[tokio::test]
async fn the_report_is_a_page_of_links_and_escapes_what_it_shows() {
    let payday = Payday::setup("stripe", None, &[]).await;
    let payday = payday.begins().await;
    let t = &payday.t;
    let evil = t
        .customer_like("<script>alert(1)</script>", |new| {
            new.external_id = Some("evil".to_owned());
            new.email = None;
        })
        .await;
    t.flat_fee(&evil, "Fee", 700).await;
    t.settle().await;
    let desk = Desk::with(t, &[Scope::BillingRead]).await;
    let page = desk.page("/console/report?month=2026-12").await;
    assert!(page.contains("&#60;script&#62;") && !page.contains("<script"), "{page}");
    assert!(!page.contains("style=") && !page.contains("onclick="), "the policy forbids it");
    let page = desk.page("/console/report?month=2026-11").await;
    for shown in [
        "$2.00",
        "Revenue by month",
        "<svg",
        "What is open now",
        "<strong class=\"some\">1</strong> not paid",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    // Every link of it leads somewhere.
    let mut links: Vec<String> = page
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&"))
        .filter(|link| link.starts_with("/console/"))
        .collect();
    links.sort();
    links.dedup();
    assert!(links.len() > 12, "{links:?}");
    for link in &links {
        assert_eq!(desk.get(link).await.status, 200, "{link}");
    }
    let csv = desk.get("/console/report.csv?month=2026-11&status=open").await;
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"invoices-2026-11.csv\"");
    assert_eq!(csv.body.lines().count(), 2);
    let json: serde_json::Value =
        serde_json::from_str(&desk.get("/console/report.json?month=2026-11").await.body).unwrap();
    assert_eq!((&json["data"][0]["total"], &json["totals"][0]["total"]), (&json!(200), &json!(200)));
    let empty = desk.get("/console/report.json?month=2020-01").await.body;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&empty).unwrap()["data"], json!([]));
    assert!(desk.page("/console/report?month=2026-11&awaited=not_paid&customer=ada").await.contains("$2.00"));
    assert!(desk.page("/console/report?month=2026-11&customer=nobody").await.contains("no such invoices"));
}

#[tokio::test]
async fn the_days_on_which_a_customer_is_billed_are_shown_and_changed() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.flat_fee(&ada, "Basics", 900).await;
    t.settle().await;
    let desk = Desk::of(&t).await;
    let (page, path) =
        (format!("/console/customers/{}", ada.id), format!("/console/press/customer/{}/active", ada.id));
    assert!(desk.page(&page).await.contains("<dt>Billed</dt><dd>always</dd>"));
    let saved = desk.form(&path, "active_from=2026-10-01&active_until=2026-11-01").await;
    assert_eq!(saved.status, 303, "{}", saved.body);
    let after = desk.page(saved.header("location")).await;
    assert!(after.contains("from 2026-10-01 until before 2026-11-01") && after.contains("role=\"status\""));
    t.settle().await;
    assert!(t.draft(&ada).await.is_empty(), "November is not billed any more");
    assert_eq!(desk.form(&path, "active_from=&active_until=").await.status, 303);
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 900);
    for wrong in ["active_from=2026-11-31", "active_from=2026-12-01&active_until=2026-11-01", "day=1"] {
        assert_eq!(desk.form(&path, wrong).await.status, 422, "{wrong}");
    }
    let elsewhere = [("cookie", &*desk.cookie), ("sec-fetch-site", "cross-site")];
    assert_eq!(desk.send("POST", &path, &elsewhere, "active_from=2026-12-01").await.status, 403);
    let reader = Desk::with(&t, &[Scope::BillingRead]).await;
    assert_eq!(reader.form(&path, "active_from=2026-12-01").await.status, 403);
    assert!(!reader.page(&page).await.contains("/active\""));
    assert_eq!(t.app.store.customer(&ada.id).await.unwrap().unwrap().active_from, None);
}
