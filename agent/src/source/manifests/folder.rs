//! What a folder of files says together: which file an object is taken from, what is in force, what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    ffi::OsStr,
    sync::Arc,
};

use balancing_api::agent::SourceError;
use jiff::Timestamp;

use super::contents::{Contents, Placed, Problem};
use crate::snapshot::{Object, ObjectChange, ObjectKey};

/// Name of a file in the folder.
pub(super) type FileName = Arc<OsStr>;

/// Name under which errors of the folder itself are reported.
pub const FOLDER: &str = ".";

/// What is known of a file.
#[derive(Debug, Default)]
struct File {
    /// What of it is in force: what it says, and where that cannot be understood what it said before.
    objects: BTreeMap<ObjectKey, Placed>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    skipped: usize,
    /// Has all of it been understood since the start?
    complete: bool,
}

fn is_invalid(placed: &Placed) -> bool {
    matches!(&placed.object, Object::Policy(policy) if policy.spec.is_err())
}

/// The files of a folder and what is in force.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<FileName, File>,
    /// The first file by name that an object stands in.
    owners: HashMap<ObjectKey, FileName>,
    /// All files, by name, that an object stands in which stands in several.
    duplicates: BTreeMap<ObjectKey, Vec<FileName>>,
    /// Files in which something is wrong.
    faulty: BTreeSet<FileName>,
    /// Files of which something has not been understood since the start.
    incomplete: BTreeSet<FileName>,
    skipped: usize,
    /// What was in force at the last [`Self::take_changes`], of objects that may have changed since.
    before: BTreeMap<ObjectKey, Option<Object>>,
    since: HashMap<(String, String, String), Timestamp>,
    trouble: Option<String>,
    /// Has the folder been seen since the start?
    seen: bool,
}

impl Folder {
    /// The file says this now. Answers the warnings that are new.
    pub(super) fn set(&mut self, name: &FileName, contents: Contents) -> Vec<Problem> {
        let old = self.take_file(name).unwrap_or_default();
        let (mut objects, mut problems) = (contents.objects, contents.problems);
        let mut all_known = !contents.unidentified;
        let mut kept = BTreeSet::new();
        for key in contents.not_understood {
            match old.objects.get(&key) {
                Some(last_good) => {
                    kept.insert(key.to_string());
                    objects.insert(key, last_good.clone());
                }
                None => all_known = false,
            }
        }
        for (key, placed) in &mut objects {
            // A policy that breaks a rule is reported, and what it said before stays in force.
            if let Some(last_good) = old.objects.get(key).filter(|old| !is_invalid(old) && is_invalid(placed))
            {
                kept.insert(key.to_string());
                placed.clone_from(last_good);
            }
        }
        for problem in problems.iter_mut().filter(|p| kept.contains(&p.object)) {
            problem.message.push_str(": what it said before stays in force");
        }
        if contents.unidentified {
            // What is missing may be what cannot be told.
            for (key, placed) in &old.objects {
                objects.entry(key.clone()).or_insert_with(|| placed.clone());
            }
        }
        let new_warnings = contents.warnings.iter().filter(|w| !old.warnings.contains(w)).cloned().collect();
        let gone: Vec<ObjectKey> = old.objects.keys().filter(|k| !objects.contains_key(k)).cloned().collect();
        for key in objects.keys().filter(|k| old.objects.get(*k) != objects.get(*k)).chain(&gone) {
            // The file was taken out above: what was in force is found in `old` if the file is the first.
            self.note_before(key, name, &old.objects);
        }
        for key in &gone {
            self.disown(key, name);
        }
        for key in objects.keys().filter(|k| !old.objects.contains_key(*k)) {
            self.own(key, name);
        }
        let file = File {
            objects,
            problems,
            warnings: contents.warnings,
            skipped: contents.skipped,
            complete: old.complete || all_known,
        };
        self.put_file(name, file);
        new_warnings
    }

    /// The file cannot be read or understood at all: what it said before stays in force.
    pub(super) fn fail(&mut self, name: &FileName, problem: Problem) {
        let mut file = self.take_file(name).unwrap_or_default();
        file.problems = vec![problem];
        self.put_file(name, file);
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, name: &FileName) {
        let Some(old) = self.take_file(name) else { return };
        for key in old.objects.keys() {
            self.note_before(key, name, &old.objects);
        }
        for key in old.objects.keys() {
            self.disown(key, name);
        }
    }

    fn take_file(&mut self, name: &FileName) -> Option<File> {
        let file = self.files.remove(name)?;
        self.skipped -= file.skipped;
        self.faulty.remove(name);
        self.incomplete.remove(name);
        Some(file)
    }

