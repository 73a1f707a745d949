//! What holds for every command that prints: without a terminal, without colour, into a closed pipe, with hostile and
//! long names, in any locale.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
mod fixture;
#[cfg(test)]
#[path = "fixture/server.rs"]
mod server;

use std::{
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use fixture::{World, world};
use server::Server;

/// Every command that prints and ends, in its shapes for people.
const COMMANDS: &[&[&str]] = &[
    &["top", "--once", "--interval", "100ms"],
    &["get", "policies", "-o", "wide"],
    &["get", "nodes"],
    &["get", "frontends"],
    &["get", "backends"],
    &["services"],
    &["services", "--stats"],
    &["services", "--rate", "--interval", "100ms"],
    &["status", "--interval", "100ms"],
    &["explain", "node"],
    &["explain", "policy", "node-local-dns"],
    &["explain", "connection", "--to", "10.96.0.10:53/udp"],
    &["trace", "--last", "5"],
    &["version"],
    &["validate", "--list-rules"],
    &["completion", "bash"],
];
/// The same for programs.
const DOCUMENTS: &[&[&str]] = &[
    &["top", "--once", "--interval", "100ms", "-o", "json"],
    &["get", "policies", "-o", "json"],
    &["get", "nodes", "-o", "json"],
    &["get", "frontends", "-o", "json"],
    &["get", "backends", "-o", "json"],
    &["services", "-o", "json"],
    &["status", "--interval", "100ms", "-o", "json"],
    &["explain", "node", "-o", "json"],
    &["explain", "policy", "node-local-dns", "-o", "json"],
    &["explain", "connection", "--to", "10.96.0.10:53/udp", "-o", "json"],
    &["version", "-o", "json"],
];

fn command<S: AsRef<OsStr>>(agent: &str, args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-balancing"));
    command.args(args).env("BALANCING_AGENT", agent).stdin(Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "LC_ALL", "LANG"] {
        command.env_remove(name);
    }
    command
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A node whose names, texts and files were chosen by somebody who means ill.
fn hostile() -> World {
    const BAD: &str = "\u{1b}]0;owned\u{7}\u{1b}[31mred\u{202e}\r\nnext\tline\u{9b}2J";
    let mut world = world();
    world.policy("zoned").name = "z".repeat(253);
    world.policy("typo").message = BAD.to_owned();
    world.policy("lost").reason = BAD.to_owned();
    let policy = world.policy("node-local-dns");
    policy.wanted.selector = BAD.to_owned();
    policy.wanted.pods[0].pod = BAD.to_owned();
    world.status.node.source = BAD.to_owned();
    world.status.agent.version = BAD.to_owned();
    world.status.kernel.release = BAD.to_owned();
    world.status.datapath.cgroup_root = BAD.to_owned();
    world.status.datapath.bpffs = BAD.to_owned();
    world.status.datapath.maps[0].name = BAD.to_owned();
    world.source_error(BAD, 7, BAD, BAD);
    world.condition("SourcesSynced", "False", "SourceErrors", BAD);
    for list in [&mut world.programmed, &mut world.desired] {
        for rung in list.items.iter_mut().flat_map(|i| &mut i.rungs) {
            if rung.service.is_some() {
                rung.service = Some(format!("x/{BAD}"));
                rung.service_port = Some(BAD.to_owned());
            }
            for backend in &mut rung.backends {
                backend.pod = Some(format!("{}/{BAD}", "p".repeat(253)));
                backend.node = Some("n".repeat(253));
            }
        }
    }
    world
}

fn is_control(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn nothing_from_outside_is_obeyed_by_a_terminal() {
    let server = Server::agent(hostile());
    for args in COMMANDS.iter().filter(|args| args[0] != "completion") {
        let output = command(&server.address(), args).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(0)), "{args:?}: {err}");
        for (stream, text) in [("stdout", &out), ("stderr", &err)] {
            let found = text.chars().find(|c| is_control(*c));
            assert_eq!(found, None, "{args:?}: {stream} of\n{text}");
        }
        // A name cannot begin a line of its own.
        assert!(!out.lines().chain(err.lines()).any(|l| l.starts_with("next")), "{args:?}:\n{out}{err}");
    }
}

#[test]
fn long_names_are_whole_and_stay_on_their_line() {
    let name = "z".repeat(253);
    let mut world = world();
    world.policy("zoned").name.clone_from(&name);
    let server = Server::agent(world);
    for args in [
        &["get", "policies"][..],
        &["get", "policies", "-o", "name"],
        &["explain", "node"],
        &["top", "--once"],
    ] {
        let out = text(&command(&server.address(), args).output().unwrap());
        assert_eq!(out.lines().filter(|l| l.contains(&name)).count(), 1, "{args:?}:\n{out}");
    }
    let out = text(&command(&server.address(), &["get", "lr", &name, "--no-headers"]).output().unwrap());
    assert_eq!(out.lines().count(), 1);
    assert!(
        text(&command(&server.address(), &["explain", "policy", &name]).output().unwrap()).contains(&name)
    );
}

#[test]
fn colour_only_where_it_is_wanted() {
    let server = Server::agent(world());
    for args in COMMANDS {
        let run = |variables: &[(&str, &str)], more: &[&str]| {
            let mut command = command(&server.address(), args);
            command.args(more).envs(variables.iter().copied());
            text(&command.output().unwrap())
        };
        let plain = run(&[], &[]);
        assert!(!plain.contains('\u{1b}'), "{args:?} without a terminal");
        assert!(
            !run(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], &[]).contains('\u{1b}'),
            "{args:?} NO_COLOR"
        );
        assert!(!run(&[("CLICOLOR_FORCE", "1")], &["--color", "never"]).contains('\u{1b}'), "{args:?} never");
    }
    let coloured = |args: &[&str]| {
        let output = command(&server.address(), args).args(["--color", "always"]).output().unwrap();
        text(&output).contains('\u{1b}')
    };
    for args in [
        &["top", "--once", "--interval", "0s"][..],
        &["status", "--interval", "100ms"],
        &["explain", "node"],
        &["trace", "--last", "5"],
    ] {
        assert!(coloured(args), "{args:?} always");
    }
}

