//! The program as a script meets it: streams, exit status, formats, against an agent of canned documents.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
mod fixture;
#[cfg(test)]
#[path = "fixture/server.rs"]
mod server;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use server::Server;

fn run(server: &Server, args: &[&str]) -> Output {
    command(&server.address(), args).output().unwrap()
}

fn command(agent: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-balancing"));
    command.args(args).env("BALANCING_AGENT", agent);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn without_a_terminal_top_prints_once() {
    let server = Server::agent(fixture::world());
    for args in [&["top"][..], &["top", "--once"], &["top", "policies"]] {
        let mut args = args.to_vec();
        args.extend(["--interval", "100ms"]);
        let output = run(&server, &args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.lines().next().unwrap().starts_with("STATE"), "{text}");
        assert!(text.contains("node-local-dns") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 9);
        // The rates come from two samples that are a second of the agent's clock apart.
        let line = text.lines().find(|l| l.contains("node-local-dns")).unwrap();
        assert!(line.contains("100") && line.contains("37.0"), "{line}");
    }
}

#[test]
fn one_sample_has_no_rates() {
    let server = Server::agent(fixture::world());
    let output = run(&server, &["top", "--interval", "0s"]);
    assert!(stdout(&output).contains("<unknown>"));
    let document = json(&run(&server, &["top", "--interval", "0s", "-o", "json"]));
    assert!(document["interval"].is_null());
    assert!(document["items"][0]["rates"].is_null());
}

#[test]
fn documents_have_the_shapes_of_the_contract() {
    let server = Server::agent(fixture::world());
    let document =
        json(&run(&server, &["top", "--interval", "100ms", "-o", "json", "--filter", "node-local-dns lr"]));
    assert_eq!(document["apiVersion"], "cli.balancing.elf.io/v1alpha1");
    assert_eq!(document["kind"], "PolicyTop");
    assert_eq!(document["coverage"]["fresh"], 1);
    let items = document["items"].as_array().unwrap();
    let item = items.iter().find(|i| i["name"] == "node-local-dns").unwrap();
    assert_eq!(item["kind"], "LocalRedirectPolicy");
    assert_eq!(item["qosDrops"], 370 + 2 * 37);
    assert_eq!(item["rates"]["qosDrops"], 37.0);
    assert_eq!(item["rates"]["fallbacks"]["ExemptCaller"], 2.0);
    let explained = json(&run(&server, &["explain", "policy", "lr/node-local-dns", "-o", "json"]));
    assert_eq!(
        (&explained["kind"], &explained["name"]),
        (&"PolicyExplanation".into(), &"node-local-dns".into())
    );
    assert_eq!(
        (&explained["effective"], &explained["policy"]["kind"]),
        (&"Yes".into(), &"LocalRedirectPolicy".into())
    );
    let decision = json(&run(&server, &["explain", "connection", "--to", "10.96.0.10:53/udp", "-o", "json"]));
    assert_eq!((&decision["kind"], &decision["verdict"]), (&"Decision".into(), &"redirect".into()));
    assert_eq!(decision["intended"]["verdict"], "redirect");
    assert_eq!(decision["qos"]["used"], 37);
}

#[test]
fn count_prints_so_many_samples() {
    let server = Server::agent(fixture::world());
    let output = run(&server, &["top", "--count", "3", "--interval", "100ms", "-o", "jsonl"]);
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let taken: Vec<&str> = lines.iter().map(|l| l["takenAt"].as_str().unwrap()).collect();
    assert!(taken.is_sorted() && taken[0] != taken[2]);
    assert!(lines.iter().all(|l| l["interval"] == 1.0));
    let csv = run(&server, &["top", "backends", "--count", "2", "--interval", "100ms", "-o", "csv"]);
    let text = stdout(&csv);
    assert_eq!(text.matches("time,state,backend").count(), 1);
    assert!(text.lines().all(|l| l.matches(',').count() == 9), "{text}");
}

/// An agent whose world the test changes.
fn changing(world: &Arc<Mutex<fixture::World>>, path: Option<std::path::PathBuf>) -> Server {
    let world = world.clone();
    let answer: server::Answer = Arc::new(move |path, _| {
        let world = world.lock().unwrap();
        Some(match path {
            "/v1/status" => (200, server::document("NodeStatus", &world.status)),
            "/v1/frontends" => (200, server::document("FrontendList", &world.programmed)),
            "/v1/counters" => (200, server::document("Counters", &world.counters)),
            _ => (404, Vec::new()),
        })
    });
    match path {
        Some(path) => Server::at(path, answer),
        None => Server::new(answer),
    }
}

#[test]
fn what_changes_is_watched_until_ctrl_c_and_through_a_restart_of_the_agent() {
    let world = Arc::new(Mutex::new(fixture::world()));
    let server = changing(&world, None);
    let args = ["get", "policies", "--watch", "--interval", "20ms"];
    let mut child = command(&server.address(), &args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first: Vec<String> = out.by_ref().take(9).collect();
    assert!(first[0].starts_with("POLICY"), "{first:?}");
    world.lock().unwrap().policy("edge-proxy").reason = "MapFull".to_owned();
    let changed = out.next().unwrap();
    assert!(changed.starts_with("edge-proxy ") && changed.contains("MapFull"), "{changed}");
    let path = server.path.clone();
    drop(server);
    assert!(err.by_ref().any(|l| l.starts_with("warning: failed to reach the agent")));
    world.lock().unwrap().policy("edge-proxy").reason = "Programmed".to_owned();
    let _server = changing(&world, Some(path));
    let again = err.by_ref().find(|l| !l.starts_with("warning: ") && !l.starts_with("  "));
    assert_eq!(again.as_deref(), Some("There are answers again."));
    let changed = out.next().unwrap();
    assert!(changed.starts_with("edge-proxy ") && changed.contains("Programmed"), "{changed}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(out.next(), None);
    // Who never answered is told at once.
    let nobody = command("unix:/nonexistent", &args).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1), "{}", stderr(&nobody));
}

#[test]
fn a_view_can_be_a_gate() {
    let server = Server::agent(fixture::world());
    let gate = |expression: &str| {
        let output = run(&server, &["top", "--once", "--interval", "100ms", "--fail-if", expression]);
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (status, out, err) = gate("qosDrops>30");
    assert_eq!(status, Some(1), "{err}");
    // What was asked for is printed all the same, and who fails is named.
    assert!(out.contains("node-local-dns") && out.lines().count() == 9, "{out}");
    assert!(err.contains("--fail-if \"qosDrops>30\": 1 row matches: node-local-dns"), "{err}");
    assert_eq!(gate("qosDrops>1k").0, Some(0));
    let (status, out, err) = gate("fail>0");
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("error: --fail-if: there is no field \"fail\"; fields are: state, name"), "{err}");
    // A wrong expression is told before anybody is asked.
    let wrong = command("unix:/nonexistent", &["top", "--once", "--filter", "(dns"]).output().unwrap();
    assert!(stderr(&wrong).contains("--filter: a ) is missing"), "{}", stderr(&wrong));
}

#[test]
fn rows_are_grouped_and_cut() {
    let server = Server::agent(fixture::world());
    let output =
        run(&server, &["top", "backends", "--interval", "100ms", "--group-by", "owner", "--filter", "edge"]);
    let text = stdout(&output);
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["GROUP", "ROWS", "CHOSEN/s", "CHOSEN"], "{text}");
    // 18.5 a second and backend, in whole numbers: 18 after the first second, 37 after the second.
    assert_eq!(lines[1], ["bl/edge-proxy", "2", "38.0", "3174"], "{text}");
    let grouped = json(&run(&server, &["top", "--interval", "100ms", "--group-by", "kind", "-o", "json"]));
    assert_eq!(grouped["kind"], "GroupTop");
    let lr = grouped["items"].as_array().unwrap().iter().find(|g| g["group"] == "lr").unwrap();
    assert_eq!((&lr["rows"], &lr["sums"]["qosDrops"]), (&7.into(), &37.0.into()));
    let output = run(&server, &["top", "--interval", "100ms", "--top", "2", "--sort-by=-redirects"]);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().nth(1).unwrap().contains("node-local-dns"), "{text}");
    assert!(stderr(&output).contains("2 of 8 policies shown"), "{}", stderr(&output));
}

