//! What was seen on which kernel: the committed results, and the table of the page, which is made from them alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::packages::{SUITES, suite};

const BEGIN: &str = "<!-- made by `cargo xtask kernels --page` from xtask/kernels/results.json -->\n";
const END: &str = "<!-- end of what is made -->\n";

/// What a row of the table is about, and the tests of a node that show it.
pub(super) struct Theme {
    title: &'static str,
    pub(super) tests: &'static [&'static str],
}

/// A part of the tests of a node: those whose load an emulated machine can carry within their deadlines. Of those of QoS the
/// ones with the lowest limits.
pub(super) const THEMES: [Theme; 7] = [
    Theme {
        title: "Every kind of socket is redirected, and back again (`connect`, `sendmsg`)",
        tests: &[
            "redirect::every_kind_of_socket_is_redirected",
            "redirect::last_local_pod_leaves_and_comes_back",
            "redirect::session_affinity_holds_for_services_and_their_policies",
            "redirect::processes_outside_the_cgroup_are_left_alone",
        ],
    },
    Theme {
        title: "Clients see the address they asked for (`recvmsg`, `getpeername`)",
        tests: &[
            "reverse::kept_sockets_show_what_was_asked_again_and_again",
            "reverse::two_vips_on_one_unconnected_socket",
            "reverse::an_unconnected_socket_keeps_its_backend",
            "reverse::direct_traffic_is_not_renamed",
            "reverse::a_connection_and_datagrams_of_one_socket",
        ],
    },
    Theme {
        title: "Where nothing serves, clients are refused at once",
        tests: &["redirect::a_service_without_endpoints_refuses", "redirect::refuse_holds_for_a_service_too"],
    },
    Theme {
        title: "QoS: exactly the limit in every second",
        tests: &[
            "qos::a_change_of_the_limit_applies_at_once",
            "qos::the_agents_default_holds_where_a_policy_has_none",
            "qos::over_the_limit_a_vip_is_left_alone_and_refuse_does_not_refuse",
            "qos::all_ports_and_families_share_one_budget",
        ],
    },
    Theme {
        title: "Exempt callers",
        tests: &["exempt::a_pod_of_its_own_namespace", "exempt::a_host_network_pod"],
    },
    Theme { title: "Three capabilities are enough", tests: &["privileges::three_capabilities_are_enough"] },
    Theme {
        title: "Restart and clean-up",
        tests: &[
            "lifecycle::sigterm_keeps_the_data_path",
            "lifecycle::cleanup_removes_everything_and_nothing_else",
        ],
    },
];

/// What was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// When the last machine ran.
    pub(super) taken_at: String,
    /// SHA-256 of the object that ran.
    pub(super) object: String,
    /// The kernels, the oldest first.
    pub(super) kernels: Vec<Kernel>,
}

/// What was seen on a kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kernel {
    /// The suite of Debian it is from.
    #[serde(default)]
    pub(super) debian: String,
    /// Its package and that one's version.
    #[serde(default)]
    pub(super) package: String,
    /// SHA-256 of the object that ran.
    #[serde(default)]
    pub(super) object: String,
    /// What it calls itself.
    pub(super) release: String,
    /// `kernel.features` of an agent's status, if one was ready there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    features: BTreeMap<String, bool>,
    /// Why no agent was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// The ways in which the programs can be loaded.
    ways: Vec<Way>,
    /// The tests.
    #[serde(default)]
    pub(super) tests: Vec<Test>,
}

/// A way in which the programs can be loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    set_retval: bool,
    atomics: bool,
    /// What the kernel says against it.
    refused: Option<String>,
}

/// A test on a kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Skipped,
    Failed,
}

impl Kernel {
    /// Is it one that the product need not run on, and does not?
    fn refused(&self) -> bool {
        self.why.is_some() && suite(&self.debian).is_some_and(|suite| !suite.supported)
    }

    /// What the agent says of a kernel that it does not run on.
    fn refusal(&self) -> &str {
        self.why.as_deref().and_then(|text| text.lines().next()).unwrap_or("no reason was told")
    }

