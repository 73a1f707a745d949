//! What `top` costs at 10,000 rows: time of a frame, of taking a sample in, and memory. `cargo bench -p kubectl-balancing`
//! prints them; with `--check` it fails where a limit is passed; with `--json` it prints what `cargo xtask bench` reads.

#![expect(clippy::print_stdout, reason = "the numbers are what it is for")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::policy::{PolicyKind, PolicyRef};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use kubectl_balancing::{
    demo::Demo,
    rows::What,
    sample::{Board, Sample},
    tui::{
        model::{Model, Msg},
        view::view,
    },
};
use ratatui::{Terminal, backend::TestBackend};

const ROWS: usize = 10_000;
const FRAMES: usize = 500;
const FRAME_LIMIT: Duration = Duration::from_millis(2);
const MEMORY_LIMIT: f64 = 50.0;

/// A node with so many policies, each with a frontend and counters: the last step of the synthetic cluster, many times.
fn sample(demo: &mut Demo) -> Sample {
    let mut sample = demo.next(Duration::from_secs(1));
    let Some(node) = sample.nodes.first_mut() else { return sample };
    let (status, counters) = (node.status.policies[0].clone(), node.counters.policies[0].clone());
    node.status.policies.truncate(0);
    node.counters.policies.truncate(0);
    for i in 0..ROWS {
        let name = format!("policy-{i:05}");
        let mut status = status.clone();
        status.name.clone_from(&name);
        let mut counters = counters.clone();
        counters.policy = PolicyRef::new(PolicyKind::LocalRedirectPolicy, name);
        counters.redirects += i as u64;
        node.status.policies.push(status);
        node.counters.policies.push(counters);
    }
    sample
}

/// Memory of this process that is in use, in MB.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    pages * rustix::param::page_size() as f64 / 1e6
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() -> ExitCode {
    let mut demo = Demo::new(1, 1);
    let mut model = Model::new("bench".to_owned(), What::Policies, Duration::from_secs(1), true, true);
    model.update(Msg::Resize(120, 40));
    let mut before: Option<Arc<Board>> = None;
    let mut taken = Vec::new();
    for _ in 0..20 {
        let sample = sample(&mut demo);
        let begun = Instant::now();
        let board = Arc::new(Board::new(sample, before.as_ref().map(|b| &b.sample)));
        before = Some(board.clone());
        model.update(Msg::Data(board));
        taken.push(begun.elapsed());
    }
    let Ok(mut terminal) = Terminal::new(TestBackend::new(120, 40));
    let mut frames = Vec::new();
    let keys = [KeyCode::Down, KeyCode::PageDown, KeyCode::End, KeyCode::Up, KeyCode::Home];
    for i in 0..FRAMES {
        model.update(Msg::Key(KeyEvent::new(keys[i % keys.len()], KeyModifiers::NONE)));
        let begun = Instant::now();
        let Ok(_) = terminal.draw(|frame| view(&model, frame));
        frames.push(begun.elapsed());
    }
    let mut empty = Vec::new();
    for _ in 0..FRAMES {
        let begun = Instant::now();
        let Ok(_) = terminal.draw(|_| {});
        empty.push(begun.elapsed());
    }
    let mut sorts = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        model.update(Msg::Key(KeyEvent::new(KeyCode::Char('s'), KeyModifiers::NONE)));
        sorts.push(begun.elapsed());
    }
    drop(before);
    let (worst, frame) = (frames.iter().max().copied().unwrap_or_default(), median(frames));
    let memory = resident();
    if std::env::args().any(|a| a == "--json") {
        let figures = serde_json::json!({
            "rows": ROWS,
            "frameNs": frame.as_nanos() as u64,
            "worstNs": worst.as_nanos() as u64,
            "emptyNs": median(empty).as_nanos() as u64,
            "sampleNs": median(taken).as_nanos() as u64,
            "residentBytes": (memory * 1e6) as u64,
        });
        println!("{figures}");
        return ExitCode::SUCCESS;
    }
    println!("rows            {ROWS}");
    println!("frame           {frame:?} median, {worst:?} worst");
    println!("empty frame     {:?} median", median(empty));
    println!("sample taken in {:?} median", median(taken));
    println!("sorted anew     {:?} median", median(sorts));
    println!("resident        {memory:.1} MB, the sample included");
    let good = frame <= FRAME_LIMIT && memory <= MEMORY_LIMIT;
    if std::env::args().any(|a| a == "--check") && !good {
        println!("over the limit: a frame {FRAME_LIMIT:?}, {MEMORY_LIMIT} MB");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
