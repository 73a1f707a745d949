//! A folder of manifests, watched: what is written, renamed over or removed takes effect at once.
//!
//! Each batch is a state that the folder was in. Reading a file may show a change that is later than one of another
//! file whose event is still to come; so what was read applies only if none of it had an event since.

mod contents;
mod file;
mod folder;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use balancing_api::{
    agent::{SourceError, SourceProgress},
    manifest::{self, is_file_name},
};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{Batch, Touch};
use crate::snapshot::{Converter, Object};
use contents::{Contents, Problem};
use file::{Found, Stamp};
pub use folder::FOLDER;
use folder::{FileName, Folder};

/// Name of the source in documents.
pub const NAME: &str = "manifests";

/// How often files are compared with what is known of them: the net under lost and never made events.
const RESCAN: Duration = Duration::from_secs(1);
/// A share of the time, at most, goes into those comparisons.
const RESCAN_SHARE: u32 = 50;
/// From so many bytes on several threads understand what was read.
const MANY_BYTES: usize = 1 << 20;
/// And no more threads than these: a start is no reason to take a large machine.
const MAX_READERS: usize = 4;
/// How often a folder that is gone is looked for.
const LOOK_FOR_FOLDER: Duration = Duration::from_millis(100);
/// Longest time for which changes wait for what may belong to them.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest time for which files that change faster than they can be read are read again and again.
const CHASE: Duration = Duration::from_millis(500);
/// And they are read so often at least: a thread that did not run for a while has not tried.
const CHASES: u32 = 8;
/// What looks like a loss waits so long for what may explain it: a folder is removed file by file, then itself.
const LOSS: Duration = Duration::from_millis(5);
/// What is missing in a folder that came back is lost only after so long a silence: it is being filled.
const REFILL: Duration = Duration::from_secs(1);
/// Longest time for which a folder is taken as being filled.
const REFILL_MAX: Duration = Duration::from_secs(10);