    /// `Linux 6.1.0-47-amd64: ...` for what does not work.
    pub(super) fn failures(&self) -> Vec<String> {
        if self.refused() {
            return Vec::new();
        }
        let told = |what: &str, why: Option<&String>| {
            let why = why.and_then(|why| why.lines().next()).unwrap_or("no reason was told");
            format!("Linux {}: {what}: {why}", self.release)
        };
        let failed = self.tests.iter().filter(|test| test.outcome != Outcome::Passed);
        let tests = failed.map(|test| told(&format!("`{}`", test.name), test.message.as_ref()));
        self.why.iter().map(|why| told("no agent gets ready", Some(why))).chain(tests).collect()
    }

    /// Do the programs load in any way that is like that?
    fn loads(&self, like: impl Fn(&Way) -> bool) -> bool {
        self.ways.iter().any(|way| way.refused.is_none() && like(way))
    }

    /// `3 of 3`
    fn passed(&self, theme: &Theme) -> String {
        let passed = |name: &&&str| {
            self.tests.iter().any(|test| test.name == ***name && test.outcome == Outcome::Passed)
        };
        let (passed, all) = (theme.tests.iter().filter(passed).count(), theme.tests.len());
        if passed == all { format!("{passed} of {all}") } else { format!("**{passed} of {all}**") }
    }
}

fn results(root: &Path) -> PathBuf {
    root.join("xtask/kernels/results.json")
}

fn page(root: &Path) -> PathBuf {
    root.join("docs/reference/kernel.md")
}

impl Report {
    /// The committed results.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = results(root);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
    }

    /// Keeps them.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let path = results(root);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    /// Takes what was seen on a kernel in the place of what was seen before. What was seen with another object says
    /// nothing of this one and goes.
    pub(super) fn take(&mut self, kernel: Kernel) {
        self.object.clone_from(&kernel.object);
        self.kernels.retain(|other| other.object == kernel.object && other.debian != kernel.debian);
        self.kernels.push(kernel);
        self.kernels.sort_by_key(|kernel| SUITES.iter().position(|suite| suite.name == kernel.debian));
    }

    /// The part of the page that is made.
    fn section(&self) -> String {
        let (refused, tried): (Vec<&Kernel>, Vec<_>) = self.kernels.iter().partition(|k| k.refused());
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        let mut row = |title: &str, cell: &dyn Fn(&Kernel) -> String| {
            rows.push((title.to_owned(), tried.iter().map(|kernel| cell(kernel)).collect()));
        };
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let feature = |name: &'static str| move |k: &Kernel| yes(k.features.get(name) == Some(&true));
        row("An agent gets ready, every hook attached", &|k| yes(k.why.is_none()));
        row("`setRetval`: refused clients get `ECONNREFUSED`", &feature("setRetval"));
        row("`socketStorage`", &feature("socketStorage"));
        row("`socketDestroy`", &feature("socketDestroy"));
        row("64-bit atomics", &|k| yes(k.loads(|way| way.atomics)));
        row("Loads without `bpf_set_retval` too, and with a spin lock", &|k| {
            yes(k.loads(|way| !way.set_retval && !way.atomics))
        });
        for theme in &THEMES {
            row(theme.title, &|k| k.passed(theme));
        }
        let head = |k: &&Kernel| {
            format!("Linux {} ({})", k.release, suite(&k.debian).map_or("", |suite| suite.title))
        };
        let heads = tried.iter().map(head);
        let mut text = format!("| | {} |\n", heads.collect::<Vec<_>>().join(" | "));
        text += &format!("|---|{}\n", "---|".repeat(tried.len()));
        for (title, cells) in rows {
            text += &format!("| {title} | {} |\n", cells.join(" | "));
        }
        for kernel in &refused {
            text += &format!("\n* {}: the agent does not start: `{}`", head(kernel), kernel.refusal());
        }
        for failure in self.kernels.iter().flat_map(Kernel::failures) {
            text += &format!("\n* {failure}");
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let packages: Vec<_> = self.kernels.iter().map(|k| k.package.as_str()).collect();
        text += &format!(
            "\nx86-64, two emulated CPUs, {}; the object `{}`; packages {}.\n\n",
            self.taken_at,
            self.object.get(..12).unwrap_or(&self.object),
            packages.join(", ")
        );
        format!("{BEGIN}\n{text}{END}")
    }
}

