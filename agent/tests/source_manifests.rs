//! The folder of manifests, with real folders and the kernel's own events.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::{Duration, Instant},
};

use balancing_agent::{
    snapshot::{Object, ObjectKey},
    source::{Batch, manifests::Manifests},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A folder of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("balancing-source-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A watched folder and what was heard of it.
struct Bed {
    batches: Receiver<Batch>,
    state: BTreeMap<ObjectKey, Object>,
    last: Option<Batch>,
    /// Objects that were removed, in order.
    removed: Vec<String>,
    source: Manifests,
    dir: PathBuf,
    scratch: Scratch,
}

impl Bed {
    fn new(files: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        let dir = scratch.0.join("manifests");
        fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        Self::watch(scratch, dir)
    }

    fn watch(scratch: Scratch, dir: PathBuf) -> Self {
        let (tell, batches) = channel();
        let source = Manifests::watch(&dir, move |batch| drop(tell.send(batch))).unwrap();
        let mut bed =
            Self { batches, state: BTreeMap::new(), last: None, removed: Vec::new(), source, dir, scratch };
        bed.hear(DEADLINE);
        bed
    }

    /// Takes the next batch.
    fn hear(&mut self, wait: Duration) -> bool {
        let Ok(batch) = self.batches.recv_timeout(wait) else { return false };
        for change in &batch.changes {
            match &change.object {
                Some(object) => {
                    assert_eq!(object.key(), change.key);
                    self.state.insert(change.key.clone(), object.clone());
                }
                None => {
                    assert!(self.state.remove(&change.key).is_some(), "{} was not there", change.key);
                    self.removed.push(change.key.to_string());
                }
            }
        }
        self.last = Some(batch);
        true
    }

    /// Takes batches until that holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && self.hear(left),
                "not so in time: {what}; {:?} {:?}",
                self.ips(),
                self.errors()
            );
        }
    }

    /// Everything that happened before has been heard when this returns: a file of its own makes the round.
    fn settle(&mut self) {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("marker-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.put("zz-marker.yaml", &service(&name, "10.0.255.255"));
        self.until("marker", |bed| bed.ip(&name).is_some());
    }

    /// Writes a file by rename.
    fn put(&self, name: &str, text: &str) {
        put(&self.scratch.0, &self.dir, name, text);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The ClusterIP of a Service of namespace default.
    fn ip(&self, service: &str) -> Option<String> {
        let key = ObjectKey::Service(balancing_agent::snapshot::Name::new("default", service));
        match self.state.get(&key) {
            Some(Object::Service(s)) => s.addresses.first().map(ToString::to_string),
            _ => None,
        }
    }

    fn ips(&self) -> BTreeMap<String, String> {
        let services = self.state.values().filter_map(|o| match o {
            Object::Service(s) => Some((s.name.to_string(), s.addresses[0].to_string())),
            _ => None,
        });
        services.filter(|(name, _)| !name.contains("marker")).collect()
    }

    /// `file:line:column object: message` of each error.
    fn errors(&self) -> Vec<String> {
        let all = self.last.iter().flat_map(|b| &b.errors);
        all.map(|e| format!("{}:{}:{} {}: {}", e.file, e.line, e.column, e.object, e.message)).collect()
    }

    fn error(&self, start: &str) -> bool {
        self.errors().iter().any(|e| e.starts_with(start))
    }

    fn unread(&self) -> Vec<String> {
        self.last.as_ref().map(|b| b.unread.clone()).unwrap_or_default()
    }
}

fn put(scratch: &Path, dir: &Path, name: &str, text: &str) {
    let staged = scratch.join(format!("staged-{name}"));
    fs::write(&staged, text).unwrap();
    fs::rename(staged, dir.join(name)).unwrap();
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

fn pairs(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(name, ip)| (format!("default/{name}"), (*ip).to_owned())).collect()
}

#[test]
fn what_is_there_is_the_first_batch() {
    let two = service("b", "10.0.0.2") + "---\n" + &service("c", "10.0.0.3");
    let bed = Bed::new(&[
        ("1.yaml", &service("a", "10.0.0.1")),
        ("2.yml", &two),
        ("3.json", "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[]}"),
    ]);
    assert_eq!(bed.ips(), pairs(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]));
    assert!(bed.last.as_ref().unwrap().synced() && bed.source.progress().synced);
    let bed = Bed::new(&[]);
    assert!(bed.last.as_ref().unwrap().synced(), "an empty folder was read");
}

