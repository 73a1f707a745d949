//! `trace` against an agent of canned events: how it ends, and what it says of what is missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
mod fixture;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use balancing_api::agent::Document;
use rustix::process::{Pid, Signal, kill_process};

/// What the agent sends of `/v1/events`, and whether it goes on or ends then.
struct Script {
    past: &'static str,
    stream: &'static str,
    ends: bool,
}

/// The socket of an agent, which goes with this value.
struct Agent(PathBuf);

impl std::ops::Deref for Agent {
    type Target = std::path::Path;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An agent that plays a script to everybody who asks, for as long as the test runs.
fn agent(script: Script) -> Agent {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("kubectl-balancing-trace-{}-{number}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let script = std::sync::Arc::new(script);
        for stream in listener.incoming() {
            let script = script.clone();
            std::thread::spawn(move || serve(&stream.unwrap(), &script));
        }
    });
    Agent(path)
}

fn serve(mut stream: &UnixStream, script: &Script) {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let _ = reader.read_line(&mut request);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        line.clear();
    }
    let whole = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    if request.contains("/v1/status") {
        let status = Document::new("NodeStatus", fixture::world().status);
        let _ = stream.write_all(&whole(&serde_json::to_vec(&status).unwrap()));
    } else if request.contains("follow=true") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        // In pieces that end anywhere.
        for chunk in script.stream.as_bytes().chunks(37) {
            let _ = write!(stream, "{:x}\r\n", chunk.len());
            let _ = stream.write_all(&[chunk, b"\r\n"].concat());
        }
        if script.ends {
            let _ = stream.write_all(b"0\r\n\r\n");
        } else {
            // Until the other end hangs up.
            let _ = reader.read(&mut [0]);
        }
    } else {
        let _ = stream.write_all(&whole(script.past.as_bytes()));
    }
}

const ONE: &str = r#"{"time":"2026-11-21T15:31:07.1Z","outcome":"redirect","hook":"connect4","process":{"pid":1,"comm":"curl"},"cgroupId":1,"pod":"default/web-0","from":{"netns":1},"to":{"address":"10.96.0.10","port":53,"protocol":"TCP"},"chosen":{"address":"10.244.1.7","port":53},"policy":{"kind":"LocalRedirectPolicy","name":"node-local-dns"}}
"#;
const TWO: &str = r#"{"time":"2026-11-21T15:31:07.2Z","outcome":"refuse","hook":"connect4","process":{"pid":2,"comm":"a\u001b[2Jb"},"cgroupId":1,"from":{"netns":1},"to":{"address":"10.96.0.40","port":80,"protocol":"TCP"},"failure":"NoBackend"}
"#;
/// Of an agent that knows more than this version.
const NEWER: &str = r#"{"time":"2026-11-21T15:31:07.3Z","outcome":"teleport","hook":"connect9","process":{"pid":3,"comm":"x"},"cgroupId":1,"from":{"netns":1},"to":{"address":"10.96.0.41","port":80,"protocol":"TCP"},"extra":[1]}
"#;
const LOST: &str = "{\"lost\":12}\n";

fn text(parts: &[&str]) -> &'static str {
    parts.concat().leak()
}