#[test]
fn what_was_recorded_is_shown_without_the_agent() {
    let server = Server::agent(fixture::world());
    let file = std::env::temp_dir().join(format!("kubectl-balancing-{}.jsonl", std::process::id()));
    let path = file.to_str().unwrap();
    let live = run(&server, &["top", "--count", "2", "--interval", "100ms", "--record", path, "-o", "csv"]);
    assert_eq!(live.status.code(), Some(0), "{}", stderr(&live));
    drop(server);
    let replay = |args: &[&str]| {
        let mut all = vec!["top", "--replay", path];
        all.extend(args);
        let output = command("unix:/nonexistent", &all).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    // The same tables, to the letter.
    assert_eq!(replay(&["--count", "2", "-o", "csv"]), stdout(&live));
    // Once: the last one.
    let last: Vec<&str> = replay(&["--once", "-o", "csv"]).leak().lines().skip(1).collect();
    assert_eq!(stdout(&live).lines().skip(9).collect::<Vec<_>>(), last);
    assert!(
        replay(&["nodes", "--once"]).contains("n1") && replay(&["problems"]).contains("FrontendConflict")
    );
    std::fs::remove_file(&file).unwrap();
    let gone = command("unix:/nonexistent", &["top", "--replay", path]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("failed to read the recording") && stderr(&gone).contains(path));
}

#[test]
fn synthetic_data_says_so_everywhere() {
    let of = |args: &[&str]| {
        let output = command("unix:/nonexistent", args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(of(&["top", "--demo"]).ends_with("DEMO DATA: a synthetic cluster, no agent was asked\n"));
    let document: serde_json::Value =
        serde_json::from_str(&of(&["top", "nodes", "--demo", "-o", "json"])).unwrap();
    assert_eq!((&document["demo"], &document["kind"]), (&true.into(), &"NodeTop".into()));
    assert_eq!(of(&["top", "--demo", "--seed", "5"]), of(&["top", "--demo", "--seed", "5"]));
    assert_ne!(of(&["top", "--demo", "--seed", "5"]), of(&["top", "--demo", "--seed", "6"]));
}

#[test]
fn sort_and_filter() {
    let server = Server::agent(fixture::world());
    let first = |args: &[&str]| {
        let mut all = vec!["top", "--interval", "100ms"];
        all.extend(args);
        stdout(&run(&server, &all)).lines().nth(1).unwrap_or_default().to_owned()
    };
    assert!(first(&["--sort-by=-redirects"]).contains("node-local-dns"));
    assert!(first(&["--sort-by", "-REDIR/s"]).contains("node-local-dns"));
    assert!(first(&["--sort-by", "name"]).contains("apiserver-cache"));
    assert!(first(&["backends", "--sort-by=-selected", "--filter", "!active"]).starts_with("Standby"));
    let wrong = run(&server, &["top", "--sort-by", "colour"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("colour") && stderr(&wrong).contains("qosDrops"), "{}", stderr(&wrong));
    let none = run(&server, &["top", "--interval", "0s", "--filter", "nothing-like-it"]);
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(0), ""));
    assert!(stderr(&none).contains("None of 8 policies"), "{}", stderr(&none));
}

#[test]
fn an_unknown_policy_is_named_with_its_neighbours() {
    let server = Server::agent(fixture::world());
    let output = run(&server, &["explain", "policy", "node-local-dsn"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    let text = stderr(&output);
    assert!(text.contains("\"node-local-dsn\"") && text.contains("did you mean node-local-dns"), "{text}");
    let kind = run(&server, &["explain", "policy", "bl/node-local-dns"]);
    assert_eq!(kind.status.code(), Some(1));
}

#[test]
fn a_connection_that_differs_is_a_failure() {
    let mut world = fixture::world();
    world.programmed.items[2].rungs[0].backends.clear();
    let server = Server::agent(world);
    let output = run(&server, &["explain", "connection", "--to", "10.96.0.10:53/udp"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("DIFFERS"), "{}", stdout(&output));
    let same = run(&server, &["explain", "connection", "--to", "10.96.0.10:53/tcp"]);
    assert_eq!(same.status.code(), Some(0));
}

#[test]
fn no_agent_is_told_at_once() {
    let left_over = std::env::temp_dir().join(format!("kubectl-balancing-left-over-{}", std::process::id()));
    let _ = std::fs::remove_file(&left_over);
    drop(std::os::unix::net::UnixListener::bind(&left_over).unwrap());
    let commands: [&[&str]; 3] = [
        &["top", "--once"],
        &["explain", "policy", "x"],
        &["explain", "connection", "--from", "host", "--to", "10.0.0.1:80/tcp"],
    ];
    for path in ["/nonexistent/agent.sock", left_over.to_str().unwrap()] {
        for args in commands {
            let begin = Instant::now();
            let mut args = args.to_vec();
            let agent = format!("unix:{path}");
            args.extend(["--agent", &agent]);
            let output = command("unix:/elsewhere", &args).output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(
                text.starts_with("error: ") && text.contains(path) && !text.contains("panicked"),
                "{text}"
            );
            assert!(begin.elapsed() < Duration::from_secs(3));
        }
    }
    let _ = std::fs::remove_file(&left_over);
}

/// Who asks for the version asks for this program's, too: with a configuration that leads nowhere as well.
#[test]
fn the_version_is_told_where_nobody_can_be_asked() {
    let output = command("unix:/nonexistent", &["version"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("Client:  "), "{}", stderr(&output));
    let kubeconfig = ["version", "--kubeconfig", "/nonexistent/kubeconfig"];
    let output = command("", &kubeconfig).env_remove("BALANCING_AGENT").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("Client:  "), "{}", stderr(&output));
    assert!(stderr(&output).contains("/nonexistent/kubeconfig"), "{}", stderr(&output));
}

#[test]
fn answers_that_are_no_agents() {
    let cases: [(Option<(u16, &str)>, &str); 5] = [
        (None, "broke off"),
        (Some((200, "hello")), "is no"),
        (Some((200, r#"{"apiVersion":"x","kind":"Other"}"#)), "is no"),
        (
            Some((503, r#"{"error":{"code":"Busy","field":"","message":"come\u001b[31m back"}}"#)),
            "come^[[31m back",
        ),
        (Some((400, r#"{"error":{"code":"InvalidField","field":"to.port","message":"no"}}"#)), "to.port: no"),
    ];
    for (answer, expected) in cases {
        let answer = answer.map(|(status, body)| (status, body.as_bytes().to_vec()));
        let server = Server::new(Arc::new(move |_, _| answer.clone()));
        let output = run(&server, &["top", "--once"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains(expected) && text.contains(server.path.to_str().unwrap()), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::new(Arc::new(move |_, _| {
        let _ = held.lock().unwrap().recv();
        None
    }));
    let begin = Instant::now();
    let output = run(&server, &["top", "--once"]);
    assert!(begin.elapsed() < Duration::from_secs(9));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did not answer"), "{}", stderr(&output));
    drop(hold);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let server = Server::agent(fixture::world());
    let mut command = command(&server.address(), &["top", "--interval", "0s", "-o", "json"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(stderr(&output), "");
}

#[test]
fn flags_stand_before_and_after_the_command() {
    let server = Server::agent(fixture::world());
    let agent = server.address();
    for args in [
        &["--agent", &agent, "--color", "always", "top", "--interval", "0s"][..],
        &["top", "--interval", "0s", "--agent", &agent, "--color", "always"],
    ] {
        let output = command("unix:/elsewhere", args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains('\u{1b}'));
    }
}

#[test]
fn what_comes_from_outside_does_not_reach_the_terminal() {
    let mut world = fixture::world();
    world.policy("typo").message = "\u{1b}]0;owned\u{7}\nnext".to_owned();
    world.policy("zoned").name = "x".repeat(253);
    let server = Server::agent(world);
    for args in [&["top", "--interval", "0s", "-o", "wide"][..], &["explain", "policy", "typo"]] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(!text.contains(['\u{1b}', '\u{7}']) && text.contains("^[]0;owned^G next"), "{text}");
    }
}

/// A gate in a script must be able to tell "a row matched" from "the gate is misspelt".
#[test]
fn what_is_misspelt_is_not_taken_for_what_matched() {
    let server = Server::agent(fixture::world());
    let status = |args: &[&str]| run(&server, args).status.code();
    let once = ["top", "--interval", "0s"];
    let with = |more: &[&'static str]| [&once[..], more].concat();
    assert_eq!(status(&with(&["--fail-if", "kind=lr"])), Some(1));
    assert_eq!(status(&with(&["--fail-if", "name=nobody"])), Some(0));
    let wrong = [
        with(&["--fail-if", "fail>0"]),
        with(&["--fail-if", "kind="]),
        with(&["--filter", "(dns"]),
        with(&["--sort-by", "colour"]),
        with(&["--sort-by", "trend"]),
        with(&["--group-by", "colour"]),
        with(&["--colour"]),
        vec!["top", "pods"],
        vec!["get", "policies", "--sort-by", "colour"],
        vec!["get", "frontends", "--filter", "fail>0"],
        vec!["get", "pods"],
        vec!["services", "--stats", "--rates"],
        vec!["explain", "connection", "--to", "nowhere"],
        vec!["explain", "policy", "pod/x"],
        vec!["top", "--policy", "pod/x"],
        vec!["validate", "-o", "xml"],
    ];
    for args in wrong {
        let output = run(&server, &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).ends_with("For more information, try '--help'.\n"), "{}", stderr(&output));
    }
}
