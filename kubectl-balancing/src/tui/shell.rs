//! Between terminal, agent and model: waits, passes on what happens, draws what changed.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use balancing_api::agent::{Event as AgentEvent, LostEvents};
use crossterm::event::{Event, EventStream, KeyCode, MouseButton, MouseEventKind};
use futures_util::StreamExt;
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, sleep, sleep_until},
};

use super::{
    export,
    model::{Effect, Link, Model, Msg},
    terminal::{self, Guard},
    traced::Traced,
    view,
};
use crate::{
    client::{self, Client},
    cluster::relay::Relay,
    columns::{Row, Sort},
    recording::Recorder,
    sample::Board,
    source::{Answer, Error, Source},
    table,
    text::{list, plural},
    top::{self, TopArgs, What},
};

/// Least time between two frames: what comes in between is drawn together.
const FRAME: Duration = Duration::from_millis(40);
/// Pauses before the agent is asked again, doubled each time and short again after success.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Rates should not wait for a long interval: the second sample comes after this.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// What events tell that may wait.
const MESSAGES: usize = 64;
/// Rows of the table that stays on the normal screen.
const LAST_ROWS: usize = 20;

/// What the poller last heard.
#[derive(Clone, Debug)]
enum Feed {
    Nothing,
    Board(Arc<Board>),
    Ended,
    Lost { error: Error, attempt: u32, retry_in: Duration },
}

/// What the poller is told.
#[derive(Clone, Copy, Debug)]
struct Control {
    interval: Duration,
    paused: bool,
    /// Goes up when a sample is wanted at once.
    refreshes: u64,
}

/// How the UI ended.
enum End {
    Left,
    Signal(u8),
    Failed(Error),
    /// Nothing was ever heard, and the user has had enough of it.
    Unanswered(String),
}

/// Shows the live view until the user leaves it -> exit status.
pub async fn run(args: &TopArgs, sort: Option<Sort>, source: Source, colour: bool) -> anyhow::Result<u8> {
    let interval = args.interval.filter(|i| !i.is_zero()).unwrap_or(Duration::from_secs(2));
    let mut model = Model::new(source.name(), args.what, interval, colour, unicode() && !args.ascii)
        .starting_with(sort, &args.filter);
    model.origin = source.origin();
    let asked = Asked::of(&source);
    model.cluster = matches!(asked, Asked::Cluster(_));
    model.theme = args.theme.settled(std::env::var("COLORFGBG").ok().as_deref());
    model.window = args.window.as_secs().max(1);
    model.top = args.top.map_or(usize::MAX, |n| n as usize);
    model.recording = args.record.is_some();
    model.mouse = args.mouse;
    model.scope = scope_words(args);
    let (control, told) = watch::channel(Control { interval, paused: false, refreshes: 0 });
    let (feed, heard) = watch::channel(Feed::Nothing);
    let recorder = top::recorder(args, &source)?;
    let (recordings, recorders) = mpsc::channel(1);
    let poller = tokio::spawn(poll(source, recorder, recorders, told, feed));
    let (messages, others) = mpsc::channel(MESSAGES);
    let mut outside = Outside {
        control,
        feed: heard,
        poller,
        recordings,
        messages,
        others,
        asked,
        trace: None,
        ends: args.duration,
    };
    let end = {
        let _guard = Guard::new().context("failed to take the terminal (--once prints without one)")?;
        terminal::mouse(model.mouse)?;
        interact(&mut model, &mut outside).await
    };
    outside.trace(None);
    outside.poller.abort();
    match end? {
        End::Failed(error) => Err(anyhow::anyhow!("{error}")),
        End::Unanswered(error) => Err(anyhow::anyhow!("{error}")),
        End::Left => {
            farewell(&model, &mut io::stdout().lock())?;
            Ok(0)
        }
        End::Signal(number) => {
            // The terminal may have gone with the signal.
            let _ = farewell(&model, &mut io::stdout().lock());
            Ok(128 + number)
        }
    }
}

