//! The product's main job on one machine, with no cluster: namespaces as pods, real DNS and HTTP traffic, an agent on
//! `examples/`, and `kubectl balancing` on it.
//!
//! Everything it says is checked against what the clients really saw; it ends with a failure if the two differ.

mod stage;
mod story;
mod verdict;

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use self::{
    stage::Stage,
    story::Story,
    verdict::{Checks, TRAFFIC},
};
use crate::{client::built, run};

/// How long the load of `--once` lasts. With the limit of 100 a second it shows redirects and what exceeds them.
const LOAD: Duration = Duration::from_secs(4);
/// The live view: how long the local DNS cache is Ready, and how long it is not.
const READY: Duration = Duration::from_secs(20);
const NOT_READY: Duration = Duration::from_secs(6);

/// `[--once]`
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let once = match arguments.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => !(io::stdin().is_terminal() && io::stdout().is_terminal()),
        ["--once"] => true,
        _ => {
            eprintln!("usage: cargo xtask demo [--once]");
            return ExitCode::from(2);
        }
    };
    match demo(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nerror: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells people something.
fn say(text: &str) {
    // A reader that has gone away does not stop the demo from cleaning up.
    writeln!(io::stdout(), "{text}").ok();
}

/// A heading.
fn head(text: &str) {
    let bold = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    say(&if bold { format!("\n\x1b[1m{text}\x1b[0m") } else { format!("\n== {text}") });
}

fn demo(once: bool) -> Result<()> {
    if let Some(why) = run::missing() {
        bail!("the demo cannot run here: {why}");
    }
    let view = LiveView::default();
    run::claim()?;
    run::remove_on_signals({
        let view = view.clone();
        move || view.end()
    })?;
    head("A node, made of network namespaces on this machine");
    say(stage::MAP);
    let network = stage::network()?;
    let mut stage = Stage::new(&network)?;
    say(
        "The agent `balancing-agent run --manifests ...` is ready: it has read examples/ and programmed the kernel\n\
         for the processes of one cgroup. Nothing else on this machine is affected.",
    );

    let mut checks = Checks::default();
    Story { stage: &mut stage, checks: &mut checks }.tell()?;
    load(&mut stage, &mut checks, once)?;
    if once {
        printed(&mut stage, &mut checks)?;
    } else {
        live(&mut stage, &mut checks, &view)?;
    }
    drop(stage);
    drop(network);
    let left = run::own();
    ensure!(left.is_empty(), "left behind: {left:?}");
    head("Result");
    say("Everything was removed again: namespaces, cgroup, programs, maps.");
    checks.conclude()
}

/// Some seconds of load, and whether the counters say what the clients saw.
fn load(stage: &mut Stage<'_>, checks: &mut Checks, once: bool) -> Result<()> {
    head("Load");
    say(&format!(
        "For {} seconds the client pod sends 400 DNS queries a second, four times the limit of the policy\n\
        node-local-dns, and HTTP requests to every other frontend.",
        LOAD.as_secs()
    ));
    let before = stage.top()?;
    stage.client()?.start_traffic(TRAFFIC.to_vec())?;
    let began = Instant::now();
    thread::sleep(LOAD);
    let answered = stage.client()?.stop_traffic()?;
    let took = began.elapsed();
    let after = stage.top()?;
    say(&verdict::table(&answered));
    let failed = checks.counters_agree(&before, &after, &answered) | checks.limit_held(took, &answered);
    if once || failed {
        return Ok(());
    }
    say("The counters of `kubectl balancing top` agree with what the clients counted, to the unit.");
    Ok(())
}

/// What the plugin prints, and whether it is true.
fn printed(stage: &mut Stage<'_>, checks: &mut Checks) -> Result<()> {
    // With traffic going on, so that the rates say something.
    stage.client()?.start_traffic(TRAFFIC.to_vec())?;
    let tables = ["policies", "frontends", "backends"].map(|table| {
        let arguments = ["top", table, "--once"];
        stage.plugin(&arguments).map(|printed| (arguments.join(" "), printed))
    });
    stage.client()?.stop_traffic()?;
    for table in tables {
        let (command, printed) = table?;
        head(&format!("kubectl balancing {command}"));
        say(printed.trim_end());
    }
    for policy in verdict::POLICIES {
        let arguments = ["explain", "policy", policy.name];
        head(&format!("kubectl balancing {}", arguments.join(" ")));
        say(stage.plugin(&arguments)?.trim_end());
        let document = stage.plugin(&[&arguments[..], &["-o", "json"]].concat())?;
        checks.explanation(policy, &serde_json::from_str(&document).context("explain policy -o json")?);
    }
    let arguments = ["explain", "connection", "--from", "pod/default/client", "--to", "10.96.0.10:53/udp"];
    head(&format!("kubectl balancing {}", arguments.join(" ")));
    say(stage.plugin(&arguments)?.trim_end());
    let examples = stage::examples().display().to_string();
    let arguments = ["validate", "-R", "-f", examples.as_str()];
    head("kubectl balancing validate -R -f examples");
    say(stage.plugin(&arguments)?.trim_end());
    let document = stage.plugin(&[&arguments[..], &["-o", "json"]].concat())?;
    checks.validation(&serde_json::from_str(&document).context("validate -o json")?);
    Ok(())
}

/// The terminal UI, while traffic goes on and the local DNS cache comes and goes.
fn live(stage: &mut Stage<'_>, checks: &mut Checks, view: &LiveView) -> Result<()> {
    let plugin = built("kubectl-balancing")?;
    head("The live view");
    say(&format!(
        "Next comes `kubectl balancing top` on this node, with traffic going on. Things to look at:\n\
         - node-local-dns redirects 100 queries a second, its limit. QOS-DROPS are the others: they went\n\
         \x20 to CoreDNS.\n\
         - Every {} seconds the local DNS cache is not Ready for {} seconds: its STATE becomes Fallback,\n\
         \x20 its redirects stop, and the clients do not notice. Other policies go on.\n\
         - Enter on a policy shows its frontends and backends, ? the keys. q leaves, and everything is\n\
         \x20 removed.\n\n\
         In another terminal:\n  {} explain policy node-local-dns \\\n    --agent unix:{}\n\n\
         Press Enter.",
        READY.as_secs(),
        NOT_READY.as_secs(),
        plugin.display(),
        stage.socket().display()
    ));
    io::stdin().lock().read_line(&mut String::new())?;
    stage.client()?.start_traffic(TRAFFIC.to_vec())?;
    let over = Arc::new(AtomicBool::new(false));
    let scene = {
        let (over, cache) = (over.clone(), stage.dns_cache()?);
        thread::spawn(move || -> Result<()> {
            loop {
                for (ready, lasts) in [(true, READY), (false, NOT_READY)] {
                    cache.set_ready(ready)?;
                    thread::park_timeout(lasts);
                    if over.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
            }
        })
    };
    let shown = view.run(stage);
    over.store(true, Ordering::Relaxed);
    scene.thread().unpark();
    let answered = stage.client()?.stop_traffic()?;
    shown?;
    match scene.join() {
        Ok(done) => done?,
        Err(_) => bail!("the scene panicked"),
    }
    head("What the clients saw meanwhile");
    say(&verdict::table(&answered));
    checks.nobody_failed(&answered);
    Ok(())
}

/// The process of the terminal UI. It is ended before anything else when the demo is told to end, so that it can give
/// the terminal back.
#[derive(Clone, Default)]
struct LiveView(Arc<AtomicI32>);

impl LiveView {
    fn run(&self, stage: &Stage<'_>) -> Result<()> {
        let plugin = built("kubectl-balancing")?;
        let mut command = std::process::Command::new(plugin);
        let mut child =
            command.arg("top").args(stage.agent_flag()).spawn().context("failed to start the live view")?;
        self.0.store(child.id().cast_signed(), Ordering::Relaxed);
        let status = child.wait();
        self.0.store(0, Ordering::Relaxed);
        let status = status?;
        ensure!(status.success(), "the live view ended with {status}");
        Ok(())
    }

    fn end(&self) {
        let Some(pid) = Pid::from_raw(self.0.load(Ordering::Relaxed)) else { return };
        kill_process(pid, Signal::TERM).ok();
        for _ in 0..200 {
            // It is this process's child: reaped by `run`, it is gone.
            if test_kill_process(pid).is_err() || self.0.load(Ordering::Relaxed) == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