#[test]
fn every_way_to_change_a_file() {
    let mut bed = Bed::new(&[]);
    fs::write(bed.path("a.yaml"), service("a", "10.0.0.1")).unwrap();
    bed.until("written", |b| b.ip("a").as_deref() == Some("10.0.0.1"));
    fs::write(bed.path("a.yaml"), service("a", "10.0.0.2")).unwrap();
    bed.until("written in place", |b| b.ip("a").as_deref() == Some("10.0.0.2"));
    bed.put("a.yaml", &service("a", "10.0.0.3"));
    bed.until("renamed over", |b| b.ip("a").as_deref() == Some("10.0.0.3"));
    let mut file = OpenOptions::new().append(true).open(bed.path("a.yaml")).unwrap();
    write!(file, "---\n{}", service("b", "10.0.0.4")).unwrap();
    drop(file);
    bed.until("appended", |b| b.ip("b").as_deref() == Some("10.0.0.4"));
    assert_eq!(bed.removed, Vec::<String>::new(), "nothing went on the way");
    fs::rename(bed.path("a.yaml"), bed.scratch.0.join("elsewhere")).unwrap();
    bed.until("renamed away", |b| b.ips().is_empty());
    fs::hard_link(bed.scratch.0.join("elsewhere"), bed.path("hard.yaml")).unwrap();
    bed.until("hard link", |b| b.ip("a").as_deref() == Some("10.0.0.3"));
    fs::remove_file(bed.path("hard.yaml")).unwrap();
    bed.until("removed", |b| b.ips().is_empty());
    symlink(bed.scratch.0.join("elsewhere"), bed.path("soft.yaml")).unwrap();
    bed.until("symbolic link", |b| b.ip("a").as_deref() == Some("10.0.0.3"));
    // No event tells of this one.
    fs::write(bed.scratch.0.join("elsewhere"), service("a", "10.0.0.5")).unwrap();
    bed.until("target of the link written", |b| b.ip("a").as_deref() == Some("10.0.0.5"));
    assert_eq!(bed.errors(), Vec::<String>::new());
}

#[test]
fn a_rename_takes_effect_within_100_ms() {
    let mut bed = Bed::new(&[]);
    let mut times: Vec<Duration> = (1..=21)
        .map(|i| {
            let ip = format!("10.0.1.{i}");
            let text = service("a", &ip);
            let began = Instant::now();
            bed.put("a.yaml", &text);
            bed.until("renamed", |b| b.ip("a").as_ref() == Some(&ip));
            began.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[10] < Duration::from_millis(100), "median {:?}", times[10]);
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1"))]);
    let text = service("a", "10.0.0.2");
    let (half, rest) = text.split_at(40);
    let mut file = OpenOptions::new().write(true).truncate(true).open(bed.path("a.yaml")).unwrap();
    bed.settle();
    assert_eq!(bed.ips(), pairs(&[("a", "10.0.0.1")]), "truncated");
    file.write_all(half.as_bytes()).unwrap();
    bed.settle();
    // Longer than it takes the comparison of all files to come round twice.
    let until = Instant::now() + Duration::from_millis(2500);
    while bed.hear(until.saturating_duration_since(Instant::now())) {}
    assert_eq!(bed.ips(), pairs(&[("a", "10.0.0.1")]), "half written");
    assert_eq!((bed.errors(), &bed.removed.iter().filter(|r| !r.contains("marker")).count()), (vec![], &0));
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    bed.until("closed", |b| b.ip("a").as_deref() == Some("10.0.0.2"));
}

/// Some editors move the old file out of the way and write a new one.
#[test]
fn an_editor_that_moves_the_old_file_away() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1"))]);
    for i in 2..12 {
        let ip = format!("10.0.0.{i}");
        fs::rename(bed.path("a.yaml"), bed.path("a.yaml~")).unwrap();
        let mut file = File::create(bed.path("a.yaml")).unwrap();
        // The pace of the editor.
        std::thread::sleep(Duration::from_millis(10));
        file.write_all(service("a", &ip).as_bytes()).unwrap();
        drop(file);
        bed.until("edited", |b| b.ip("a").as_ref() == Some(&ip));
    }
    assert_eq!(bed.removed, Vec::<String>::new());
}