/// The part that is shown, for the header.
fn scope_words(args: &TopArgs) -> Vec<String> {
    let policy = args.policy.iter().map(|p| format!("policy {p}"));
    let nodes = (!args.node.is_empty()).then(|| format!("node {}", list(&args.node, 2)));
    let labels = [("labels", &args.labels.selector), ("nodes with", &args.labels.node_selector)];
    let labels = labels.iter().filter_map(|(word, s)| Some(format!("{word} {}", s.as_deref()?)));
    policy.chain(nodes).chain(labels).collect()
}

/// Can the terminal be trusted with more than ASCII?
fn unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Who is asked for events.
enum Asked {
    /// One agent.
    Agent(Client),
    /// The agents of a cluster, one at a time.
    Cluster(Relay),
    /// Nobody: they are none of now.
    Nobody,
}

impl Asked {
    fn of(source: &Source) -> Self {
        match (source.client(), source.relay()) {
            (Some(client), _) => Self::Agent(client.clone()),
            (None, Some(relay)) => Self::Cluster(relay),
            (None, None) => Self::Nobody,
        }
    }

    fn client(&self, of: &Traced) -> Option<Client> {
        match (self, of) {
            (Self::Agent(client), Traced::Agent) => Some(client.clone()),
            (Self::Cluster(relay), Traced::Node(name)) => Some(Client::of_node(relay, name)),
            _ => None,
        }
    }
}

/// Whom the UI talks to.
struct Outside {
    control: watch::Sender<Control>,
    feed: watch::Receiver<Feed>,
    poller: JoinHandle<()>,
    /// Recordings for the poller to write, or to stop.
    recordings: mpsc::Sender<Option<Recorder>>,
    /// For tasks that have something to tell.
    messages: mpsc::Sender<Msg>,
    others: mpsc::Receiver<Msg>,
    asked: Asked,
    trace: Option<JoinHandle<()>>,
    ends: Option<Duration>,
}

impl Outside {
    /// Follows these events, or stops it.
    fn trace(&mut self, of: Option<Traced>) {
        if let Some(task) = self.trace.take() {
            task.abort();
        }
        // What is on its way is that of another node.
        (self.messages, self.others) = mpsc::channel(MESSAGES);
        if let Some(client) = of.and_then(|of| self.asked.client(&of)) {
            self.trace = Some(tokio::spawn(follow(client, self.messages.clone())));
        }
    }

    /// Starts a recording, or stops it -> what to tell the user.
    fn record(&mut self, model: &mut Model, on: bool) -> String {
        if !on {
            model.recording = false;
            return match self.recordings.try_send(None) {
                Ok(()) => "the recording has ended".to_owned(),
                Err(_) => "the recording could not be ended; press R again".to_owned(),
            };
        }
        let folder = export::folder(|name| std::env::var_os(name));
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let path = folder.join(format!("recording-{time}.jsonl"));
        let open = || {
            std::fs::create_dir_all(&folder)?;
            let file = std::fs::File::create(&path)?;
            Recorder::new(Box::new(file), &model.agent, model.origin.is_demo())
        };
        match open() {
            Ok(recorder) => {
                model.recording = self.recordings.try_send(Some(recorder)).is_ok();
                format!("recording to {}", path.display())
            }
            Err(error) => format!("failed to record to {}: {error}", path.display()),
        }
    }
}

