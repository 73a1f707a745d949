//! Recordings of `top`: written a frame a line, read back as the samples they were.

use std::{
    collections::HashMap,
    io::{self, BufRead, Write},
    time::Duration,
};

use balancing_api::{
    agent::{Counters, Document, FrontendList, NodeStatus},
    cli::{Coverage, document},
    recording::{FRAME, RECORDING, RECORDING_VERSION, RecordedNode, RecordingFrame, RecordingHeader},
};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    sample::{NodeSample, Sample},
    text::sanitise,
};

/// A line longer than this is not a frame's.
const LONGEST: u64 = 256 << 20;
/// However long nothing was recorded, nobody waits longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Writes a recording. What a node said is written again only where it changed.
pub struct Recorder {
    out: Box<dyn Write + Send>,
    last: HashMap<String, (NodeStatus, FrontendList)>,
}

impl Recorder {
    /// Begins a recording of this agent, or of synthetic data.
    pub fn new(mut out: Box<dyn Write + Send>, agent: &str, demo: bool) -> io::Result<Self> {
        let header = RecordingHeader {
            version: RECORDING_VERSION,
            writer: concat!("kubectl-balancing ", env!("CARGO_PKG_VERSION")).to_owned(),
            agent: agent.to_owned(),
            demo,
        };
        writeln!(out, "{}", serde_json::to_string(&document(RECORDING, header))?)?;
        out.flush()?;
        Ok(Self { out, last: HashMap::new() })
    }

    /// A sample, taken then.
    pub fn sample(&mut self, time: Timestamp, sample: &Sample) -> io::Result<()> {
        let nodes = sample.nodes.iter().map(|n| (n, false)).chain(sample.stale.iter().map(|n| (n, true)));
        let nodes: Vec<RecordedNode> = nodes.map(|(node, stale)| self.node(node, stale)).collect();
        self.frame(RecordingFrame { time, coverage: sample.coverage.clone(), nodes, error: None })
    }

    /// There was no answer then.
    pub fn gap(&mut self, time: Timestamp, error: &str) -> io::Result<()> {
        let coverage = Coverage::default();
        self.frame(RecordingFrame { time, coverage, nodes: Vec::new(), error: Some(error.to_owned()) })
    }

    fn node(&mut self, node: &NodeSample, stale: bool) -> RecordedNode {
        let name = node.status.node.name.clone();
        let before = self.last.get(&name);
        let status = before.is_none_or(|b| b.0 != node.status).then(|| node.status.clone());
        let frontends = before.is_none_or(|b| b.1 != node.frontends).then(|| node.frontends.clone());
        if status.is_some() || frontends.is_some() {
            self.last.insert(name.clone(), (node.status.clone(), node.frontends.clone()));
        }
        RecordedNode { name, stale, status, frontends, counters: Some(node.counters.clone()) }
    }

    fn frame(&mut self, frame: RecordingFrame) -> io::Result<()> {
        // One write a line: who is killed leaves at most the last line unfinished.
        let line = serde_json::to_string(&document(FRAME, frame))? + "\n";
        self.out.write_all(line.as_bytes())?;
        self.out.flush()
    }
}

/// What was recorded at one moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Moment {
    /// A sample.
    Sample(Sample),
    /// No answer, and why.
    Gap(String),
    /// A line that is none of a recording, and where it is.
    Torn(String),
}

