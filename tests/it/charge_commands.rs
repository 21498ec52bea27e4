//! Commands about charges as a script sees them: the real binary on a file, with the sandbox on a port.

use std::process::Command;

use opentab::internals::commands::dunning::ladder;
use opentab::internals::store::{Db, Location, Store};
use opentab_billing::{Reason, Strategy};
use opentab_sandbox::CardOutcome;
use serde_json::{Value, json};

use crate::payday::Payday;
use crate::secrets::STRIPE_KEY;

/// A company on a file, and its Stripe on a port.
struct Shell {
    p: Payday,
    folder: tempfile::TempDir,
    stripe: String,
}

impl Shell {
    async fn new() -> Shell {
        _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let store = Store { db: Db::open(&Location::File(folder.path().join("opentab.db"))).await.unwrap() };
        store.db.migrate().await.unwrap();
        let card = Some(CardOutcome::Declined("generic_decline"));
        let p = Payday::on(store, "opentab", card, &[]).await.begins().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stripe = format!("http://{}", listener.local_addr().unwrap());
        let router = p.t.sandbox.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Shell { p, folder, stripe }
    }

    /// The exit code, and what was printed.
    fn says(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opentab"));
        command.env_clear().current_dir(self.folder.path()).env("STRIPE_API_BASE", &self.stripe);
        command.env("STRIPE_SECRET_KEY", STRIPE_KEY).env("OPENTAB_COLLECTION", "opentab");
        let output = command.args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// The exit code, and the lines that were printed for a script.
    fn tells(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let (code, text) = self.says(&[arguments, &["--json"]].concat());
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {text}"));
        (code, text.lines().map(line).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_is_listed_retried_and_charged_from_a_shell() {
    let shell = Shell::new().await;
    let (id, _) = shell.p.invoice().await;
    let (code, text) = shell.says(&["invoices", "list", "--status", "failed"]);
    assert!(code == 0 && text.contains(&id) && text.contains("failed (declined, 1 tries)"), "{text}");
    assert_eq!(shell.says(&["invoices", "list", "--status", "paid"]), (0, String::new()));
    assert_eq!(shell.says(&["invoices", "list", "--status", "lost"]).0, 2);

    let (code, lines) = shell.tells(&["invoices", "charge", &id]);
    assert_eq!((code, &lines[0]["status"], &lines[0]["reason"]), (1, &json!("failed"), &json!("declined")));
    let (code, text) = shell.says(&["invoices", "charge", &id]);
    assert!(code == 1 && text.contains("is failed (declined)"), "{text}");

    let (code, lines) = shell.tells(&["invoices", "retry", &id]);
    assert!(code == 0 && lines[0]["invoice"] == id && lines[0]["next_attempt_at"].is_string(), "{lines:?}");
    let by_reason = ["invoices", "retry", "--reason", "declined", "--month", "2026-12"];
    assert_eq!(shell.tells(&by_reason), (0, vec![json!({ "asked": 1 })]));
    let (code, text) = shell.says(&["invoices", "retry", "ot_inv_none"]);
    assert!(code != 0 && text.contains("no such invoice"), "{text}");

    shell.p.t.sandbox.card_will(&shell.p.card, CardOutcome::Succeeds);
    let (code, lines) = shell.tells(&["invoices", "charge", &id]);
    assert_eq!((code, &lines[0]["status"], &lines[0]["amount"]), (0, &json!("paid"), &json!("2.00 USD")));
    let (code, text) = shell.says(&["invoices", "charge", &id]);
    assert!(code != 0 && text.contains("paid already"), "{text}");
    shell.p.paid_once("from a shell").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_is_written_off_voided_and_billed_again_from_a_shell() {
    let shell = Shell::new().await;
    let (id, _) = shell.p.invoice().await;
    assert_ne!(shell.says(&["invoices", "rebill", &id]).0, 0, "it is not void");
    let (code, lines) = shell.tells(&["invoices", "mark-uncollectible", &id]);
    assert_eq!((code, &lines[0]["status"]), (0, &json!("uncollectible")));
    let (code, text) = shell.says(&["invoices", "void", &id]);
    assert!(code == 0 && text.contains("is void"), "{text}");
    let (_, listed) = shell.tells(&["invoices", "list", "--status", "void"]);
    let (code, lines) = shell.tells(&["invoices", "rebill", &id]);
    assert_eq!((code, &lines), (0, &listed), "one shape");
    let (code, lines) = shell.tells(&["sync", "--dry-run", "--customer", "ada"]);
    assert_eq!(
        (code, lines[0]["total"].as_i64(), lines[0]["add"][0]["amount"].as_i64()),
        (0, Some(200), Some(200))
    );
    let (code, lines) = shell.tells(&["amounts", "retry", "--month", "2026-11"]);
    assert_eq!((code, lines), (0, vec![json!({ "asked": 0 })]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ladders_are_shown_as_the_settings_have_them() {
    let shell = Shell::new().await;
    let (code, text) = shell.says(&["dunning", "show"]);
    assert_eq!(code, 0);
    for reason in Reason::ALL {
        assert!(text.contains(&ladder(reason, &Strategy::default_of(reason))), "{reason}: {text}");
    }
    let own = "[dunning.declined]\nretry_after = [\"5d\"]\nfinally = \"wait\"\n";
    std::fs::write(shell.folder.path().join("opentab.toml"), own).unwrap();
    let (_, text) = shell.says(&["dunning", "show"]);
    let declined = text.split("\n\n").find(|ladder| ladder.starts_with("declined:")).unwrap();
    assert!(declined.contains("tries: at once, 5d\n") && declined.contains("finally: wait"), "{declined}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_human_is_listed_in_a_shell() {
    let shell = Shell::new().await;
    let (id, _) = shell.p.invoice().await;
    let sql =
        opentab::internals::store::both("update charge set state = 'needs_attention' where invoice_id = $1");
    shell.p.t.app.store.db.run(sql, (&id,)).await.unwrap();
    let (_, lines) = shell.tells(&["incidents", "list"]);
    let need = lines.iter().find(|line| line["kind"] == "charge_needs_attention").unwrap();
    assert_eq!((&need["object"], &need["subject"]), (&json!("waiting"), &json!(id)));
    let (_, text) = shell.says(&["incidents", "list"]);
    assert!(text.contains(&format!("opentab invoices charge {id}")), "{text}");
}