/// Follows the agent's events, again and again.
async fn follow(client: Client, messages: mpsc::Sender<Msg>) {
    const PAUSE: Duration = Duration::from_secs(2);
    loop {
        let (why, again) = match follow_once(&client, &messages).await {
            Ok(()) => ("the agent ended it".to_owned(), true),
            Err(error) => (error.short(), error.may_pass()),
        };
        if messages.send(Msg::TraceFailed(why)).await.is_err() || !again {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Tells the lines of the agent's events, many at once where they come fast.
async fn follow_once(client: &Client, messages: &mpsc::Sender<Msg>) -> Result<(), client::Error> {
    const RATE: u32 = 200;
    const GATHER: Duration = Duration::from_millis(100);
    let mut lines = client.lines(&format!("/v1/events?follow=true&rate={RATE}")).await?;
    // It has begun, though nothing may happen for long.
    if messages.send(Msg::Events(Vec::new(), 0)).await.is_err() {
        return Ok(());
    }
    let (mut events, mut lost) = (Vec::new(), 0);
    let mut tick = tokio::time::interval(GATHER);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            line = lines.next() => match line? {
                Some(line) => match serde_json::from_slice::<AgentEvent>(&line) {
                    Ok(event) => events.push(event),
                    // A line of another kind, of which this version may know one.
                    Err(_) => lost += serde_json::from_slice::<LostEvents>(&line).map_or(0, |l| l.lost),
                },
                None => return Ok(()),
            },
            _ = tick.tick(), if !events.is_empty() || lost > 0 => {
                let batch = Msg::Events(std::mem::take(&mut events), std::mem::take(&mut lost));
                if messages.send(batch).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn interact(model: &mut Model, outside: &mut Outside) -> anyhow::Result<End> {
    let mut screen = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let size = screen.size()?;
    let _ = model.update(Msg::Resize(size.width, size.height));
    let mut input = EventStream::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = String::new();
    let mut dirty = true;
    let mut next_frame = Instant::now();
    let ends = outside.ends.map(|after| Instant::now() + after);
    loop {
        let message = tokio::select! {
            biased;
            // It ends by a panic alone. The terminal was given back then, so nothing may be drawn any more.
            ended = &mut outside.poller => {
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
                return Ok(End::Left);
            }
            _ = terminate.recv() => return Ok(End::Signal(15)),
            _ = hangup.recv() => return Ok(End::Signal(1)),
            _ = interrupt.recv() => return Ok(End::Left),
            () = sleep_until(next_frame), if dirty => {
                draw(&mut screen, model)?;
                dirty = false;
                next_frame = Instant::now() + FRAME;
                continue;
            }
            event = input.next() => match event {
                Some(event) => match message(event?) {
                    Some(message) => message,
                    None => continue,
                },
                // The terminal is gone.
                None => return Ok(End::Signal(1)),
            },
            () = sleep_until(ends.unwrap_or(next_frame)), if ends.is_some() => return Ok(left(model, unanswered)),
            Some(message) = outside.others.recv() => message,
            changed = outside.feed.changed() => {
                if changed.is_err() {
                    continue;
                }
                let latest = outside.feed.borrow_and_update().clone();
                match latest {
                    Feed::Nothing => continue,
                    Feed::Ended => Msg::Ended,
                    Feed::Board(board) => Msg::Data(board),
                    // Nobody waits for what cannot come.
                    Feed::Lost { error, .. } if !error.may_pass() && !error.is_recorded() => {
                        return Ok(End::Failed(error));
                    }
                    Feed::Lost { error, attempt, retry_in } => {
                        unanswered = error.to_string();
                        Msg::Lost { error: error.short(), attempt, retry_in: retry_in.as_secs_f64().ceil() as u64 }
                    }
                }
            }
            _ = second.tick(), if model.counts_seconds() => Msg::Second,
        };
        let was_live = model.link == Link::Live;
        let update = model.update(message);
        if was_live && matches!(model.link, Link::Lost { .. }) {
            second.reset();
        }
        dirty |= update.draw;
        for effect in update.effects {
            match effect {
                Effect::Quit => return Ok(left(model, unanswered)),
                Effect::Suspend => {
                    // Whoever reads the terminal meanwhile must get all of its input.
                    drop(input);
                    terminal::suspend()?;
                    input = EventStream::new();
                    let size = screen.size()?;
                    let _ = model.update(Msg::Resize(size.width, size.height));
                    redraw(&mut screen)?;
                    dirty = true;
                }
                Effect::Redraw => redraw(&mut screen)?,
                Effect::Interval(interval) => outside.control.send_modify(|c| c.interval = interval),
                Effect::Pause(paused) => outside.control.send_modify(|c| c.paused = paused),
                Effect::Refresh => outside.control.send_modify(|c| c.refreshes += 1),
                Effect::Trace(of) => outside.trace(of),
                Effect::Record(on) => {
                    model.notice = Some(outside.record(model, on));
                    dirty = true;
                }
                Effect::Save => {
                    let folder = export::folder(|name| std::env::var_os(name));
                    model.notice = Some(match export::save(model, &folder) {
                        Ok(path) => format!("saved {}.txt, .json, .svg", path.display()),
                        Err(error) => format!("failed to save to {}: {error}", folder.display()),
                    });
                    dirty = true;
                }
                Effect::Copy(text) => {
                    // OSC 52: the terminal, also one far away, puts it into the clipboard.
                    write!(io::stdout(), "\u{1b}]52;c;{}\u{7}", export::base64(&text))?;
                    io::stdout().flush()?;
                    model.notice = Some(format!("copied {text}"));
                    dirty = true;
                }
                Effect::Mouse(ours) => terminal::mouse(ours)?,
            }
        }
    }
}

/// How it ends when the user, or the time, says so.
fn left(model: &Model, unanswered: String) -> End {
    if model.board.is_none() && !unanswered.is_empty() { End::Unanswered(unanswered) } else { End::Left }
}

/// Makes the next frame a whole one. `Terminal::clear` would ask the terminal for its cursor, and the answer would go to
/// whoever reads the keys.
fn redraw(screen: &mut Terminal<CrosstermBackend<io::Stdout>>) -> io::Result<()> {
    let size = screen.size()?;
    screen.resize(Rect::new(0, 0, size.width, size.height))
}

fn message(event: Event) -> Option<Msg> {
    if cfg!(debug_assertions) {
        crash_if_asked(&event);
    }
    match event {
        Event::Key(key) => Some(Msg::Key(key)),
        Event::Paste(text) => Some(Msg::Paste(text)),
        Event::Resize(columns, rows) => Some(Msg::Resize(columns, rows)),
        Event::Mouse(mouse) => match mouse.kind {
            MouseEventKind::Down(MouseButton::Left) => Some(Msg::Click(mouse.column, mouse.row)),
            MouseEventKind::ScrollDown => Some(Msg::Wheel(true)),
            MouseEventKind::ScrollUp => Some(Msg::Wheel(false)),
            _ => None,
        },
        Event::FocusGained | Event::FocusLost => None,
    }
}

/// In debug builds a test can ask for a panic, to see what becomes of the terminal.
#[expect(clippy::panic, reason = "it is what the test asks for")]
fn crash_if_asked(event: &Event) {
    if let Event::Key(key) = event
        && key.code == KeyCode::F(12)
        && std::env::var_os("BALANCING_TEST_PANIC").is_some()
    {
        panic!("asked to panic");
    }
}

fn draw(screen: &mut Terminal<CrosstermBackend<io::Stdout>>, model: &Model) -> io::Result<()> {
    crossterm::execute!(io::stdout(), crossterm::terminal::BeginSynchronizedUpdate)?;
    screen.draw(|frame| view::view(model, frame))?;
    crossterm::execute!(io::stdout(), crossterm::terminal::EndSynchronizedUpdate)
}

/// Asks the source, again and again; tells what it hears.
async fn poll(
    mut source: Source,
    mut recorder: Option<Recorder>,
    mut recordings: mpsc::Receiver<Option<Recorder>>,
    mut control: watch::Receiver<Control>,
    feed: watch::Sender<Feed>,
) {
    let mut before: Option<Arc<Board>> = None;
    let mut attempt = 0;
    loop {
        if control.wait_for(|c| !c.paused).await.is_err() {
            return;
        }
        control.mark_unchanged();
        if let Ok(other) = recordings.try_recv() {
            recorder = other;
        }
        let begun = Instant::now();
        let interval = control.borrow().interval;
        let pause = match source.next(interval).await {
            Ok(Answer::Sample(time, sample)) => {
                if let Some(recorder) = &mut recorder {
                    // A full disk must not end the view; what was written so far can be replayed.
                    let _ = recorder.sample(time, &sample);
                }
                let first = before.is_none();
                let board = Arc::new(Board::next(sample, before.as_deref()));
                before = Some(board.clone());
                feed.send_replace(Feed::Board(board));
                attempt = 0;
                if first { interval.min(FIRST_INTERVAL) } else { interval }
            }
            Ok(Answer::Gap(error)) => {
                feed.send_replace(Feed::Lost { error, attempt: 1, retry_in: Duration::ZERO });
                interval
            }
            Ok(Answer::End) => {
                feed.send_replace(Feed::Ended);
                return std::future::pending().await;
            }
            Err(error) => {
                attempt += 1;
                let retry_in = backoff(attempt);
                if let Some(recorder) = &mut recorder {
                    let _ = recorder.gap(jiff::Timestamp::now(), &error.short());
                }
                feed.send_replace(Feed::Lost { error, attempt, retry_in });
                retry_in
            }
        };
        let pause = source.wait(pause).unwrap_or(pause);
        let rest = pause.saturating_sub(if attempt == 0 { begun.elapsed() } else { Duration::ZERO });
        tokio::select! {
            () = sleep(rest) => {}
            changed = control.changed() => if changed.is_err() { return },
        }
    }
}

/// How long to wait after so many failures in a row.
fn backoff(attempt: u32) -> Duration {
    let (least, most) = BACKOFF;
    least.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(most)
}

/// What was on the screen last stays on the normal one.
fn farewell(model: &Model, out: &mut dyn Write) -> io::Result<()> {
    let Some(board) = model.board.as_deref() else { return Ok(()) };
    let order = &model.table(model.what()).order;
    fn text<R: Row>(model: &Model, rows: &[R], order: &[usize]) -> String {
        let shown: Vec<&R> = order.iter().filter_map(|i| rows.get(*i)).take(LAST_ROWS).collect();
        if shown.is_empty() { String::new() } else { table::narrow(&shown, model.colour, model.size.0) }
    }
    let text = match model.what() {
        What::Policies => text(model, &board.policies, order),
        What::Frontends => text(model, &board.frontends, order),
        What::Backends => text(model, &board.backends, order),
        What::Nodes => text(model, &board.nodes, order),
        What::Problems => text(model, &board.problems, order),
        What::Trace => text(model, &model.events, order),
    };
    let mark = if model.origin.is_demo() { "DEMO DATA " } else { "" };
    writeln!(out, "{text}{mark}{}", last_totals(board))
}

fn last_totals(board: &Board) -> String {
    let sum = |f: fn(&balancing_api::cli::PolicyTopItem) -> u64| board.policies.iter().map(f).sum::<u64>();
    format!(
        "as of {}: {}, {} redirects, {} balanced, {} QoS drops, {} fallbacks, {} refused",
        board.sample.taken_at().strftime("%Y-%m-%dT%H:%M:%SZ"),
        plural(board.policies.len(), "policy", "policies"),
        sum(|p| p.redirects),
        sum(|p| p.balanced),
        sum(|p| p.qos_drops),
        sum(|p| p.fallbacks.values().sum()),
        board.frontends.iter().map(|f| f.refusals).sum::<u64>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        assert_eq!(backoff(1), Duration::from_millis(500));
        assert_eq!(backoff(2), Duration::from_secs(1));
        assert_eq!(backoff(5), Duration::from_secs(8));
        assert_eq!(backoff(6), Duration::from_secs(10));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(10));
    }
}