#[test]
fn what_is_no_manifest_is_left_alone() {
    let mut bed = Bed::new(&[]);
    let text = service("no", "10.0.0.1");
    for name in [".hidden.yaml", "a.yaml.swp", "a.txt", "yaml", "a.YAML"] {
        bed.put(name, &text);
    }
    fs::create_dir(bed.path("folder.yaml")).unwrap();
    fs::write(bed.path("folder.yaml/in.yaml"), &text).unwrap();
    let mkfifo = std::process::Command::new("mkfifo").arg(bed.path("fifo.yaml")).status().unwrap();
    assert!(mkfifo.success());
    let _socket = UnixListener::bind(bed.path("socket.yaml")).unwrap();
    symlink("folder.yaml", bed.path("to-folder.yaml")).unwrap();
    symlink("fifo.yaml", bed.path("to-fifo.yaml")).unwrap();
    bed.settle();
    assert_eq!((bed.ips(), bed.unread(), bed.errors()), (BTreeMap::new(), vec![], vec![]));
    fs::rename(bed.path("fifo.yaml"), bed.path("fifo2.yaml")).unwrap();
    // The link to the FIFO leads nowhere now: that is told.
    bed.until("dangling link", |b| b.error("to-fifo.yaml:0:0 : failed to follow the symbolic link"));
    assert_eq!(bed.errors().len(), 1);
}

/// A policy with that frontend port, at line 10.
fn policy(port: &str) -> String {
    format!(
        "apiVersion: balancing.elf.io/v1beta1\nkind: LocalRedirectPolicy\nmetadata:\n  name: p\nspec:\n  frontend:\n    \
         addressMatcher:\n      ip: 169.254.0.90\n      toPorts:\n        - {{port: {port}, protocol: TCP}}\n  backend:\n    \
         endpointSelector: {{matchLabels: {{app: x}}}}\n    toPorts: [{{port: 81, protocol: TCP}}]\n"
    )
}

/// What the folder says of its policy.
fn known_policy(bed: &Bed) -> Option<Object> {
    bed.state.values().find(|o| matches!(o, Object::Policy(_))).cloned()
}

#[test]
fn an_invalid_edit_of_a_policy_keeps_what_it_said() {
    let mut bed = Bed::new(&[("p.yaml", &policy("80"))]);
    let good = known_policy(&bed);
    bed.put("p.yaml", &policy("0"));
    bed.until("reported", |b| b.error("p.yaml:10:18 LocalRedirectPolicy/p: BAL0102"));
    assert!(bed.errors()[0].ends_with(": what it said before stays in force"), "{:?}", bed.errors());
    bed.settle();
    assert_eq!(known_policy(&bed), good);
    bed.put("p.yaml", &policy("8080"));
    bed.until("repaired", |b| known_policy(b) != good && b.errors().is_empty());
    assert!(matches!(known_policy(&bed), Some(Object::Policy(p)) if p.spec.is_ok()));
}

#[test]
fn an_object_that_cannot_be_understood_says_what_is_in_force() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1"))]);
    bed.put("a.yaml", &service("a", "10.0.0.300"));
    bed.until("reported", |b| b.error("a.yaml:"));
    assert!(bed.errors()[0].ends_with(": what it said before stays in force"), "{:?}", bed.errors());
    bed.put("b.yaml", &service("b", "10.0.0.300"));
    bed.until("reported", |b| b.error("b.yaml:"));
    assert!(!bed.errors()[1].contains("stays in force"), "{:?}", bed.errors());
}

