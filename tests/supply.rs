//! Supply: what is built in comes from one registry, is locked, and says nothing unsafe of its own; `deny.toml` holds the
//! licences, and this holds without cargo-deny.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Of these there is one version, or two of them would not know of each other's state.
const ONE_OF: [&str; 3] = ["libsqlite3-sys", "ring", "rustls"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Each locked package: its versions, and where they come from (nowhere: this repository).
fn locked() -> BTreeMap<String, Vec<Option<String>>> {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let mut packages: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let source = package.get("source").map(|source| source.as_str().unwrap().to_owned());
        packages.entry(package["name"].as_str().unwrap().to_owned()).or_default().push(source);
    }
    packages
}

/// What `deny.toml` bans by name.
fn banned() -> Vec<String> {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let entries = deny["bans"]["deny"].as_array().unwrap().iter();
    entries.filter_map(|entry| entry.as_str().map(str::to_owned)).collect()
}

#[test]
fn every_dependency_comes_from_the_registry() {
    for (name, sources) in locked() {
        for source in sources {
            let ours = name == "opentab" || name.starts_with("opentab-");
            let registry = source.as_deref().is_some_and(|source| source.starts_with("registry+"));
            assert!(ours || registry, "{name} comes from {source:?}");
        }
    }
}

#[test]
fn there_is_one_tls_one_provider_and_one_sqlite() {
    let (locked, banned) = (locked(), banned());
    assert!(banned.len() >= 5, "deny.toml bans nothing");
    let found: Vec<&String> = banned.iter().filter(|name| locked.contains_key(*name)).collect();
    assert!(found.is_empty(), "{found:?}");
    for name in ONE_OF {
        assert_eq!(locked[name].len(), 1, "{name}");
    }
}

/// Every manifest and Rust file of this repository.
fn ours(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["target", ".git", "node_modules"].contains(&name) {
            ours(&path, found);
        } else if name == "Cargo.toml" || name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_crate_forbids_unsafe_code_and_nobody_allows_it() {
    let mut files = Vec::new();
    ours(Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
    let manifests = files.iter().filter(|path| path.ends_with("Cargo.toml"));
    assert!(manifests.clone().count() >= 2);
    for manifest in manifests {
        let table: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
        let inherits = table["lints"]["workspace"].as_bool();
        assert_eq!(inherits, Some(true), "{} has lints of its own", manifest.display());
    }
    let lints: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(lints["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let allowance = ["allow(unsafe", "_code)"].concat();
    for file in files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        assert!(!fs::read_to_string(file).unwrap().contains(&allowance), "{}", file.display());
    }
}
