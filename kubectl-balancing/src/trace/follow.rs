//! The streams of several agents, read at once. What a cluster's break off is opened again.

use std::time::{Duration, Instant};

use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::Agent;
use crate::client::{self, Client, Lines};

/// Lines that may wait to be shown. An agent counts what has no room.
const WAITING: usize = 256;
/// Pauses before a stream is opened again: doubled each time up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A stream that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// What is told of a stream.
#[derive(Debug)]
pub(super) enum Told {
    /// A line.
    Line(Vec<u8>),
    /// It broke off, and is opened again.
    Broken(String),
    /// It is there again.
    Back,
    /// It is over: the agent has ended it, or it cannot be opened again.
    Over(Option<client::Error>),
}

/// The streams, each read by a task that ends with this value.
pub(super) struct Streams {
    told: mpsc::Receiver<(usize, Told)>,
    #[expect(dead_code, reason = "held for as long as lines are read")]
    tasks: JoinSet<()>,
}

impl Streams {
    /// Reads those streams, by the number of their agents. What is not open yet is tried again.
    pub(super) fn new(open: Vec<(usize, Agent, Option<Lines>)>, path: &str, lasting: bool) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        for (number, agent, lines) in open {
            let (path, tell) = (path.to_owned(), tell.clone());
            let follower = Follower { number, client: agent.client, path, lasting, tell };
            tasks.spawn(async move { drop(follower.run(lines).await) });
        }
        Self { told, tasks }
    }

    /// What is told next, and by the stream of which agent; none where all are over.
    pub(super) async fn next(&mut self) -> Option<(usize, Told)> {
        self.told.recv().await
    }
}

struct Follower {
    number: usize,
    client: Client,
    path: String,
    lasting: bool,
    tell: mpsc::Sender<(usize, Told)>,
}

/// Nobody listens any longer.
struct Unheard;

impl Follower {
    async fn tell(&self, told: Told) -> Result<(), Unheard> {
        self.tell.send((self.number, told)).await.map_err(|_| Unheard)
    }

    async fn run(self, mut stream: Option<Lines>) -> Result<(), Unheard> {
        let (least, most) = PAUSES;
        let mut pause = least;
        loop {
            if let Some(lines) = stream.take() {
                let began = Instant::now();
                let end = self.read(lines).await?;
                if !self.lasting {
                    return self.tell(Told::Over(end)).await;
                }
                if began.elapsed() >= GOOD {
                    pause = least;
                }
                let why = end.map_or_else(|| "the agent has ended it".to_owned(), |e| e.short());
                self.tell(Told::Broken(why)).await?;
            }
            sleep(pause).await;
            pause = (pause * 2).min(most);
            match self.client.lines(&self.path).await {
                Ok(lines) => {
                    self.tell(Told::Back).await?;
                    stream = Some(lines);
                }
                Err(error) if error.may_pass() => {}
                Err(error) => return self.tell(Told::Over(Some(error))).await,
            }
        }
    }

    /// Tells all lines -> why there are no more; none where the agent has ended it.
    async fn read(&self, mut lines: Lines) -> Result<Option<client::Error>, Unheard> {
        loop {
            match lines.next().await {
                Ok(Some(line)) => self.tell(Told::Line(line)).await?,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            }
        }
    }
}