/// A recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("failed to read the recording {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is no recording.
    #[error("{file} is no recording of `kubectl balancing top --record`: {message}")]
    Header {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// A line of it is no frame.
    #[error("{file}:{line}: {message}")]
    Frame {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// What a node said last, as far as it is known.
#[derive(Default)]
struct Said {
    status: Option<NodeStatus>,
    frontends: Option<FrontendList>,
    counters: Option<Counters>,
}

/// Reads a recording.
pub struct Replay {
    file: String,
    lines: Box<dyn BufRead + Send>,
    number: u64,
    /// Its first line.
    pub header: RecordingHeader,
    /// How many times faster it runs.
    pub speed: f64,
    nodes: HashMap<String, Said>,
    time: Option<Timestamp>,
    ahead: Option<(Timestamp, Moment)>,
}

impl Replay {
    /// Opens a recording.
    pub fn open(path: &std::path::Path, speed: f64) -> Result<Self, ReplayError> {
        let file = path.display().to_string();
        match std::fs::File::open(path) {
            Ok(lines) => Self::new(file, Box::new(io::BufReader::new(lines)), speed),
            Err(source) => Err(ReplayError::Read { file, source }),
        }
    }

    /// Reads a recording of that name.
    pub fn new(file: String, mut lines: Box<dyn BufRead + Send>, speed: f64) -> Result<Self, ReplayError> {
        let wrong = |message: String| ReplayError::Header { file: sanitise(&file).into_owned(), message };
        let mut first = String::new();
        let read = io::Read::take(&mut lines, 1 << 20).read_line(&mut first);
        read.map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => wrong("it is no text".to_owned()),
            _ => ReplayError::Read { file: file.clone(), source },
        })?;
        let header: Document<RecordingHeader> =
            serde_json::from_str(&first).map_err(|e| wrong(format!("its first line: {e}")))?;
        if header.kind != RECORDING {
            return Err(wrong(format!("its first line is a {}", sanitise(&header.kind))));
        }
        let header = header.body;
        if header.version > RECORDING_VERSION {
            return Err(wrong(format!(
                "its version is {}, this program reads up to {RECORDING_VERSION}: use a newer one",
                header.version
            )));
        }
        Ok(Self { file, lines, number: 1, header, speed, nodes: HashMap::new(), time: None, ahead: None })
    }

    /// Real time between what was told last and what comes next.
    pub fn wait(&mut self) -> Result<Duration, ReplayError> {
        if self.ahead.is_none() {
            self.ahead = self.read()?;
        }
        let span = match (self.time, &self.ahead) {
            (Some(before), Some((time, _))) => time.duration_since(before).as_secs_f64() / self.speed,
            _ => 0.0,
        };
        Ok(Duration::try_from_secs_f64(span).unwrap_or_default().min(LONGEST_WAIT))
    }

    /// The next moment; none at the end.
    pub fn next_moment(&mut self) -> Result<Option<(Timestamp, Moment)>, ReplayError> {
        let next = match self.ahead.take() {
            Some(next) => Some(next),
            None => self.read()?,
        };
        if let Some((time, moment)) = &next
            && !matches!(moment, Moment::Torn(_))
        {
            self.time = Some(*time);
        }
        Ok(next)
    }

    fn read(&mut self) -> Result<Option<(Timestamp, Moment)>, ReplayError> {
        loop {
            let mut line = Vec::new();
            let read = io::Read::take(&mut self.lines, LONGEST).read_until(b'\n', &mut line);
            read.map_err(|source| ReplayError::Read { file: self.file.clone(), source })?;
            self.number += 1;
            if line.is_empty() {
                return Ok(None);
            }
            let whole = line.ends_with(b"\n");
            if line.trim_ascii().is_empty() {
                continue;
            }
            match self.frame(&line) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                // Whoever wrote it was killed in the middle of its last line.
                Err(_) if !whole && (line.len() as u64) < LONGEST => return Ok(None),
                // What is behind it may be read all the same.
                Err(message) => {
                    let error = ReplayError::Frame {
                        file: sanitise(&self.file).into_owned(),
                        line: self.number,
                        message: sanitise(&message).into_owned(),
                    };
                    let time = self.time.unwrap_or(Timestamp::UNIX_EPOCH);
                    return Ok(Some((time, Moment::Torn(error.to_string()))));
                }
            }
        }
    }

    /// The moment of a line; none where its kind is not known.
    fn frame(&mut self, line: &[u8]) -> Result<Option<(Timestamp, Moment)>, String> {
        let text = |e: serde_json::Error| format!("not a line of a recording: {e}");
        let kind: Kind = serde_json::from_slice(line).map_err(text)?;
        if kind.kind != FRAME {
            return Ok(None);
        }
        let frame: Document<RecordingFrame> = serde_json::from_slice(line).map_err(text)?;
        let frame = frame.body;
        if let Some(error) = frame.error {
            return Ok(Some((frame.time, Moment::Gap(error))));
        }
        let mut sample = Sample { coverage: frame.coverage, ..Sample::default() };
        for node in frame.nodes {
            let known = self.nodes.entry(node.name.clone()).or_default();
            known.status = node.status.or(known.status.take());
            known.frontends = node.frontends.or(known.frontends.take());
            known.counters = node.counters.or(known.counters.take());
            let (Some(status), Some(frontends), Some(counters)) =
                (&known.status, &known.frontends, &known.counters)
            else {
                return Err(format!("node {} has not said all of status, frontends and counters", node.name));
            };
            let said = NodeSample {
                status: status.clone(),
                frontends: frontends.clone(),
                counters: counters.clone(),
            };
            if node.stale { sample.stale.push(said) } else { sample.nodes.push(said) }
        }
        Ok(Some((frame.time, Moment::Sample(sample))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::demo::Demo;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn recorded() -> (Vec<(Timestamp, Moment)>, Vec<u8>) {
        let buffer = Buffer::default();
        let mut recorder = Recorder::new(Box::new(buffer.clone()), "unix:/x", true).unwrap();
        let mut demo = Demo::new(1, 6);
        let mut said = Vec::new();
        for i in 0..30 {
            let sample = demo.next(Duration::from_secs(2));
            if i == 7 {
                recorder.gap(demo.now(), "refused").unwrap();
                said.push((demo.now(), Moment::Gap("refused".to_owned())));
            } else {
                recorder.sample(demo.now(), &sample).unwrap();
                said.push((demo.now(), Moment::Sample(sample)));
            }
        }
        let bytes = buffer.0.lock().unwrap().clone();
        (said, bytes)
    }

    fn replay(bytes: Vec<u8>) -> Result<Replay, ReplayError> {
        Replay::new("f.jsonl".to_owned(), Box::new(io::Cursor::new(bytes)), 4.0)
    }

    fn all(mut replay: Replay) -> Result<Vec<(Timestamp, Moment)>, ReplayError> {
        std::iter::from_fn(|| replay.next_moment().transpose()).collect()
    }

    #[test]
    fn what_was_recorded_is_replayed() {
        let (said, bytes) = recorded();
        let replay = replay(bytes).unwrap();
        assert_eq!((replay.header.version, replay.header.demo), (1, true));
        let heard = all(replay).unwrap();
        assert!(heard.iter().any(|(_, m)| matches!(m, Moment::Sample(s) if !s.stale.is_empty())));
        assert_eq!(heard, said);
    }

    #[test]
    fn time_passes_at_the_given_speed() {
        let (_, bytes) = recorded();
        let mut replay = replay(bytes).unwrap();
        assert_eq!(replay.wait().unwrap(), Duration::ZERO);
        replay.next_moment().unwrap();
        assert_eq!(replay.wait().unwrap(), Duration::from_millis(500));
    }

    #[test]
    fn kinds_that_are_not_known_are_skipped_and_a_torn_last_line_ends_it() {
        let (said, bytes) = recorded();
        let text = String::from_utf8(bytes).unwrap();
        let with_more = text.replace("\n", "\n{\"kind\":\"Weather\",\"sun\":[1]}\n\n");
        assert_eq!(all(replay(with_more.into_bytes()).unwrap()).unwrap(), said);
        let torn = text.as_bytes()[..text.len() - 100].to_vec();
        assert_eq!(all(replay(torn).unwrap()).unwrap(), said[..29]);
    }

    #[test]
    fn what_is_no_recording_is_told() {
        let of =
            |text: &str| replay(text.as_bytes().to_vec()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(of("").contains("f.jsonl is no recording"));
        assert!(of("\u{7f}ELF\n").contains("first line"));
        assert!(of("{\"kind\":\"PolicyTop\"}\n").contains("f.jsonl is no recording"));
        let newer =
            "{\"apiVersion\":\"v\",\"kind\":\"Recording\",\"version\":2,\"writer\":\"x\",\"agent\":\"y\"}\n";
        assert!(of(newer).contains("its version is 2"), "{}", of(newer));
        let header = newer.replace("\"version\":2", "\"version\":1");
        let broken = all(replay((header + "{\"kind\":\n").into_bytes()).unwrap()).unwrap();
        let [(_, Moment::Torn(broken))] = broken.as_slice() else { panic!("{broken:?}") };
        assert!(broken.starts_with("f.jsonl:2: not a line of a recording"), "{broken}");
    }

    #[test]
    fn a_broken_line_hides_none_but_itself() {
        let (said, bytes) = recorded();
        let text = String::from_utf8(bytes).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(5, "nonsense");
        let heard = all(replay((lines.join("\n") + "\n").into_bytes()).unwrap()).unwrap();
        assert!(matches!(&heard[4].1, Moment::Torn(e) if e.starts_with("f.jsonl:6: ")), "{:?}", heard[4].1);
        assert_eq!(heard[4].0, heard[3].0, "no time passes");
        let others: Vec<_> = heard.into_iter().filter(|(_, m)| !matches!(m, Moment::Torn(_))).collect();
        assert_eq!(others, said);
    }
}