#[test]
fn a_policy_of_another_version_is_an_error() {
    let mut bed = Bed::new(&[("p.yaml", &policy("80").replace("v1beta1", "v9"))]);
    bed.until("reported", |b| b.error("p.yaml:1:1") && b.errors()[0].contains("BAL0003"));
    assert_eq!(bed.unread(), ["p.yaml"]);
    bed.put("p.yaml", &policy("80"));
    bed.until("repaired", |b| b.state.len() == 1 && b.errors().is_empty());
}

#[test]
fn an_edit_that_hides_which_policy_is_meant_keeps_what_was_said() {
    for (edit, to, code) in [
        ("v1beta1", "v9", "BAL0003"),
        ("LocalRedirectPolicy", "LocalRedirectPolicie", "BAL0003"),
        ("  name: p", "  labels: {}", "BAL0005"),
    ] {
        let mut bed = Bed::new(&[("p.yaml", &policy("80"))]);
        let good = known_policy(&bed);
        bed.put("p.yaml", &policy("80").replace(edit, to));
        bed.until("reported", |b| b.errors().iter().any(|e| e.contains(code)));
        bed.settle();
        assert_eq!(known_policy(&bed), good, "{to}");
        bed.put("p.yaml", &policy("8080"));
        bed.until("repaired", |b| known_policy(b) != good && b.errors().is_empty());
    }
}

#[test]
fn a_policy_without_a_name_is_no_object() {
    let mut bed = Bed::new(&[("p.yaml", &policy("80").replace("  name: p", "  labels: {}"))]);
    bed.until("reported", |b| b.error("p.yaml:3:1 LocalRedirectPolicy: BAL0005"));
    assert!(bed.state.is_empty(), "{:?}", bed.state);
    assert_eq!(bed.unread(), ["p.yaml"]);
}

#[test]
fn a_broken_file_keeps_what_it_said() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1"))]);
    for text in
        ["kind: Service\n  bad: [indent\n", "\t\tnot yaml at all: {", "\0\u{1}\u{2}", &"{".repeat(2000)]
    {
        bed.put("a.yaml", text);
        bed.until("reported", |b| b.error("a.yaml:"));
        bed.settle();
        assert_eq!((bed.ips(), bed.unread()), (pairs(&[("a", "10.0.0.1")]), vec![]), "{text:?}");
    }
    fs::write(bed.path("a.yaml"), b"kind: \xff\n").unwrap();
    bed.until("no UTF-8", |b| b.error("a.yaml:1:7 : the text is not UTF-8"));
    bed.put("a.yaml", "kind: Service\n  bad: [indent\n");
    bed.until("with its line", |b| b.error("a.yaml:2:"));
    let since = bed.last.as_ref().unwrap().errors[0].since;
    bed.put("b.yaml", "[");
    bed.until("another", |b| b.error("b.yaml:"));
    assert_eq!(bed.last.as_ref().unwrap().errors[0].since, since, "the first error is as old as it was");
    assert_eq!(bed.unread(), ["b.yaml"], "b.yaml was never read");
    bed.put("a.yaml", &service("a", "10.0.0.2"));
    bed.put("b.yaml", "");
    bed.until("repaired", |b| b.ip("a").as_deref() == Some("10.0.0.2") && b.errors().is_empty());
    assert_eq!(bed.unread(), Vec::<String>::new());
}

#[test]
fn a_file_that_is_broken_from_the_start_is_unread() {
    let mut bed = Bed::new(&[("a.yaml", "["), ("b.yaml", &service("b", "10.0.0.1"))]);
    assert_eq!((bed.unread(), bed.ips().len()), (vec!["a.yaml".to_owned()], 1));
    assert!(!bed.source.progress().synced);
    fs::remove_file(bed.path("a.yaml")).unwrap();
    bed.until("removed", |b| b.unread().is_empty() && b.errors().is_empty());
}

