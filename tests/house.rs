//! The house's own rules, held against its sources: which room may know which, and what is said in two places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::{Config, SETTINGS, toml_key};
use opentab::internals::http::route_list;
use opentab::internals::http::routes::Access;
use opentab::internals::store::{Db, Location, Store};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::remedy::remedy;

/// Each room, and the rooms that it may know beside itself. Crates hold the arrows to `billing`, `input`, `sandbox` and
/// `webhooks`.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("failpoint", &[]),
    ("mutant", &[]),
    ("metrics", &["store", "stripe"]),
    // `DATABASE_URL` is read into the store's own type.
    ("config", &["store"]),
    ("store", &["clock", "failpoint", "mutant"]),
    ("stripe", &["clock", "config"]),
    ("mailer", &["clock", "config"]),
    ("outgoing", &["clock", "config"]),
    ("app", &["clock", "config", "mailer", "metrics", "outgoing", "store", "stripe", "workflows"]),
    ("workflows", &["app", "clock", "config", "mailer", "metrics", "mutant", "outgoing", "store", "stripe"]),
    ("jobs", &["app", "clock", "config", "metrics", "store", "stripe", "workflows"]),
    // What a page shows is what a workflow has put together.
    ("pages", &["workflows"]),
    ("http", &["app", "clock", "config", "metrics", "pages", "store", "stripe", "workflows"]),
];

/// Rooms at the end of every arrow: they may know all others.
const ENDS: &[&str] = &["commands", "internals", "lib", "main"];

/// Crates that a room has no use for: it would do more than its one thing.
const STRANGERS: &[(&str, &[&str])] = &[
    ("store", &["axum", "reqwest", "stripe_client_core", "stripe_billing", "stripe_core", "hyper"]),
    ("stripe", &["sqlx", "axum"]),
    ("mailer", &["sqlx", "axum", "reqwest"]),
    ("outgoing", &["sqlx", "axum", "lettre"]),
    ("pages", &["sqlx", "tokio", "reqwest"]),
    ("http", &["reqwest"]),
];

/// What anybody may ask for without a key: nothing here shows anybody's data.
const PUBLIC: &[&str] = &[
    "* /billing/assets/billing.css",
    "* /billing/assets/billing.js",
    "* /console/assets/console.css",
    "* /docs",
    "* /openapi.json",
    "* /problems",
    "* /problems/{slug}",
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
];

/// What the README may name beside the settings: only tests read these.
const FOR_TESTS: &[&str] =
    &["OPENTAB_SIGNATURE_VECTORS", "STRIPE_OPENAPI_SPEC", "TEST_DATABASE", "TEST_POSTGRES_URL"];

/// What holds a line of the README's table beside a test: thousands of histories, each from a seed.
const BESIDE_TESTS: &[&str] = &["simulate"];

/// One source file.
struct Source {
    /// From the package's folder, such as `src/billing/money.rs`.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or("").trim_end_matches(".rs")
    }

    /// Without comments.
    fn code(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Without comments and tests.
    fn product(&self) -> String {
        if self.path.ends_with("/tests.rs") {
            return String::new();
        }
        let code = self.code();
        code.split("#[cfg(test)]").next().unwrap_or("").to_owned()
    }

    /// How many modules deep the file is: 1 for `src/app.rs` and `src/store/mod.rs`.
    fn depth(&self) -> usize {
        let names = self.path.matches('/').count();
        if self.path.ends_with("/mod.rs") { names - 1 } else { names }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| find_rust(&root().join(folder), &mut files));
    files.sort();
    let source = |file: PathBuf| {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { text: read(&path), path }
    };
    files.into_iter().map(source).collect()
}

fn find_rust(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => find_rust(&path, found),
            Some(ending) if ending == "rs" => found.push(path),
            _ => {}
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the text holds this, not as the end of a longer name.
fn places<'t>(text: &'t str, what: &'t str) -> impl Iterator<Item = usize> + 't {
    let found = text.match_indices(what).map(|(at, _)| at);
    found.filter(move |&at| !text[..at].ends_with(is_name))
}

/// Whether the text holds this name, whole.
fn names(text: &str, name: &str) -> bool {
    places(text, name).any(|at| !text[at + name.len()..].starts_with(is_name))
}

/// The rooms that the text names after `crate::`, also in braces.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let rests = places(text, "crate::").map(|at| &text[at + "crate::".len()..]);
    rests.flat_map(first_names).collect()
}

fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|&c| is_name(c)).collect::<String>();
    match rest.strip_prefix('{') {
        None => vec![name(rest)],
        Some(group) => split_outside(group, ',').iter().map(|part| name(part)).collect(),
    }
}

