//! Links between pages, and to files of the repository.

use std::{collections::BTreeSet, path::Path};

use crate::{markdown, none, pages, root};

/// A link of a page: its line, and where it leads.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // A text may be broken over lines, a target is not.
    for (number, line) in markdown::plain(page).lines().enumerate() {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            found.push((number + 1, target.to_owned()));
        }
    }
    found
}

/// Where a link of the page `from` leads in the repository, `..` resolved, and its anchor; `None`: out of the repository.
fn target(from: &str, link: &str) -> Option<(String, Option<String>)> {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    if path.is_empty() {
        return Some((from.to_owned(), anchor));
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some((parts.join("/"), anchor))
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut defects = Vec::new();
    let mut followed = 0;
    for (name, page) in &pages {
        for (line, link) in links(page) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            match target(name, &link) {
                None => defects.push(format!("{name}:{line}: {link} leads out of the repository")),
                Some((path, _)) if !root().join(&path).exists() => {
                    defects.push(format!("{name}:{line}: {link}: there is no {path}"));
                }
                Some((path, Some(anchor))) => match pages.get(&path) {
                    Some(page) if markdown::anchors(page).contains(&anchor) => {}
                    Some(_) => defects.push(format!("{name}:{line}: {link}: {path} has no such heading")),
                    None => defects.push(format!("{name}:{line}: {link}: {path} is no page")),
                },
                Some((_, None)) => {}
            }
        }
    }
    assert!(followed > 200, "only {followed} links were found");
    none(&defects);
}

/// Whoever begins at the repository's page comes to every page.
#[test]
fn every_page_is_linked() {
    let pages = pages();
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut open = vec!["README.md".to_owned()];
    while let Some(name) = open.pop() {
        for (_, link) in links(&pages[&name]) {
            let Some((path, _)) = target(&name, &link) else { continue };
            if pages.contains_key(&path) && reached.insert(path.clone()) {
                open.push(path);
            }
        }
    }
    let lonely: Vec<String> = pages.keys().filter(|name| !reached.contains(*name)).cloned().collect();
    none(&lonely);
}

#[test]
fn links_are_resolved_from_their_page() {
    let to = |link: &str| target("docs/tasks/install.md", link).map(|(path, _)| path);
    assert_eq!(to("../reference/values.md#x").as_deref(), Some("docs/reference/values.md"));
    assert_eq!(to("#here").as_deref(), Some("docs/tasks/install.md"));
    assert_eq!(to("../../README.md").as_deref(), Some("README.md"));
    assert_eq!(to("../../../README.md"), None);
    let page = "see [a\nb](c.md), ![p](d.svg) and `[no](e.md)`\n\n    [no](f.md)\n";
    assert_eq!(links(page), [(2, "c.md".to_owned()), (2, "d.svg".to_owned())]);
    assert!(Path::new(&root()).join("README.md").exists());
}