#[test]
fn a_large_file_is_refused_unread() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1"))]);
    let large = bed.scratch.0.join("large");
    File::create(&large).unwrap().set_len(100 << 20).unwrap();
    fs::rename(&large, bed.path("a.yaml")).unwrap();
    bed.until("refused", |b| b.error("a.yaml:0:0 : 104857600 bytes are more than 16777216 (16 MiB)"));
    assert_eq!((bed.ips(), bed.unread()), (pairs(&[("a", "10.0.0.1")]), vec![]));
    File::create(&large).unwrap().set_len(100 << 20).unwrap();
    fs::rename(&large, bed.path("b.yaml")).unwrap();
    bed.until("another", |b| b.unread() == ["b.yaml"]);
    bed.put("a.yaml", &service("a", "10.0.0.2"));
    bed.until("small again", |b| b.ip("a").as_deref() == Some("10.0.0.2"));
}

#[test]
fn the_first_file_by_name_has_the_object() {
    let mut bed = Bed::new(&[("2.yaml", &service("a", "10.0.0.2"))]);
    bed.put("1.yaml", &service("a", "10.0.0.1"));
    bed.until("the first wins", |b| b.ip("a").as_deref() == Some("10.0.0.1"));
    bed.until("the other is told", |b| {
        b.error("2.yaml:1:1 Service/default/a: the same object stands in 1.yaml")
    });
    // Byte order, not that of a language.
    bed.put("Z.yaml", &service("a", "10.0.0.3"));
    bed.until("third", |b| b.errors().len() == 2);
    fs::remove_file(bed.path("1.yaml")).unwrap();
    bed.until("promoted", |b| b.ip("a").as_deref() == Some("10.0.0.2"));
    assert_eq!(bed.errors().len(), 1);
    fs::remove_file(bed.path("2.yaml")).unwrap();
    bed.until("promoted", |b| b.ip("a").as_deref() == Some("10.0.0.3"));
    assert_eq!((bed.errors(), bed.removed.clone()), (vec![], vec![]));
    bed.put("1.yaml", &(service("b", "10.0.0.4") + "---\n" + &service("b", "10.0.0.5")));
    bed.until("twice in one file", |b| {
        b.error("1.yaml:10:1 Service/default/b: the same object stands above")
    });
    assert_eq!(bed.ip("b").as_deref(), Some("10.0.0.4"));
}

#[test]
fn a_move_is_no_gap() {
    let mut bed = Bed::new(&[("1.yaml", &service("a", "10.0.0.1"))]);
    for i in 0..50 {
        let (from, to) = if i % 2 == 0 { ("1.yaml", "2.yaml") } else { ("2.yaml", "1.yaml") };
        fs::rename(bed.path(from), bed.path(to)).unwrap();
    }
    // From one file to another by two renames.
    bed.put("3.yaml", &service("a", "10.0.0.1"));
    bed.put("1.yaml", "");
    bed.settle();
    assert_eq!(bed.removed.iter().filter(|r| !r.contains("marker")).count(), 0);
    assert_eq!(bed.ips(), pairs(&[("a", "10.0.0.1")]));
}