/// The parts between separators that stand in no brackets, up to the bracket that closes them all.
fn split_outside(text: &str, separator: char) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in text.chars() {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' if depth == 0 => break,
            ')' | '}' => depth -= 1,
            _ => {}
        }
        match parts.last_mut() {
            Some(part) if c != separator || depth > 0 => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn none_of(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_arrows_between_rooms_point_one_way() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let room = source.room();
        if ENDS.contains(&room) {
            continue;
        }
        let Some(may_know) = arrows.get(room) else {
            wrong.push(format!("{}: no arrow says what the room {room} may know", source.path));
            continue;
        };
        let strange = |known: &String| known != room && !may_know.contains(&known.as_str());
        let strange = rooms_named(&source.code()).into_iter().filter(strange);
        wrong.extend(strange.map(|known| format!("{}: {room} may not know {known}", source.path)));
    }
    none_of(wrong);
}

#[test]
fn no_room_is_left_by_climbing_out_of_it() {
    let climbs = |source: &Source| source.product().contains(&"super::".repeat(source.depth()));
    none_of(sources(&["src"]).iter().filter(|source| climbs(source)).map(|s| s.path.clone()).collect());
}

#[test]
fn a_room_has_only_the_crates_that_its_one_thing_needs() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let strangers = STRANGERS.iter().filter(|(room, _)| *room == source.room());
        for stranger in strangers.flat_map(|(_, crates)| *crates) {
            if places(&source.code(), &format!("{stranger}::")).next().is_some() {
                wrong.push(format!("{}: {stranger}", source.path));
            }
        }
    }
    none_of(wrong);
}

#[test]
fn sql_is_written_only_in_the_store() {
    const SIGNS: &[&str] = &[
        "sqlx::query",
        "both(\"",
        "split(\n",
        "\"select ",
        "\"insert into ",
        "\"delete from ",
        "\"create table ",
        "\"pragma ",
    ];
    let mut wrong = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| source.room() != "store") {
        let text = source.product();
        let signs = SIGNS.iter().filter(|sign| text.contains(*sign));
        wrong.extend(signs.map(|sign| format!("{}: {sign}", source.path)));
    }
    none_of(wrong);
}

#[test]
fn no_statement_is_prepared_anew_for_every_limit() {
    let all = sources(&["src"]);
    none_of(
        all.iter()
            .flat_map(|source| {
                let bare = source.text.match_indices("limit $").filter(|(at, _)| {
                    let rest = source.text[at + 7..].trim_start_matches(|c: char| c.is_ascii_digit());
                    !rest.starts_with(" + 0") && !rest.starts_with('`')
                });
                bare.map(|(at, _)| {
                    format!("{}: {}", source.path, &source.text[at..(at + 10).min(source.text.len())])
                })
            })
            .collect(),
    );
}

#[test]
fn every_file_says_first_what_its_one_subject_is() {
    let all = sources(&["src", "tests", "benches", "billing", "input", "sandbox", "simulation", "webhooks"]);
    let silent = all.iter().filter(|source| !source.text.starts_with("//! "));
    none_of(silent.map(|source| source.path.clone()).collect());
}

#[test]
fn no_float_comes_near_money() {
    let mut wrong = Vec::new();
    for source in sources(&["billing/src", "src/store", "src/workflows"]) {
        let floats = ["f32", "f64"].into_iter().filter(|float| names(&source.code(), float));
        wrong.extend(floats.map(|float| format!("{}: {float}", source.path)));
    }
    none_of(wrong);
}

#[test]
fn the_readme_lists_exactly_the_settings_that_there_are() {
    let text = read("README.md");
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let ours = |word: &&str| {
        let named = ["OPENTAB_", "STRIPE_", "DATABASE_"].iter().any(|start| word.starts_with(start));
        named && !word.ends_with('_') && !FOR_TESTS.contains(word)
    };
    let listed: BTreeSet<&str> = words.filter(ours).collect();
    let settings: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(listed, settings);
}

/// The names of all functions that are marked as tests.
fn tests_of(source: &Source) -> Vec<String> {
    let parts = source.text.split("#[test]").skip(1);
    let parts = parts.chain(source.text.split("#[tokio::test").skip(1));
    parts.filter_map(|rest| Some(first_names(rest.split_once("fn ")?.1).remove(0))).collect()
}