fn command(agent: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-balancing"));
    command.arg("trace").args(args).env("BALANCING_AGENT", format!("unix:{}", agent.display()));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn run(agent: &std::path::Path, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(agent, args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_stream_ends_after_so_many_events() {
    let agent = agent(Script { past: "", stream: text(&[ONE, LOST, TWO, NEWER, ONE]), ends: false });
    let (code, out, err) = run(&agent, &["--count", "3"]);
    assert_eq!((code, err.as_str()), (Some(0), "3 shown, 12 not: lost, or more than --rate lets through\n"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("TIME") && lines.len() == 5, "{out}");
    assert!(lines[2].contains("12 events not shown here"), "{out}");
    assert!(lines[3].contains("a^[[2Jb[2]") && lines[3].contains("NoBackend"), "{out}");
    assert!(lines[4].contains("teleport"), "an outcome that is not known is shown as it is: {out}");
    assert!(!out.contains('\u{1b}'));

    let (code, out, _) = run(&agent, &["--count", "3", "-o", "json"]);
    let kinds: Vec<String> = out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .map(|v| {
            assert_eq!(
                (v["apiVersion"].as_str(), v["node"].as_str()),
                (Some("cli.balancing.elf.io/v1alpha1"), Some("n1"))
            );
            v["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        (code, kinds),
        (Some(0), ["Event", "LostEvents", "Event", "Event"].map(str::to_owned).to_vec())
    );
}

#[test]
fn the_past_is_shown_and_not_waited_on() {
    let agent = agent(Script { past: text(&[ONE, TWO, NEWER]), stream: "", ends: false });
    let (code, out, err) = run(&agent, &["--last", "2"]);
    assert_eq!((code, err.as_str(), out.lines().count()), (Some(0), "", 3));
    let (code, out, err) = run(&agent, &["--last", "5", "--policy", "edge-proxy"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", "No events found.\n"));
    // Of a policy that is not there nobody needs to wait for events.
    let (code, out, err) = run(&agent, &["--last", "5", "--policy", "edge-prox"]);
    assert_eq!((code, out.as_str()), (Some(0), ""));
    assert!(
        err.starts_with("note: no policy \"edge-prox\" is known") && err.contains("edge-proxy?"),
        "{err}"
    );
    // The agent is that of one node.
    let (code, _, err) = run(&agent, &["--node", "n9"]);
    assert!(code == Some(1) && err.contains("this agent is that of node n1"), "{err}");
    let (_, out, _) = run(&agent, &["--last", "5", "--outcome", "refuse", "-o", "json"]);
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn an_event_between_the_past_and_the_stream_is_shown_once() {
    let agent = agent(Script { past: text(&[ONE, TWO]), stream: text(&[TWO, NEWER]), ends: false });
    let (code, out, _) = run(&agent, &["--last", "9", "-f", "--count", "3", "-o", "json"]);
    let pids: Vec<u64> = out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["process"]["pid"].as_u64().unwrap())
        .collect();
    assert_eq!((code, pids), (Some(0), vec![1, 2, 3]));
}

#[test]
fn time_ends_it_too() {
    let agent = agent(Script { past: "", stream: ONE, ends: false });
    let (code, out, err) = run(&agent, &["--duration", "300ms"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 2, ""));
    let (code, _, err) = run(&agent, &["--duration", "300ms", "--outcome", "refuse"]);
    assert_eq!((code, err.as_str()), (Some(0), "No events found.\n"));
}

#[test]
fn a_rate_is_kept_behind_a_filter_that_the_agent_does_not_know() {
    let agent = agent(Script { past: "", stream: text(&[ONE; 30]), ends: false });
    let (code, out, _) = run(&agent, &["--process", "curl", "--rate", "10", "--duration", "1500ms"]);
    assert_eq!((code, out.lines().count()), (Some(0), 12), "{out}");
    assert!(out.lines().last().unwrap().contains("20 events not shown here"), "{out}");
}

#[test]
fn an_agent_that_ends_the_stream_is_an_error() {
    let agent = agent(Script { past: "", stream: ONE, ends: true });
    let (code, out, err) = run(&agent, &[]);
    assert_eq!((code, out.lines().count()), (Some(1), 2));
    assert!(err.contains("has ended the stream") && err.contains(agent.to_str().unwrap()), "{err}");
    let broken = self::agent(Script { past: "", stream: "{\"hello\":1}\n", ends: false });
    let (code, _, err) = run(&broken, &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("failed to read an event"), "{err}");
}

/// The program once it has written its first lines.
fn started(agent: &std::path::Path, lines: usize) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command(agent, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..lines {
        assert_ne!(out.read_line(&mut String::new()).unwrap(), 0);
    }
    (child, out)
}

#[test]
fn ctrl_c_ends_it_with_its_own_status() {
    let agent = agent(Script { past: "", stream: text(&[ONE, TWO]), ends: false });
    let (child, _out) = started(&agent, 3);
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(130), &b""[..]));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let agent = agent(Script { past: "", stream: text(&[ONE; 5000]), ends: false });
    let (child, out) = started(&agent, 1);
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
}