#[test]
fn an_object_that_cannot_be_understood_keeps_its_last_version() {
    let mut bed = Bed::new(&[]);
    let both = |a: &str, b: &str| service("a", a) + "---\n" + &service("b", b);
    bed.put("1.yaml", &both("10.0.0.1", "10.0.0.2"));
    bed.until("both", |b| b.ips().len() == 2);
    bed.put("1.yaml", &both("10.0.0.3", "{not: text}"));
    bed.until("the good one applies", |b| b.ip("a").as_deref() == Some("10.0.0.3"));
    assert_eq!((bed.ip("b").as_deref(), bed.unread()), (Some("10.0.0.2"), vec![]));
    assert!(
        bed.error("1.yaml:15:3 Service/default/b: spec.clusterIP: invalid type: map, expected a string"),
        "{:?}",
        bed.errors()
    );
    bed.put("1.yaml", &both("10.0.0.3", "127.0.0.1"));
    bed.until("no address of a Service", |b| {
        b.error("1.yaml:15:14 Service/default/b: spec.clusterIP: 127.0.0.1 is a loopback")
    });
    // A document that could be any object: nothing that is missing goes.
    bed.put("1.yaml", &(service("a", "10.0.0.4") + "---\njust text\n"));
    bed.until("told", |b| b.ip("a").as_deref() == Some("10.0.0.4"));
    assert_eq!((bed.ip("b").as_deref(), bed.errors().len()), (Some("10.0.0.2"), 1));
    // Left out on purpose: it goes.
    bed.put("1.yaml", &service("a", "10.0.0.4"));
    bed.until("gone", |b| b.ip("b").is_none());
    bed.put("2.yaml", &service("c", "{not: text}"));
    bed.until("never understood", |b| b.unread() == ["2.yaml"]);
}

#[test]
fn what_is_unusual_and_legal_applies() {
    let mut bed = Bed::new(&[]);
    let policy = "apiVersion: balancing.elf.io/v1beta1\nkind: LocalRedirectPolicy\nmetadata:\n  name: p\n  namespace: x\n\
        spec:\n  surprise: 1\n  frontend:\n    addressMatcher:\n      ip: 169.254.0.90\n      toPorts:\n      - {port: '80', protocol: TCP}\n  \
        backend:\n    endpointSelector:\n      matchLabels: {app: web}\n    toPorts:\n    - {port: 81, protocol: TCP}\n";
    let others = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n# only a comment\n---\n---\n\
        apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\n---\n";
    bed.put(
        "1.yaml",
        &(others.to_owned() + &service("a", "10.0.0.1").replace("spec:", "unheard: of\nspec:")),
    );
    bed.put("2.yaml", policy);
    let key = |b: &Bed| b.state.keys().find(|k| matches!(k, ObjectKey::Policy(_))).map(ToString::to_string);
    bed.until("policy", |b| key(b).as_deref() == Some("LocalRedirectPolicy/p"));
    bed.until("service", |b| b.ip("a").is_some());
    assert_eq!((bed.last.as_ref().unwrap().skipped, bed.errors()), (2, vec![]));
    // One that breaks a rule from the start is an object that says so, and is reported with its place.
    bed.put("3.yaml", &policy.replace("'80'", "'65536'").replace("name: p", "name: q"));
    bed.until("invalid", |b| b.error("3.yaml:12:16 LocalRedirectPolicy/q: BAL"));
    let invalid = bed.state.values().any(|o| matches!(o, Object::Policy(p) if p.spec.is_err()));
    assert!(invalid && bed.unread().is_empty());
}

#[test]
fn a_config_map_is_swapped_as_one() {
    let mut bed = Bed::new(&[]);
    let version = |n: usize| {
        let folder = bed.path(&format!("..v{n}"));
        fs::create_dir(&folder).unwrap();
        for i in 0..20 {
            fs::write(folder.join(format!("{i}.yaml")), service(&format!("s{i}"), &format!("10.{n}.0.{i}")))
                .unwrap();
        }
        symlink(format!("..v{n}"), bed.path("..data_tmp")).unwrap();
        fs::rename(bed.path("..data_tmp"), bed.path("..data")).unwrap();
    };
    version(1);
    for i in 0..20 {
        symlink(format!("..data/{i}.yaml"), bed.path(&format!("{i}.yaml"))).unwrap();
    }
    bed.until("first version", |b| b.ips().len() == 20);
    for n in 2..6 {
        let folder = bed.path(&format!("..v{n}"));
        fs::create_dir(&folder).unwrap();
        for i in 0..20 {
            fs::write(folder.join(format!("{i}.yaml")), service(&format!("s{i}"), &format!("10.{n}.0.{i}")))
                .unwrap();
        }
        symlink(format!("..v{n}"), bed.path("..data_tmp")).unwrap();
        fs::rename(bed.path("..data_tmp"), bed.path("..data")).unwrap();
        assert!(bed.hear(DEADLINE));
        let swapped = bed.ips().values().filter(|ip| ip.starts_with(&format!("10.{n}."))).count();
        assert_eq!(swapped, 20, "version {n} came in parts");
    }
    assert_eq!(bed.errors(), Vec::<String>::new());
}