/// Makes the page's part anew.
pub(super) fn write_page(root: &Path) -> Result<()> {
    let path = page(root);
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let (before, after) = parts(&text)?;
    fs::write(&path, format!("{before}{}{after}", Report::read(root)?.section()))
        .with_context(|| format!("failed to write {}", path.display()))?;
    eprintln!("kernels: {} is made", path.display());
    Ok(())
}

/// What of the page is written by hand: before and after what is made.
fn parts(text: &str) -> Result<(&str, &str)> {
    let begin = text.find(BEGIN).context("docs/reference/kernel.md has no mark of what is made")?;
    let end = text.find(END).context("docs/reference/kernel.md has no end of what is made")?;
    ensure!(begin < end, "the marks of docs/reference/kernel.md are in the wrong order");
    Ok((&text[..begin], &text[end + END.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_results_agree() {
        let root = crate::bpf::workspace().expect("the workspace");
        let text = fs::read_to_string(page(&root)).expect("the page");
        let (before, after) = parts(&text).expect("marks");
        let made = Report::read(&root).expect("results").section();
        assert_eq!(text, format!("{before}{made}{after}"), "run `cargo xtask kernels --page`");
    }

    #[test]
    fn what_fails_is_shown_where_people_look() {
        let [first, ..] = THEMES[1].tests else { panic!("no tests") };
        let test = |name: &str, outcome| Test { name: name.to_owned(), outcome, message: None };
        let mut tests: Vec<Test> =
            THEMES.iter().flat_map(|t| t.tests).map(|name| test(name, Outcome::Passed)).collect();
        let whole = Kernel { release: "6.1".to_owned(), tests: tests.clone(), ..Kernel::default() };
        assert!(whole.failures().is_empty());
        tests.retain(|t| t.name != *first);
        tests.push(Test { message: Some("it hung\nmore".to_owned()), ..test(first, Outcome::Failed) });
        let broken = Kernel { release: "6.2".to_owned(), tests, ..Kernel::default() };
        let report = Report { kernels: vec![whole, broken], ..Report::default() };
        let section = report.section();
        assert!(section.contains("| 5 of 5 | **4 of 5** |"), "{section}");
        assert!(section.contains(&format!("* Linux 6.2: `{first}`: it hung\n")), "{section}");
    }

    #[test]
    fn results_of_another_object_go() {
        let kernel = |debian: &str, object: &str, release: &str| Kernel {
            debian: debian.to_owned(),
            object: object.to_owned(),
            release: release.to_owned(),
            ..Kernel::default()
        };
        let mut report = Report::default();
        for kernel in [
            kernel("trixie", "a", "6.12"),
            kernel("sid", "b", "7.1"),
            kernel("bookworm", "b", "6.1"),
            kernel("sid", "b", "7.2"),
        ] {
            report.take(kernel);
        }
        let releases: Vec<_> = report.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        assert_eq!((releases, report.object.as_str()), (vec!["6.1", "7.2"], "b"));
    }

    /// A kernel that refuses what it lacks is no failure; one on which nothing loads is.
    #[test]
    fn ways_are_told_apart() {
        let way = |set_retval, atomics, loads: bool| Way {
            set_retval,
            atomics,
            refused: (!loads).then(|| "no".to_owned()),
        };
        let old = Kernel {
            ways: vec![way(true, true, false), way(false, true, false), way(false, false, true)],
            why: None,
            ..Kernel::default()
        };
        assert!(!old.loads(|way| way.atomics) && old.loads(|way| !way.atomics));
        let none = Kernel { why: Some("failed to load".to_owned()), release: "5".to_owned(), ..old };
        assert_eq!(none.failures(), ["Linux 5: no agent gets ready: failed to load"]);
        let known = Kernel { debian: "bullseye".to_owned(), ..none };
        assert!(known.failures().is_empty());
        let section = Report { kernels: vec![known], ..Report::default() }.section();
        assert!(
            section.contains("* Linux 5 (Debian 11): the agent does not start: `failed to load`\n"),
            "{section}"
        );
    }
}
