//! The live view in a real terminal (tmux): keys, sizes, and what is left behind on every way out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
mod fixture;
#[cfg(test)]
#[path = "fixture/server.rs"]
mod server;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use server::Server;

const PATIENCE: Duration = Duration::from_secs(20);
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A tmux server of its own, with a shell in its only window. It ends with the test.
struct Shell {
    socket: String,
    folder: PathBuf,
    files: u32,
}

/// Is there a tmux? If not, the test says so and does nothing.
fn tmux() -> bool {
    let found = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = found.is_ok_and(|s| s.success());
    if !there {
        eprintln!("SKIPPED: tmux is not installed");
    }
    there
}

impl Shell {
    fn new(agent: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = format!("kubectl-balancing-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&socket);
        std::fs::create_dir_all(&folder).unwrap();
        let mut shell = Self { socket, folder, files: 0 };
        let mut command = shell.tmux(&["new-session", "-d", "-x", "80", "-y", "24", "sh -i"]);
        command.env("LC_ALL", "C.UTF-8").env("BALANCING_AGENT", agent).env_remove("ENV");
        command.env("PROGRAM", env!("CARGO_BIN_EXE_kubectl-balancing"));
        for name in [
            "NO_COLOR",
            "CLICOLOR",
            "CLICOLOR_FORCE",
            "FORCE_COLOR",
            "TMUX",
            "BALANCING_TEST_PANIC",
            "RUST_BACKTRACE",
        ] {
            command.env_remove(name);
        }
        assert!(command.status().unwrap().success());
        assert_eq!(shell.output("echo ready"), "ready");
        shell
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(args);
        command
    }

    fn ask(&self, args: &[&str]) -> String {
        let output = self.tmux(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    fn keys(&self, keys: &[&str]) {
        let mut args = vec!["send-keys"];
        args.extend(keys);
        self.ask(&args);
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.ask(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Polls the screen until it is as it should be.
    fn wait(&self, as_it_should_be: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if as_it_should_be(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < PATIENCE, "the screen stayed:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The output of a command of the shell.
    fn output(&mut self, command: &str) -> String {
        self.files += 1;
        let file = self.folder.join(self.files.to_string());
        let part = file.with_extension("part");
        self.keys(&[
            &format!("{command} > {} && mv {} {}", part.display(), part.display(), file.display()),
            "Enter",
        ]);
        let begun = Instant::now();
        while !file.exists() {
            assert!(begun.elapsed() < PATIENCE, "{command} was not run:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// The terminal's modes, and whether it is the normal screen with a cursor.
    fn modes(&mut self) -> (String, String) {
        let modes = self.output("stty -g");
        (modes, self.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim().to_owned())
    }

    /// Starts the live view -> its process id.
    fn start(&mut self) -> i32 {
        self.files += 1;
        let file = self.folder.join(format!("pid{}", self.files));
        self.keys(&["clear", "Enter"]);
        let start = format!(
            "sh -c 'echo $$ > {}; exec \"$PROGRAM\" top --interval 1s'; echo status $?",
            file.display()
        );
        self.keys(&[&start, "Enter"]);
        self.wait(|s| s.contains("LIVE") && s.contains("node-local-dns"));
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.ask(&["kill-server"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn signal(pid: i32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

const NORMAL: &str = "0 1";

#[test]
fn keys_and_sizes_and_a_good_end() {
    if !tmux() {
        return;
    }
    let server = Server::agent(fixture::world());
    let mut shell = Shell::new(&server.address());
    let before = shell.modes();
    assert_eq!(before.1, NORMAL);
    shell.start();
    assert_eq!(shell.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "1 0");
    // Rates come with the second sample.
    shell.wait(|s| s.contains("37.0"));
    shell.keys(&["Down", "Enter"]);
    shell.wait(|s| s.contains("policies > lr/typo") && s.contains("BAL0102"));
    shell.keys(&["3"]);
    shell.wait(|s| s.contains("10.96.0.10:53/UDP") && !s.contains("policies >"));
    shell.keys(&["1", "/", "d", "n", "s", "Enter"]);
    shell.wait(|s| s.contains("shadow-dns") && !s.contains("log-cache"));
    shell.resize(120, 40);
    shell.wait(|s| s.contains("WHY"));
    for i in 0..30 {
        shell.resize(20 + i * 9, 3 + i);
    }
    shell.resize(30, 5);
    shell.wait(|s| s.contains("needs 40x6, has 30x5"));
    shell.resize(80, 24);
    shell.wait(|s| s.contains("LIVE") && s.lines().count() >= 23);
    shell.keys(&["Space"]);
    shell.wait(|s| s.contains("PAUSED"));
    shell.keys(&["q"]);
    let last = shell.wait(|s| s.contains("status 0"));
    // The filtered table and the totals are on the normal screen, each row on one line.
    assert!(
        last.lines().any(|l| l.starts_with("Programmed   node-local-dns") && l.contains("37.0")),
        "{last}"
    );
    assert!(last.contains("STATE") && last.contains("shadow-dns"), "{last}");
    assert!(last.contains("as of 2026-") && last.contains("8 policies"), "{last}");
    assert_eq!(shell.modes(), before);
}

#[test]
fn signals_and_a_panic_leave_the_terminal_as_it_was() {
    if !tmux() {
        return;
    }
    let server = Server::agent(fixture::world());
    let mut shell = Shell::new(&server.address());
    let before = shell.modes();
    for (name, status) in [("TERM", "status 143"), ("HUP", "status 129"), ("INT", "status 0")] {
        let pid = shell.start();
        signal(pid, name);
        let last = shell.wait(|s| s.contains(status));
        assert!(last.contains("as of 2026-"), "{last}");
        assert_eq!(shell.modes(), before, "after SIG{name}");
    }
    if !cfg!(debug_assertions) {
        // A release build cannot be asked to panic.
        return;
    }
    shell.keys(&["export BALANCING_TEST_PANIC=1", "Enter"]);
    shell.start();
    shell.keys(&["F12"]);
    // The message comes after the terminal is back, so it can be read.
    shell.wait(|s| s.contains("status 101") && s.contains("asked to panic"));
    assert_eq!(shell.modes(), before, "after a panic");
}

#[test]
fn stopped_and_continued() {
    if !tmux() {
        return;
    }
    let server = Server::agent(fixture::world());
    let mut shell = Shell::new(&server.address());
    let before = shell.modes();
    shell.start();
    shell.keys(&["C-z"]);
    shell.wait(|s| s.contains("Stopped"));
    assert_eq!(shell.modes(), before, "while stopped");
    shell.keys(&["fg", "Enter"]);
    shell.wait(|s| s.contains("LIVE") && s.contains("node-local-dns"));
    shell.keys(&["4"]);
    shell.wait(|s| s.contains("BACKEND"));
    shell.keys(&["q"]);
    shell.wait(|s| s.contains("as of 2026-"));
    assert_eq!(shell.modes(), before, "after the end");
}

/// The synthetic cluster needs no agent; its view is recorded, saved and replayed, the mouse is given back.
#[test]
fn a_demo_that_is_recorded_and_replayed() {
    if !tmux() {
        return;
    }
    let mut shell = Shell::new("unix:/nonexistent");
    let before = shell.modes();
    shell.keys(&[&format!("export XDG_STATE_HOME={}; clear", shell.folder.display()), "Enter"]);
    shell.keys(&["\"$PROGRAM\" top --demo --interval 500ms; echo status $?", "Enter"]);
    shell.wait(|s| s.contains("DEMO DATA") && s.contains("node-local-dns"));
    shell.keys(&["R"]);
    shell.wait(|s| s.contains("recording to "));
    shell.keys(&["m"]);
    shell.wait(|_| shell.ask(&["display-message", "-p", "#{mouse_any_flag}"]).trim() == "1");
    shell.keys(&["2"]);
    shell.wait(|s| s.contains("demo-08"));
    shell.keys(&["S"]);
    shell.wait(|s| s.contains("saved "));
    let folder = shell.folder.join("kubectl-balancing");
    let names = || {
        let files = std::fs::read_dir(&folder).unwrap();
        files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for ending in [".txt", ".json", ".svg", ".jsonl"] {
        assert!(names().iter().any(|n| n.ends_with(ending)), "{ending}: {:?}", names());
    }
    let recording = folder.join(names().into_iter().find(|n| n.ends_with(".jsonl")).unwrap());
    let frames = || std::fs::read_to_string(&recording).unwrap().matches("\"kind\":\"Frame\"").count();
    shell.wait(|_| frames() >= 3);
    shell.keys(&["q"]);
    let last = shell.wait(|s| s.contains("status 0"));
    assert!(last.contains("DEMO DATA as of 2026-01-01"), "{last}");
    assert_eq!(shell.modes(), before);
    assert_eq!(shell.ask(&["display-message", "-p", "#{mouse_any_flag}"]).trim(), "0");
    let replay =
        format!("clear; \"$PROGRAM\" top --speed 100 --replay {}; echo status $?", recording.display());
    shell.keys(&[&replay, "Enter"]);
    shell.wait(|s| s.contains("REPLAY ended") && s.contains("DEMO DATA"));
    shell.keys(&["q"]);
    shell.wait(|s| s.contains("status 0"));
    assert_eq!(shell.modes(), before);
}

/// A locale that is not UTF-8: no byte beyond ASCII. The view ends by itself when it should.
#[test]
fn a_plain_terminal_and_a_short_view() {
    if !tmux() {
        return;
    }
    let server = Server::agent(fixture::world());
    let mut shell = Shell::new(&server.address());
    let before = shell.modes();
    shell.keys(&["clear; LC_ALL=C \"$PROGRAM\" top --interval 1s --duration 3s; echo status $?", "Enter"]);
    let screen = shell.wait(|s| s.contains("* LIVE") && s.contains("node-local-dns"));
    assert!(screen.is_ascii(), "{screen}");
    shell.wait(|s| s.contains("status 0") && s.contains("as of 2026-"));
    assert_eq!(shell.modes(), before);
}

#[test]
fn an_agent_that_goes_away_and_comes_back() {
    if !tmux() {
        return;
    }
    let server = Server::agent(fixture::world());
    let path = server.path.clone();
    let mut shell = Shell::new(&server.address());
    let before = shell.modes();
    shell.start();
    drop(server);
    let lost = shell.wait(|s| s.contains("RECONNECTING"));
    assert!(lost.contains("node-local-dns"), "{lost}");
    let again = Server::agent_at(path, fixture::world());
    shell.wait(|s| s.contains("LIVE"));
    shell.keys(&["q"]);
    shell.wait(|s| s.contains("status 0"));
    assert_eq!(shell.modes(), before);
    // One that is not there at all is waited for. Who does not wait is told on the normal screen.
    let path = again.path.clone();
    drop(again);
    shell.keys(&["clear; \"$PROGRAM\" top; echo status $?", "Enter"]);
    let waiting = shell.wait(|s| s.contains("No answer yet"));
    assert!(waiting.contains("CONNECTING again"), "{waiting}");
    shell.keys(&["q"]);
    let refused = shell.wait(|s| s.contains("status 1"));
    assert!(refused.contains("error: failed to reach the agent at unix:"), "{refused}");
    assert_eq!(shell.modes(), before);
    shell.keys(&["clear; \"$PROGRAM\" top; echo status $?", "Enter"]);
    shell.wait(|s| s.contains("No answer yet"));
    let _late = Server::agent_at(path, fixture::world());
    shell.wait(|s| s.contains("LIVE"));
    shell.keys(&["q"]);
    shell.wait(|s| s.contains("status 0"));
    assert_eq!(shell.modes(), before);
}