#[test]
fn a_folder_that_goes_away_and_comes_back() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.0.0.1")), ("b.yaml", &service("b", "10.0.0.2"))]);
    let folder = |b: &Bed| b.error(".:0:0 : failed to open the folder");
    // Renamed away and back, with a change in between.
    fs::rename(&bed.dir, bed.scratch.0.join("away")).unwrap();
    bed.until("told", folder);
    assert!(bed.errors()[0].contains(bed.dir.to_str().unwrap()), "{:?}", bed.errors());
    assert_eq!(bed.ips().len(), 2);
    put(&bed.scratch.0, &bed.scratch.0.join("away"), "a.yaml", &service("a", "10.0.0.3"));
    fs::rename(bed.scratch.0.join("away"), &bed.dir).unwrap();
    bed.until("back", |b| b.ip("a").as_deref() == Some("10.0.0.3") && b.errors().is_empty());
    // Removed with all its files, and made again with one of them.
    fs::remove_dir_all(&bed.dir).unwrap();
    bed.until("told", folder);
    assert_eq!((bed.ips().len(), bed.unread()), (2, vec![]), "what it held stays in force");
    fs::create_dir(&bed.dir).unwrap();
    bed.until("back", |b| b.errors().is_empty());
    assert_eq!(bed.ips().len(), 2, "an empty folder is about to be filled");
    bed.put("a.yaml", &service("a", "10.0.0.4"));
    bed.until("picked up", |b| b.ip("a").as_deref() == Some("10.0.0.4"));
    bed.until("what did not come back is gone", |b| b.ip("b").is_none());
}

#[test]
fn a_folder_that_does_not_exist_yet() {
    let scratch = Scratch::new();
    let dir = scratch.0.join("later");
    let mut bed = Bed::watch(scratch, dir);
    assert_eq!(bed.unread(), ["."]);
    assert!(bed.error(".:0:0 : failed to open the folder"), "{:?}", bed.errors());
    fs::create_dir(&bed.dir).unwrap();
    bed.put("a.yaml", &service("a", "10.0.0.1"));
    bed.until("there", |b| b.ip("a").is_some() && b.unread().is_empty() && b.errors().is_empty());
}

