//! From the command line to texts.

use std::{
    collections::HashSet,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use balancing_api::manifest::{self, MAX_BYTES, SyntaxError};

/// A text and what to call it.
#[derive(Debug)]
pub(super) struct File {
    /// As it was named or found; `-` for the standard input.
    pub(super) name: String,
    /// Its text, as far as it is text.
    pub(super) text: String,
    /// Where it stops being text.
    pub(super) error: Option<SyntaxError>,
}

/// Read all that was named -> the files, and what could not be read.
pub(super) fn read(named: &[PathBuf], recursive: bool, stdin: &mut dyn Read) -> (Vec<File>, Vec<String>) {
    let (mut files, mut failures) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for name in named {
        if name.as_os_str() == "-" {
            if seen.insert(name.clone()) {
                collect(load("-", stdin), "the standard input", &mut files, &mut failures);
            }
            continue;
        }
        for path in expand(name, recursive, &mut failures) {
            // Two names for one file would make each of its policies stand twice.
            if !seen.insert(fs::canonicalize(&path).unwrap_or_else(|_| path.clone())) {
                continue;
            }
            let shown = path.display().to_string();
            let file = fs::File::open(&path).and_then(|mut f| load(&shown, &mut f));
            collect(file, &shown, &mut files, &mut failures);
        }
    }
    (files, failures)
}

fn collect(file: io::Result<File>, shown: &str, files: &mut Vec<File>, failures: &mut Vec<String>) {
    match file {
        Ok(file) => files.push(file),
        Err(error) => failures.push(format!("failed to read {shown}: {error}")),
    }
}

/// The files that a name stands for.
fn expand(name: &Path, recursive: bool, failures: &mut Vec<String>) -> Vec<PathBuf> {
    match fs::metadata(name) {
        Ok(found) if found.is_dir() => {
            let mut paths = Vec::new();
            walk(name, recursive, &mut paths, failures);
            if paths.is_empty() {
                let hint = if recursive { "" } else { " (folders inside of it are left out without -R)" };
                failures.push(format!("no *.yaml, *.yml or *.json in {}{hint}", name.display()));
            }
            paths
        }
        Ok(_) => vec![name.to_owned()],
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            failures.push(format!("there is no file or folder {}", name.display()));
            Vec::new()
        }
        Err(error) => {
            failures.push(format!("failed to read {}: {error}", name.display()));
            Vec::new()
        }
    }
}

/// The manifests of a folder, in byte order of their names; hidden files and folders are left out, symbolic links to
/// files are followed and those to folders are not, so that there are no circles.
fn walk(folder: &Path, recursive: bool, paths: &mut Vec<PathBuf>, failures: &mut Vec<String>) {
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        if path != folder && !is_folder(&path) {
            paths.push(path);
            continue;
        }
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries: Vec<_> = match entries {
            Ok(entries) => entries.into_iter().map(|e| e.path()).filter(|p| wanted(p, recursive)).collect(),
            Err(error) => {
                failures.push(format!("failed to read {}: {error}", path.display()));
                continue;
            }
        };
        // The last one is taken first.
        entries.sort_by(|a, b| b.cmp(a));
        todo.extend(entries);
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

fn wanted(path: &Path, recursive: bool) -> bool {
    let Some(name) = path.file_name() else { return false };
    let hidden = name.as_encoded_bytes().starts_with(b".");
    // A link to nowhere counts: that it cannot be read has to be said.
    let file = || fs::metadata(path).map_or(true, |m| m.is_file());
    if is_folder(path) { recursive && !hidden } else { manifest::is_file_name(name) && file() }
}

fn load(name: &str, source: &mut dyn Read) -> io::Result<File> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 16 MiB, which an agent refuses too"));
    }
    let name = name.to_owned();
    let error = manifest::utf8(&bytes).err();
    let text = bytes.utf8_chunks().next().map(|chunk| chunk.valid().to_owned()).unwrap_or_default();
    Ok(File { name, text, error })
}