/// What is printed does not depend on the locale, and what this program says itself is ASCII.
#[test]
fn any_locale_will_do() {
    let server = Server::agent(world());
    let steady =
        |text: String| text.lines().filter(|l| !l.contains("/s") && !l.contains("Per second")).count();
    for args in COMMANDS.iter().filter(|args| args[0] != "completion") {
        let run = |locale: &str| {
            let output = command(&server.address(), args).env("LC_ALL", locale).output().unwrap();
            let out = text(&output);
            assert!(out.is_ascii(), "{args:?} in {locale}:\n{out}");
            steady(out)
        };
        assert_eq!(run("C"), run("C.UTF-8"), "{args:?}");
        run("de_DE.ISO-8859-1");
    }
}

#[test]
fn words_that_are_no_utf8_are_wrong_usage() {
    let bad = OsStr::from_bytes(b"\xff\xfe");
    for args in [["get", "policies"], ["explain", "policy"], ["services", "--stats"], ["trace", "--policy"]] {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        args.push(bad.to_owned());
        let output = command("unix:/nonexistent", &args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Of a file it is a name like any other.
    let mut args: Vec<OsString> = ["validate", "-f"].iter().map(OsString::from).collect();
    args.push(bad.to_owned());
    let output = command("unix:/nonexistent", &args).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("there is no file"), "{err}");
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let server = Server::agent(world());
    for args in COMMANDS.iter().chain(DOCUMENTS) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(&server.address(), args).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), err.as_ref()), (Some(141), ""), "{args:?}");
    }
}