    fn put_file(&mut self, name: &FileName, file: File) {
        self.skipped += file.skipped;
        if !file.problems.is_empty() {
            self.faulty.insert(Arc::clone(name));
        }
        if !file.complete {
            self.incomplete.insert(Arc::clone(name));
        }
        self.files.insert(Arc::clone(name), file);
    }

    /// Is something of the file known?
    pub(super) fn holds(&self, name: &FileName) -> bool {
        self.files.get(name).is_some_and(|file| !file.objects.is_empty())
    }

    /// Has the folder been seen since the start?
    pub(super) fn seen(&self) -> bool {
        self.seen
    }

    /// The folder itself cannot be read (`Some`), or can.
    pub(super) fn set_trouble(&mut self, trouble: Option<String>) {
        self.seen |= trouble.is_none();
        self.trouble = trouble;
    }

    fn note_before(&mut self, key: &ObjectKey, name: &FileName, own: &BTreeMap<ObjectKey, Placed>) {
        if self.before.contains_key(key) {
            return;
        }
        let in_force = match self.owners.get(key) {
            Some(first) if first == name => own.get(key),
            Some(first) => self.files.get(first).and_then(|f| f.objects.get(key)),
            None => None,
        };
        self.before.insert(key.clone(), in_force.map(|placed| placed.object.clone()));
    }

    fn own(&mut self, key: &ObjectKey, name: &FileName) {
        let first = match self.owners.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(name));
                return;
            }
            Entry::Occupied(entry) if entry.get() == name => return,
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let all = self.duplicates.entry(key.clone()).or_insert_with(|| vec![Arc::clone(first)]);
        if let Err(at) = all.binary_search(name) {
            all.insert(at, Arc::clone(name));
        }
        if name < first {
            *first = Arc::clone(name);
        }
    }

    fn disown(&mut self, key: &ObjectKey, name: &FileName) {
        let Some(all) = self.duplicates.get_mut(key) else {
            if self.owners.get(key) == Some(name) {
                self.owners.remove(key);
            }
            return;
        };
        all.retain(|f| f != name);
        if let Some(first) = all.first() {
            self.owners.insert(key.clone(), Arc::clone(first));
        }
        if all.len() < 2 {
            self.duplicates.remove(key);
        }
    }

    fn in_force(&self, key: &ObjectKey) -> Option<&Object> {
        let first = self.owners.get(key)?;
        self.files.get(first)?.objects.get(key).map(|placed| &placed.object)
    }

    /// What changed since the last call, each object once: an object that moved from file to file did not.
    pub(super) fn take_changes(&mut self) -> Vec<ObjectChange> {
        let before = std::mem::take(&mut self.before);
        let changed = before.into_iter().filter(|(key, old)| self.in_force(key) != old.as_ref());
        changed.map(|(key, _)| ObjectChange { object: self.in_force(&key).cloned(), key }).collect()
    }

    /// Everything that is wrong now, by file and place.
    pub(super) fn errors(&mut self, now: Timestamp) -> Vec<SourceError> {
        let mut all: Vec<(String, Problem)> = Vec::new();
        if let Some(message) = &self.trouble {
            all.push((FOLDER.to_owned(), Problem { message: message.clone(), ..Problem::default() }));
        }
        for name in &self.faulty {
            let problems = self.files.get(name).map(|f| f.problems.as_slice()).unwrap_or_default();
            all.extend(problems.iter().map(|p| (shown(name), p.clone())));
        }
        for (key, files) in &self.duplicates {
            let [first, others @ ..] = files.as_slice() else { continue };
            for name in others {
                let Some(placed) = self.files.get(name).and_then(|f| f.objects.get(key)) else { continue };
                let problem = Problem {
                    line: placed.line,
                    column: placed.column,
                    object: key.to_string(),
                    message: format!(
                        "the same object stands in {}, which comes first by name: this one is ignored",
                        shown(first)
                    ),
                };
                all.push((shown(name), problem));
            }
        }
        all.sort_by(|(f, p), (g, q)| (f, p.line, p.column).cmp(&(g, q.line, q.column)));
        let known = std::mem::take(&mut self.since);
        let mut errors = Vec::with_capacity(all.len());
        for (file, p) in all {
            let id = (file.clone(), p.object.clone(), p.message.clone());
            let since = known.get(&id).copied().unwrap_or(now);
            self.since.insert(id, since);
            let (line, column) = (p.line, p.column);
            errors.push(SourceError { file, line, column, object: p.object, message: p.message, since });
        }
        errors
    }

    /// Files of which something has not been understood since the start.
    pub(super) fn unread(&self) -> Vec<String> {
        let folder = (!self.seen).then(|| FOLDER.to_owned());
        folder.into_iter().chain(self.incomplete.iter().map(|name| shown(name))).collect()
    }

    /// Objects of kinds that are not the agent's.
    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }
}

/// A file name for people.
pub(super) fn shown(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
