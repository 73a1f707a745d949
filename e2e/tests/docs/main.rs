//! The pages: their links lead somewhere, and what they name exists under that name, and the other way round.
//!
//! Nothing is started: pages are compared with one another, with sources, and with the snapshots of help texts and of
//! `/metrics`, each of which has a test that holds it to its program.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod commands;
mod links;
mod markdown;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The folder of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All pages, by their path in the repository.
fn pages() -> BTreeMap<String, String> {
    let mut found = BTreeSet::new();
    for folder in ["", "docs", "examples", "charts"] {
        gather(Path::new(folder), !folder.is_empty(), &mut found);
    }
    assert!(found.len() > 60, "only {} pages", found.len());
    found.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn gather(folder: &Path, below: bool, found: &mut BTreeSet<String>) {
    let all = fs::read_dir(root().join(folder)).expect("a folder of the repository");
    for entry in all.map(|entry| entry.expect("its entry")) {
        let path = folder.join(entry.file_name());
        let text = path.to_str().expect("a name in UTF-8").to_owned();
        if below && entry.path().is_dir() {
            gather(&path, below, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.insert(text);
        }
    }
}

/// One line for each defect, so that one run shows them all.
fn none(defects: &[String]) {
    assert!(defects.is_empty(), "{} defects:\n{}", defects.len(), defects.join("\n"));
}
