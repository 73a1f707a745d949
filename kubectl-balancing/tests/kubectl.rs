//! The plugin as kubectl runs it: found in the PATH, its words completed, its exit status passed on, kustomize at hand.
//!
//! Without a kubectl in the PATH these tests are ignored, and say so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
#[path = "fixture/server.rs"]
mod server;

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use libtest_mimic::{Arguments, Completion, Trial};
use server::Server;

/// A folder that is first in the PATH, and a home without configuration; gone with the value.
struct Bed(PathBuf);

impl Bed {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("kubectl-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::create_dir_all(path.join("home")).unwrap();
        symlink(env!("CARGO_BIN_EXE_kubectl-balancing"), path.join("bin/kubectl-balancing")).unwrap();
        Self(path)
    }

    fn kubectl(&self, args: &[&str], agent: &str) -> Output {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.0.join("bin")).chain(env::split_paths(&path));
        Command::new("kubectl")
            .args(args)
            .env("PATH", env::join_paths(folders).unwrap())
            .env("HOME", self.0.join("home"))
            .env("KUBECONFIG", "/dev/null")
            .env("BALANCING_AGENT", agent)
            .env_remove("KUBECTL_PATH")
            .output()
            .unwrap()
    }

    /// Links the completer as whoever reads the documentation does.
    fn install(&self) {
        let output = self.kubectl(&["balancing", "completion", "install"], NOBODY);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "the folder is in the PATH");
        assert!(self.0.join("bin/kubectl_complete-balancing").is_symlink());
    }

    /// What kubectl would offer: candidates, and the directive at their end.
    fn complete(&self, words: &[&str], agent: &str) -> (Vec<String>, String) {
        let output = self.kubectl(&[&["__complete", "balancing"], words].concat(), agent);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        let directive = lines.pop().unwrap();
        (lines, directive)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const NOBODY: &str = "unix:/nonexistent/agent.sock";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A test, and what it does.
type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("commands_are_completed", commands_are_completed),
    ("names_are_completed", names_are_completed),
    ("it_is_found_and_its_status_passed_on", it_is_found_and_its_status_passed_on),
    ("overlays_of_kustomize_are_validated", overlays_of_kustomize_are_validated),
];

fn commands_are_completed() {
    let bed = Bed::new("commands");
    bed.install();
    let (lines, directive) = bed.complete(&[""], NOBODY);
    let names: Vec<&str> = lines.iter().map(|l| l.split('\t').next().unwrap()).collect();
    for command in
        ["top", "explain", "get", "services", "trace", "status", "validate", "version", "completion"]
    {
        assert!(names.contains(&command), "{command}: {names:?}");
    }
    assert_eq!(directive, ":4");
    assert!(lines.iter().any(|l| l.starts_with("explain\tExplain a policy")), "{lines:?}");
    assert_eq!(bed.complete(&["validate", "-f", ""], NOBODY).1, ":0", "the shell completes files");
}

fn names_are_completed() {
    let bed = Bed::new("names");
    bed.install();
    let server = Server::agent(fixture::world());
    let (lines, _) = bed.complete(&["explain", "policy", "node"], &server.address());
    assert_eq!(lines, ["node-local-dns\tLocalRedirectPolicy kube-system/kube-dns"]);
    // Without an agent there is nothing, at once, and no error in the shell.
    assert_eq!(bed.complete(&["explain", "policy", "node"], NOBODY), (vec![], ":4".to_owned()));
}

fn it_is_found_and_its_status_passed_on() {
    let bed = Bed::new("status");
    let version = bed.kubectl(&["balancing", "version", "--client"], NOBODY);
    assert_eq!(text(&version.stdout), format!("Client:  {}\n", env!("CARGO_PKG_VERSION")));
    for (args, status) in [
        (&["balancing", "--version"][..], 0),
        (&["balancing", "status"], 1),
        (&["balancing", "validate", "-f", "/nonexistent.yaml"], 2),
        (&["balancing", "top", "--no-such-flag"], 2),
    ] {
        let output = bed.kubectl(args, NOBODY);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", text(&output.stderr));
    }
}

fn overlays_of_kustomize_are_validated() {
    let bed = Bed::new("kustomize");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/localredirect-address.yaml");
    let write = |name: &str, text: &str| {
        let path = bed.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("base/policy.yaml", &fs::read_to_string(example).unwrap());
    write("base/kustomization.yaml", "resources: [policy.yaml]\n");
    write("good/kustomization.yaml", "resources: [../base]\nnameSuffix: -prod\n");
    let patch = r#"[{"op": "replace", "path": "/spec/frontend/addressMatcher/ip", "value": "224.0.0.1"}]"#;
    write(
        "bad/kustomization.yaml",
        &format!(
            "resources: [../base]\npatches:\n- target: {{kind: LocalRedirectPolicy}}\n  patch: '{patch}'\n"
        ),
    );
    write("broken/kustomization.yaml", "resources: [nowhere.yaml]\n");
    let validate = |folder: &str| {
        let folder = bed.0.join(folder).display().to_string();
        let output = bed.kubectl(&["balancing", "validate", "-k", &folder], NOBODY);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(
        validate("good"),
        (Some(0), String::new(), "1 file, 1 policy: no problems found\n".to_owned())
    );
    let (status, out, err) = validate("bad");
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("BAL0106") && out.contains("spec.frontend.addressMatcher.ip"), "{out}");
    let (status, _, err) = validate("broken");
    assert_eq!(status, Some(2), "{err}");
    assert!(err.contains("with kubectl kustomize") && err.contains("nowhere.yaml"), "{err}");
}

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let found = folders.iter().any(|f| f.join("kubectl").is_file());
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::ignorable_test(*name, move || {
            if !found {
                return Ok(Completion::ignored_with("there is no kubectl in the PATH"));
            }
            test();
            Ok(Completion::Completed)
        })
    };
    libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect()).exit_code()
}