/// The rows of the table below a heading of the README, cell by cell.
fn rows_below(heading: &str) -> Vec<Vec<String>> {
    let text = read("README.md");
    let section = text.split_once(&format!("\n## {heading}\n")).expect("no such heading").1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what "));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn each_line_of_what_happens_when_names_the_tests_that_hold_it() {
    let all = sources(&["src", "tests", "billing", "input", "sandbox", "simulation", "webhooks"]);
    let tests: BTreeSet<String> = all.iter().flat_map(tests_of).collect();
    let rows = rows_below("What happens when");
    assert!(rows.len() > 30 && tests.len() > 300, "{} rows, {} tests", rows.len(), tests.len());
    let mut wrong = Vec::new();
    for row in rows {
        let [what, _, held_by] = &row[..] else { panic!("not three cells: {row:?}") };
        let names: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("nothing holds `{what}`"));
        }
        let missing = names.iter().filter(|name| !tests.contains(**name) && !BESIDE_TESTS.contains(name));
        wrong.extend(missing.map(|name| format!("{what}: there is no test `{name}`")));
    }
    none_of(wrong);
}

#[test]
fn help_shows_every_setting() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_opentab")).args(arguments).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        for setting in SETTINGS {
            let line = format!("{} ({})", setting.name, toml_key(setting.name));
            assert!(text.contains(&line), "{arguments:?} does not show {line}");
        }
    }
}

/// Where a workflow opens an incident whose kind does not stand in the call, and what its kinds are.
const KINDS_ELSEWHERE: &[(&str, &[&str])] = &[
    // `charge_` and the reason: held by a test of the table.
    ("src/workflows/charge/outcome.rs", &["charge_unknown", "provider_down"]),
    ("src/workflows/email.rs", &["email_unknown", "email_failed"]),
    ("src/workflows/seal.rs", &["finalized_early", "finalized_by_hand"]),
];

/// The third argument of every call that opens an incident: its kind, as it is written there.
fn reported_kinds(code: &str) -> Vec<String> {
    let calls = ["report(", "report_quietly("].into_iter().flat_map(|call| {
        places(code, call).filter(|at| !code[..*at].ends_with("fn ")).map(move |at| at + call.len())
    });
    let arguments = calls.map(|at| split_outside(&code[at..], ','));
    arguments.filter(|all| all.len() == 5).map(|all| all[2].trim_start_matches('&').to_owned()).collect()
}

/// The text behind a constant's name, wherever it is declared.
fn constant(all: &[Source], name: &str) -> Option<String> {
    let name = name.rsplit("::").next().unwrap_or(name);
    let declared = format!("const {name}: &str = \"");
    let found = all.iter().find_map(|source| source.text.split_once(&declared))?;
    found.1.split('"').next().map(str::to_owned)
}

#[test]
fn no_incident_can_be_opened_that_nobody_has_a_remedy_for() {
    let all = sources(&["src/workflows", "src/jobs", "src/http", "src/commands"]);
    let mut kinds: Vec<(String, String)> = Vec::new();
    for source in &all {
        let elsewhere = KINDS_ELSEWHERE.iter().find(|(path, _)| *path == source.path);
        for kind in reported_kinds(&source.product()) {
            match (kind.strip_prefix('"'), constant(&all, &kind), elsewhere) {
                (Some(literal), _, _) => {
                    kinds.push((source.path.clone(), literal.trim_end_matches('"').to_owned()))
                }
                (None, Some(known), _) => kinds.push((source.path.clone(), known)),
                (None, None, Some((path, listed))) => {
                    kinds.extend(listed.iter().map(|kind| (path.to_string(), kind.to_string())));
                }
                // What hands its own argument on.
                (None, None, None) if source.path == "src/workflows/notice.rs" => {}
                (None, None, None) => kinds.push((source.path.clone(), format!("unknown: {kind}"))),
            }
        }
    }
    assert!(kinds.len() > 25, "too few calls were found: {kinds:?}");
    let missing = kinds.iter().filter(|(_, kind)| remedy(kind).is_none());
    none_of(
        missing.map(|(path, kind)| format!("{path}: {kind} is not in src/workflows/remedy.rs")).collect(),
    );
}

/// Nobody is there.
#[derive(Debug)]
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("nobody is there".to_owned()) })
    }
}

#[tokio::test]
async fn what_anybody_may_ask_for_without_a_key_is_spelled_out() {
    let config = Config::from_sources(BTreeMap::new(), "").unwrap();
    let store = Store { db: Db::open(&Location::Memory).await.unwrap() };
    let clock = Clock::system();
    let stripe = Stripe::new(Arc::new(Nowhere), Pacer::unlimited());
    let app = opentab::internals::app::build(config, clock.clone(), Ids::random(clock), store, stripe);
    let public = route_list(&app).into_iter().filter(|route| route.access == Access::Public);
    let mut public: Vec<String> = public.map(|route| format!("{} {}", route.method, route.path)).collect();
    public.sort();
    let mut expected = PUBLIC.to_vec();
    expected.sort();
    assert_eq!(public, expected);
}