/// A folder that is being watched. Dropping it ends that.
#[derive(Debug)]
pub struct Manifests {
    stop: Arc<OwnedFd>,
    progress: Arc<AtomicI64>,
    synced: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Manifests {
    /// Watches a folder, which need not exist yet, on a thread of its own. The first batch says what is there.
    ///
    /// # Errors
    /// The kernel gives no inotify instance or no thread.
    pub fn watch(folder: &Path, sink: impl FnMut(Batch) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let progress = Arc::new(AtomicI64::new(Timestamp::now().as_millisecond()));
        let synced = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut watcher = Watcher {
            path: folder.to_owned(),
            inotify: Inotify::init()?,
            watch: None,
            folder: Folder::default(),
            converter: Converter::default(),
            stamps: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            writing: BTreeSet::new(),
            work: Work::default(),
            refill: None,
            told: None,
            strings: 0,
            news: true,
            next_rescan: Instant::now(),
            progress: Arc::clone(&progress),
            synced: Arc::clone(&synced),
            sink: Box::new(sink),
        };
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(move || watcher.run(&until))?;
        Ok(Self { stop, progress, synced, thread: Some(thread) })
    }

    /// When the folder was last read or found unchanged.
    #[must_use]
    pub fn progress(&self) -> SourceProgress {
        let milliseconds = self.progress.load(Ordering::Relaxed);
        SourceProgress {
            name: NAME.to_owned(),
            synced: self.synced.load(Ordering::Relaxed),
            last_progress: Timestamp::from_millisecond(milliseconds).unwrap_or_default(),
        }
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        // An eventfd takes a write unless its count overflows, which it then still shows.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The objects of a text, and what of it is wrong. An object with a fault is left out, a policy that breaks a rule is not.
#[must_use]
pub fn objects(text: &str, converter: &mut Converter) -> (Vec<Object>, Vec<String>) {
    match contents::read(text, converter) {
        Ok(contents) => (
            contents.objects.into_values().map(|placed| placed.object).collect(),
            contents.problems.iter().map(|p| format!("{}:{}: {}", p.line, p.column, p.message)).collect(),
        ),
        Err(p) => (Vec::new(), vec![format!("{}:{}: {}", p.line, p.column, p.message)]),
    }
}

/// What the files say, in their order; `None` of those that have no text, and only of those. A large folder is understood by as many threads
/// as there are CPUs for this process: that is most of an agent's start.
fn understand(reads: &Reads, converter: &mut Converter) -> Vec<Option<Result<Contents, Problem>>> {
    let read = |found: &Found, converter: &mut Converter| {
        let Found::Text(_, bytes) = found else { return None };
        let text = manifest::utf8(bytes).map_err(Problem::from);
        Some(text.and_then(|text| contents::read(text, converter)))
    };
    let files: Vec<&Found> = reads.values().collect();
    let bytes: usize = files.iter().map(|f| if let Found::Text(_, text) = f { text.len() } else { 0 }).sum();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
    if bytes < MANY_BYTES || threads < 2 {
        return files.into_iter().map(|found| read(found, converter)).collect();
    }
    let next = AtomicUsize::new(0);
    let mut understood: Vec<Option<Result<Contents, Problem>>> = files.iter().map(|_| None).collect();
    let take = |converter: &mut Converter| {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let some = numbers.map_while(|number| Some((number, read(files.get(number)?, converter))));
        some.collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let spawn =
            |_| std::thread::Builder::new().spawn_scoped(scope, || take(&mut Converter::default())).ok();
        // Where no thread is to be had, this one does it all.
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let own = take(converter);
        for (number, contents) in
            others.into_iter().filter_map(|thread| thread.join().ok()).flatten().chain(own)
        {
            understood[number] = contents;
        }
    });
    for (found, contents) in files.into_iter().zip(&mut understood) {
        // Of a thread that has panicked.
        if contents.is_none() {
            *contents = read(found, converter);
        }
    }
    understood
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Work {
    /// Files that events named.
    names: BTreeSet<FileName>,
    /// Compare every file with what is known of it.
    rescan: bool,
    /// Renames away from a name whose other end has not been seen.
    half_moves: BTreeSet<u32>,
    /// Something went away, or an empty text was read.
    loss: bool,
    /// The watch is gone.
    unwatched: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.needs_all()
    }

    /// May any file be concerned?
    fn needs_all(&self) -> bool {
        self.rescan || !self.half_moves.is_empty() || self.unwatched
    }
}

/// What the last batch said besides changes.
#[derive(Debug, PartialEq)]
struct Told {
    errors: Vec<SourceError>,
    unread: Vec<String>,
    skipped: usize,
}

/// What appeared under a new name.
enum Created {
    /// A file with all of its text.
    Whole,
    /// A file that is still to be written.
    Begun,
    /// Something else, or it is gone already.
    Other,
}

struct Refill {
    since: Instant,
    quiet_since: Instant,
}

struct Watcher {
    path: PathBuf,
    inotify: Inotify,
    /// The watch, and the inode of the folder it is on.
    watch: Option<(WatchDescriptor, (u64, u64))>,
    folder: Folder,
    converter: Converter,
    /// The version of each file that was read last.
    stamps: BTreeMap<FileName, Option<Stamp>>,
    /// Versions seen by a comparison without an event: read when the next finds the same.
    unsettled: BTreeMap<FileName, Option<Stamp>>,
    /// Files that were written to and not closed since.
    writing: BTreeSet<FileName>,
    work: Work,
    refill: Option<Refill>,
    told: Option<Told>,
    /// Strings held when unused ones were dropped last.
    strings: usize,
    /// May there be something to tell?
    news: bool,
    next_rescan: Instant,
    progress: Arc<AtomicI64>,
    synced: Arc<std::sync::atomic::AtomicBool>,
    sink: Box<dyn FnMut(Batch) + Send>,
}

/// What reading files between two moments of quiet gave.
type Reads = BTreeMap<FileName, Found>;

impl Watcher {
    fn run(&mut self, stop: &OwnedFd) {
        self.open_folder();
        loop {
            let seen = Instant::now();
            if !self.work.is_empty() {
                self.settle(seen);
            }
            self.tell(seen);
            let Some(readable) = self.wait(stop) else { return };
            if readable {
                self.drain();
            }
            if Instant::now() >= self.next_rescan {
                self.tick();
            }
        }
    }

    /// Waits for an event or the next comparison. `None`: it is over.
    fn wait(&self, stop: &OwnedFd) -> Option<bool> {
        let timeout = if self.work.is_empty() {
            self.next_rescan.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        wait_for(&mut fds, timeout);
        let [stopped, events] = fds.map(|fd| !fd.revents().is_empty());
        (!stopped).then_some(events)
    }

    // ------------------------------------------------------------ the folder

    /// Watches the folder if it is there, and asks for a comparison of all files.
    fn open_folder(&mut self) {
        self.news = true;
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let opened = self.inotify.watches().add(&self.path, mask).and_then(|watch| {
            let metadata = fs::metadata(&self.path)?;
            Ok((watch, (metadata.dev(), metadata.ino())))
        });
        match opened {
            Ok(watch) => {
                self.watch = Some(watch);
                self.folder.set_trouble(None);
                self.work.rescan = true;
                self.next_rescan = Instant::now() + RESCAN;
            }
            Err(e) => {
                let path = self.path.display();
                let kept = if self.folder.seen() { ": what it held stays in force" } else { "" };
                self.folder.set_trouble(Some(format!("failed to open the folder {path}: {e}{kept}")));
                self.next_rescan = Instant::now() + LOOK_FOR_FOLDER;
            }
        }
    }

    /// Is the folder that is watched still the one of that path?
    fn folder_is_there(&self) -> bool {
        let there = fs::metadata(&self.path).ok().map(|m| (m.dev(), m.ino()));
        self.watch.as_ref().is_some_and(|(_, inode)| there == Some(*inode))
    }

    /// Another folder is at that path, or none. What the old one held stays in force until the new one says otherwise.
    fn reopen_folder(&mut self) {
        if let Some((watch, _)) = self.watch.take() {
            // It is gone already if the folder is.
            let _ = self.inotify.watches().remove(watch);
        }
        self.writing.clear();
        self.work = Work::default();
        let now = Instant::now();
        self.refill = Some(Refill { since: now, quiet_since: now });
        self.open_folder();
    }

    fn tick(&mut self) {
        if !self.folder_is_there() {
            self.reopen_folder();
            return;
        }
        let began = Instant::now();
        self.compare(false);
        self.next_rescan = Instant::now() + RESCAN.max(began.elapsed() * RESCAN_SHARE);
        self.progressed();
    }

    fn progressed(&self) {
        self.progress.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
    }

    // ------------------------------------------------------------ events

    /// Takes all events that there are; was there one that matters?
    fn drain(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let mut any = false;
        loop {
            let events: Vec<_> = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events.map(|e| e.to_owned()).collect(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if events.is_empty() {
                break;
            }
            for event in events {
                any |= self.event(&event);
            }
        }
        if any && let Some(refill) = &mut self.refill {
            refill.quiet_since = Instant::now();
        }
        any
    }

    /// Takes one event; does it matter?
    fn event(&mut self, event: &inotify::EventOwned) -> bool {
        let mask = event.mask;
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.work.rescan = true;
            return true;
        }
        if self.watch.as_ref().is_none_or(|(watch, _)| *watch != event.wd) {
            return false;
        }
        if mask.intersects(
            EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT,
        ) {
            self.work.unwatched = true;
            return true;
        }
        let Some(name) = event.name.as_deref() else { return false };
        if name == OsStr::new("..data") {
            // kubelet swaps a ConfigMap by renaming this link: every file changes at once.
            self.work.rescan |= mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
            return self.work.rescan;
        }
        let name: FileName = name.into();
        if mask.contains(EventMask::MOVED_TO) {
            self.work.half_moves.remove(&event.cookie);
        }
        if !is_file_name(&name) {
            return false;
        }
        if mask.contains(EventMask::MODIFY) {
            self.writing.insert(name);
            return true;
        }
        if mask.contains(EventMask::CREATE) {
            match self.created(&name) {
                Created::Whole => {}
                Created::Begun => {
                    self.writing.insert(name);
                    return true;
                }
                Created::Other => return false,
            }
        }
        if mask.contains(EventMask::ATTRIB) && !self.is_new_version(&name) {
            return false;
        }
        if mask.intersects(
            EventMask::CLOSE_WRITE | EventMask::MOVED_FROM | EventMask::MOVED_TO | EventMask::DELETE,
        ) {
            self.writing.remove(&name);
        }
        if mask.contains(EventMask::MOVED_FROM) {
            self.work.half_moves.insert(event.cookie);
        }
        self.work.loss |= mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE);
        self.work.names.insert(name);
        true
    }

    /// What was created? A new file that is empty will be written by somebody, whose closing it tells.
    fn created(&self, name: &FileName) -> Created {
        match fs::symlink_metadata(self.path.join(&**name)) {
            Ok(m) if m.is_symlink() => Created::Whole,
            Ok(m) if m.is_file() && (m.nlink() > 1 || m.size() > 0) => Created::Whole,
            Ok(m) if m.is_file() => Created::Begun,
            _ => Created::Other,
        }
    }

    /// Is it another version than the one known? Permissions count: they may be why it could not be read.
    fn is_new_version(&self, name: &FileName) -> bool {
        let known = self.stamps.get(name);
        !self.writing.contains(name)
            && known.is_some_and(|known| *known != file::stamp(&self.path.join(&**name)))
    }

    // ------------------------------------------------------------ reading

    /// Reads what there is to read, then lets all of it apply at once.
    ///
    /// All that was read is what the files held when the last event before the reading was made, if none of them had an
    /// event since: then that is a state the folder was in, whatever other files did meanwhile.
    fn settle(&mut self, began: Instant) {
        let mut reads = Reads::new();
        let mut awaited: BTreeSet<FileName> = BTreeSet::new();
        let mut loss = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let work = std::mem::take(&mut self.work);
            if work.unwatched {
                self.reopen_folder();
                reads.clear();
                if self.watch.is_none() {
                    return;
                }
                continue;
            }
            if work.rescan || !work.half_moves.is_empty() {
                self.compare(true);
            }
            loss |= work.loss;
            for name in work.names.into_iter().chain(std::mem::take(&mut self.work.names)) {
                let found = file::read(&self.path.join(&*name));
                loss |= matches!(&found, Found::Nothing)
                    || matches!(&found, Found::Text(_, text) if text.is_empty());
                awaited.remove(&name);
                reads.insert(name, found);
            }
            self.await_events();
            let waits = began.elapsed() < SETTLE;
            let mut quiet = !self.drain();
            if quiet && waits && (loss || !awaited.is_empty()) {
                wait_for(&mut [PollFd::new(&self.inotify, PollFlags::IN)], LOSS);
                quiet = !self.drain();
            }
            // Somebody writes to it again: what was read may be half of that.
            for (name, _) in reads.extract_if(.., |name, _| self.writing.contains(name)) {
                awaited.insert(name);
            }
            let outdated =
                self.work.needs_all() || self.work.names.iter().any(|name| reads.contains_key(name));
            let unexplained = waits && (!awaited.is_empty() || (loss && !quiet));
            let given_up = tries >= CHASES && began.elapsed() >= CHASE;
            if !unexplained && (!outdated || given_up) {
                break;
            }
        }
        // A folder that went took its files along: that is no removal of each.
        if reads.values().any(|found| matches!(found, Found::Nothing)) && !self.folder_is_there() {
            reads.retain(|_, found| !matches!(found, Found::Nothing));
            self.work.unwatched = true;
        }
        let understood = understand(&reads, &mut self.converter);
        for ((name, found), contents) in reads.into_iter().zip(understood) {
            self.apply(&name, found, contents);
        }
        self.news = true;
        self.progressed();
    }

    /// Waits until there is an event of every rename and removal that a reader may have seen. A name leads to the new file a
    /// moment before the event is made: both happen under the folder's lock (`vfs_rename`), and a listing takes it.
    fn await_events(&self) {
        let _ = fs::read_dir(&self.path).map(|mut entries| entries.next());
    }

    /// Compares all files with what is known of them and asks for those that differ. Without an event for it
    /// (`told` is false) a change is trusted only when two comparisons agree: somebody may be writing.
    fn compare(&mut self, told: bool) {
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(e) => {
                let path = self.path.display();
                self.folder.set_trouble(Some(format!("failed to list the folder {path}: {e}")));
                self.news = true;
                return;
            }
        };
        self.folder.set_trouble(None);
        let unsettled = std::mem::take(&mut self.unsettled);
        for name in &listed {
            let stamp = file::stamp(&self.path.join(&**name));
            if self.writing.contains(name) || self.stamps.get(name) == Some(&stamp) {
                continue;
            }
            if told || unsettled.get(name) == Some(&stamp) {
                self.work.names.insert(Arc::clone(name));
            } else {
                self.unsettled.insert(Arc::clone(name), stamp);
            }
        }
        if self.being_refilled() {
            return;
        }
        for name in self.stamps.keys().filter(|name| !listed.contains(*name)) {
            self.work.names.insert(Arc::clone(name));
        }
    }