/// Writers change A, B, A, B, ... of their own: whoever reads A late sees a newer A than the B it knows of. More of them than
/// CPUs, so that now and then one is stopped in the middle of a change.
#[test]
fn changes_apply_in_the_order_in_which_they_were_made() {
    const ROUNDS: usize = 1000;
    const WRITERS: usize = 8;
    let text = |name: &str, n: usize| service(name, &format!("10.1.{}.{}", n / 250, n % 250 + 1));
    let names: Vec<[String; 2]> = (0..WRITERS).map(|w| [format!("a{w}"), format!("b{w}")]).collect();
    let files: Vec<_> = names.iter().flatten().map(|name| (format!("{name}.yaml"), text(name, 0))).collect();
    let files: Vec<_> = files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
    let mut bed = Bed::new(&files);
    let writers: Vec<_> = names
        .iter()
        .cloned()
        .map(|names| {
            let (scratch, dir) = (bed.scratch.0.clone(), bed.dir.clone());
            std::thread::spawn(move || {
                for n in 1..=ROUNDS {
                    for name in &names {
                        put(&scratch, &dir, &format!("{name}.yaml"), &text(name, n));
                    }
                }
            })
        })
        .collect();
    let version = |b: &Bed, name: &str| {
        let ip = b.ip(name).unwrap();
        let parts: Vec<usize> = ip.split('.').map(|p| p.parse().unwrap()).collect();
        parts[2] * 250 + parts[3] - 1
    };
    let mut heard = 0;
    while names.iter().any(|[_, b]| version(&bed, b) < ROUNDS) {
        assert!(bed.hear(DEADLINE));
        heard += 1;
        for [a, b] in &names {
            let (a, b) = (version(&bed, a), version(&bed, b));
            assert!(a == b || a == b + 1, "batch {heard}: a is at {a}, b at {b}");
        }
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(heard > 5, "{heard} batches say nothing about order");
}

#[test]
fn a_flood_of_events_that_overflows_the_queue() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let scratch = Scratch::new();
    let dir = scratch.0.join("manifests");
    fs::create_dir(&dir).unwrap();
    let (tell, batches) = channel();
    let gate = Arc::new(Mutex::new(()));
    let (through, held) = (Arc::clone(&gate), gate.lock().unwrap());
    // While the gate is shut nobody reads events.
    let source = Manifests::watch(&dir, move |batch| {
        drop(through.lock().unwrap());
        drop(tell.send(batch));
    })
    .unwrap();
    for i in 0..limit / 2 + 100 {
        let name = ["a.yaml", "b.yaml"][i % 2];
        fs::rename(make(&scratch.0, name), dir.join(name)).unwrap();
        fs::rename(dir.join(name), scratch.0.join("gone")).unwrap();
    }
    put(&scratch.0, &dir, "last.yaml", &service("last", "10.0.0.9"));
    drop(held);
    let mut bed = Bed { batches, state: BTreeMap::new(), last: None, removed: vec![], source, dir, scratch };
    bed.until("what was last", |b| b.ips() == pairs(&[("last", "10.0.0.9")]));
}

fn make(scratch: &Path, name: &str) -> PathBuf {
    let path = scratch.join(format!("new-{name}"));
    fs::write(&path, service("flood", "10.0.0.1")).unwrap();
    path
}

#[test]
fn it_ends_when_it_is_dropped() {
    let Bed { source, batches, scratch: _scratch, .. } = Bed::new(&[]);
    drop(source);
    assert_eq!(batches.try_recv(), Err(TryRecvError::Disconnected), "its thread has ended");
}

/// So much that it is read by several threads: the same comes of it, in one batch, with the errors in their files.
#[test]
fn a_large_folder_is_read_as_a_small_one() {
    const FILES: usize = 24;
    const SERVICES: usize = 400;
    let service = |i: usize| {
        let (a, b) = (i / 250, i % 250);
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, labels: {{app: a-label-that-is-long-{}}}}}\n\
             spec: {{clusterIP: 10.96.{a}.{b}, ports: [{{port: 80}}]}}\n",
            i % 7
        )
    };
    let files: Vec<(String, String)> = (0..FILES)
        .map(|file| {
            let text = if file == 13 {
                "{ not yaml".to_owned()
            } else {
                (file * SERVICES..(file + 1) * SERVICES).map(service).collect()
            };
            (format!("{file:02}.yaml"), text)
        })
        .collect();
    assert!(files.iter().map(|(_, text)| text.len()).sum::<usize>() > 1 << 20, "too little to be shared out");
    let named: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let bed = Bed::new(&named);
    let batch = bed.last.as_ref().unwrap();
    assert_eq!(batch.changes.len(), (FILES - 1) * SERVICES);
    assert_eq!(bed.state.len(), (FILES - 1) * SERVICES);
    assert_eq!(batch.unread, ["13.yaml"]);
    let told: Vec<&str> = batch.errors.iter().map(|error| error.file.as_str()).collect();
    assert_eq!(told, ["13.yaml"]);
    for i in [0, 12 * SERVICES + 7, FILES * SERVICES - 1] {
        let key = ObjectKey::Service(balancing_agent::snapshot::Name::new("default", format!("s{i}")));
        let Some(Object::Service(service)) = bed.state.get(&key) else { panic!("no Service s{i}") };
        assert_eq!(service.addresses, [std::net::IpAddr::from([10, 96, (i / 250) as u8, (i % 250) as u8])]);
    }
}