#[test]
fn every_document_says_what_it_is() {
    let server = Server::agent(hostile());
    let mut kinds = Vec::new();
    for args in DOCUMENTS {
        let out = text(&command(&server.address(), args).output().unwrap());
        // JSON escapes what a terminal would obey.
        assert_eq!(out.chars().find(|c| c.is_ascii_control() && *c != '\n'), None, "{args:?}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["apiVersion"], "cli.balancing.elf.io/v1alpha1", "{args:?}");
        kinds.push(document["kind"].as_str().unwrap().to_owned());
    }
    let expected = [
        "PolicyTop",
        "PolicyList",
        "NodeList",
        "FrontendList",
        "BackendList",
        "ServiceTable",
        "Status",
        "NodeExplanation",
        "PolicyExplanation",
        "Decision",
        "Version",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn without_an_agent_every_command_says_where_it_looked() {
    let commands = COMMANDS.iter().chain(DOCUMENTS);
    for args in commands.filter(|args| !["validate", "completion"].contains(&args[0])) {
        let output = command("unix:/nonexistent/agent.sock", args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(err.starts_with("error: ") && err.contains("/nonexistent/agent.sock"), "{args:?}: {err}");
        assert_eq!(err.matches("No such file").count(), 1, "{args:?} says it once: {err}");
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(out.is_empty() || args[0] == "version", "{args:?}: {out}");
    }
    let own = command("unix:/nonexistent/agent.sock", &["version", "--client"]).output().unwrap();
    assert!(text(&own).starts_with("Client:  "));
}

/// As kubectl asks: by the other name, and with an agent that knows the names.
#[test]
fn kubectl_completes_with_live_names() {
    let server = Server::agent(world());
    let ask = |words: &[&str]| {
        let mut command = command(&server.address(), words);
        command.arg0("kubectl_complete-balancing");
        text(&command.output().unwrap())
    };
    let out = ask(&["explain", "policy", "node"]);
    assert_eq!(out, "node-local-dns\tLocalRedirectPolicy kube-system/kube-dns\n:4\n");
    assert_eq!(ask(&["get", "bl", "e"]), "edge-proxy\tBalancingPolicy\n:4\n");
    assert_eq!(ask(&["get", "lr", "edge"]), ":4\n");
    assert_eq!(ask(&["explain", "node", "n"]), "n1\t6.18.44\n:4\n");
    assert!(ask(&["trace", "--policy", "sh"]).starts_with("shadow-dns\t"));
    assert!(ask(&["services", "10.96.4"]).starts_with("10.96.4.4:9200/TCP\tlr/log-cache\n"));
    // The agent that the line names is asked, not another.
    let address = server.address();
    let mut elsewhere = command("unix:/nonexistent", &["--agent", &address, "explain", "policy", "typ"]);
    elsewhere.arg0("kubectl_complete-balancing");
    assert!(text(&elsewhere.output().unwrap()).starts_with("typo\t"));
}

#[test]
fn an_agent_that_hangs_does_not_hold_up_a_shell() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::new(std::sync::Arc::new(move |_, _| {
        let _ = held.lock().unwrap().recv();
        None
    }));
    let begin = std::time::Instant::now();
    let mut command = command(&server.address(), &["explain", "policy", "x"]);
    let out = text(&command.arg0("kubectl_complete-balancing").output().unwrap());
    assert_eq!(out, ":4\n");
    assert!(begin.elapsed() < std::time::Duration::from_secs(3), "{:?}", begin.elapsed());
    drop(hold);
}

#[test]
fn hostile_files_are_reported_harmlessly_in_every_format() {
    let folder: PathBuf =
        std::env::temp_dir().join(format!("kubectl-balancing-everywhere-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let long = "l".repeat(253);
    let policy = format!(
        r#"apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: {long}
  labels: {{app: "\e[31mred"}}
  annotations: {{note: "\e]0;owned\a", balancing.elf.io/suppress: "BAL\e[2J"}}
spec:
  frontend:
    addressMatcher: {{ip: "\e[2J", toPorts: [{{port: "\u202e8", protocol: "T\rC"}}]}}
  backend:
    endpointSelector: {{matchLabels: {{"\e[0m": "\n::error::x"}}}}
    toPorts: [{{port: 80, protocol: TCP}}]
"#
    );
    let file = folder.join("\u{1b}[2J\nx.yaml");
    std::fs::write(&file, policy).unwrap();
    for format in ["text", "json", "sarif", "github", "junit"] {
        let mut command = command("unix:/nonexistent", &["validate", "-o", format]);
        let output = command.arg(&file).output().unwrap();
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(1), "{format}: {err}");
        // JSON may hold other letters than ASCII; what a terminal obeys is escaped.
        let obeyed = |c: char| {
            if ["json", "sarif"].contains(&format) {
                c.is_ascii_control() && c != '\n'
            } else {
                is_control(c)
            }
        };
        assert_eq!(out.chars().chain(err.chars()).find(|c| obeyed(*c)), None, "{format}:\n{out}{err}");
        assert!(!out.lines().any(|l| l.starts_with("::error::x")), "{format}:\n{out}");
        if ["json", "sarif"].contains(&format) {
            serde_json::from_str::<serde_json::Value>(&out).unwrap();
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