    fn being_refilled(&mut self) -> bool {
        let filling = |r: &Refill| r.quiet_since.elapsed() < REFILL && r.since.elapsed() < REFILL_MAX;
        if self.refill.as_ref().is_some_and(filling) {
            return true;
        }
        self.refill = None;
        false
    }

    fn list(&self) -> io::Result<BTreeSet<FileName>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let readable = |t: fs::FileType| t.is_file() || t.is_symlink();
            if is_file_name(&name) && entry.file_type().is_ok_and(readable) {
                names.insert(name.into());
            }
        }
        Ok(names)
    }

    /// What was read applies.
    fn apply(&mut self, name: &FileName, found: Found, contents: Option<Result<Contents, Problem>>) {
        match found {
            Found::Nothing => {
                self.stamps.remove(name);
                self.folder.remove(name);
            }
            Found::Unreadable(stamp, message) => {
                self.stamps.insert(Arc::clone(name), stamp);
                self.fail(name, Problem { message, ..Problem::default() });
            }
            Found::Text(stamp, _) => {
                self.stamps.insert(Arc::clone(name), Some(stamp));
                let Some(contents) = contents else { return };
                match contents {
                    Ok(contents) => {
                        for w in self.folder.set(name, contents) {
                            let (file, object, message) = (folder::shown(name), w.object, w.message);
                            tracing::warn!(%file, line = w.line, column = w.column, %object, "{message}");
                        }
                    }
                    Err(problem) => self.fail(name, problem),
                }
            }
        }
    }

    fn fail(&mut self, name: &FileName, mut problem: Problem) {
        let kept =
            if self.folder.holds(name) { "what the file said before stays" } else { "nothing of it is" };
        problem.message.push_str(&format!(": {kept} in force"));
        self.folder.fail(name, problem);
    }

    // ------------------------------------------------------------ telling

    /// Hands over what changed since the last batch, if anything did.
    fn tell(&mut self, seen: Instant) {
        if !std::mem::take(&mut self.news) {
            return;
        }
        let changes = self.folder.take_changes();
        let now = Told {
            errors: self.folder.errors(Timestamp::now()),
            unread: self.folder.unread(),
            skipped: self.folder.skipped(),
        };
        if changes.is_empty() && self.told.as_ref() == Some(&now) {
            return;
        }
        let known = self.told.as_ref().map(|told| told.errors.as_slice()).unwrap_or_default();
        for e in now.errors.iter().filter(|e| !known.contains(e)) {
            let (line, column, object) = known_place(e);
            tracing::error!(file = %e.file, line, column, object, "{}", e.message);
        }
        for e in known.iter().filter(|e| !now.errors.contains(e)) {
            let (.., object) = known_place(e);
            tracing::info!(file = %e.file, object, "no longer wrong: {}", e.message);
        }
        self.synced.store(now.unread.is_empty(), Ordering::Relaxed);
        let (errors, unread, skipped) = (now.errors.clone(), now.unread.clone(), now.skipped);
        self.told = Some(now);
        let (touch, notes) = (Touch::Live, Vec::new());
        (self.sink)(Batch { changes, errors, unread, skipped, seen, touch, notes });
        if self.converter.strings.len() > 2 * self.strings + 1000 {
            self.converter.strings.shrink();
            self.strings = self.converter.strings.len();
        }
    }
}

/// Line, column and object of an error as fields of the log: what is not known is left out.
fn known_place(e: &SourceError) -> (Option<u32>, Option<u32>, Option<&str>) {
    let known = |n: u32| (n > 0).then_some(n);
    (known(e.line), known(e.column), (!e.object.is_empty()).then_some(e.object.as_str()))
}

/// Waits until one of the descriptors has something, or for so long.
fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) {
    let timeout = Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // An interrupted wait is a short one: whoever waits looks again.
    let _ = poll(fds, Some(&timeout));
}
