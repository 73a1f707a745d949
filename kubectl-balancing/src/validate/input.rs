//! From the command line to texts.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use balancing_api::manifest::{self, MAX_BYTES, SyntaxError};

/// What a folder needs to be one of kustomize, as kubectl looks for it.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// A text and what to call it.
#[derive(Debug, Default)]
pub(super) struct File {
    /// As it was named or found; `-` for the standard input, `<kustomize FOLDER>` for what kustomize made.
    pub(super) name: String,
    /// Its text, as far as it is text.
    pub(super) text: String,
    /// Where it stops being text.
    pub(super) error: Option<SyntaxError>,
    /// The file that stands for it where lines of this text are of no use to anybody: the kustomization.
    pub(super) made_from: Option<String>,
}

impl File {
    /// Can somebody open it and go to a line?
    pub(super) fn has_lines(&self) -> bool {
        self.name != "-" && self.made_from.is_none()
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) files: Vec<File>,
    /// What could not be read.
    pub(super) failures: Vec<String>,
    /// What whoever named these files may not have meant.
    pub(super) notes: Vec<String>,
}

/// The kubectl that runs this program says which it is.
pub(super) fn kubectl() -> OsString {
    std::env::var_os("KUBECTL_PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| "kubectl".into())
}

/// What `kubectl kustomize FOLDER` makes.
pub(super) fn kustomized(folder: &str, kubectl: &OsStr) -> Input {
    let mut input = Input::default();
    match kustomize(folder, kubectl) {
        Ok(file) => input.files.push(file),
        Err(failure) => input.failures.push(failure),
    }
    input
}

fn kustomize(folder: &str, kubectl: &OsStr) -> Result<File, String> {
    let path = Path::new(folder);
    let kustomization = KUSTOMIZATIONS.iter().map(|name| path.join(name)).find(|p| p.is_file());
    if path.is_file() {
        return Err(format!("{folder} is a file: name its folder with -k, or the file with -f"));
    }
    // What is no folder may be a repository, which kustomize knows how to get.
    let host = folder.split_once('/').is_some_and(|(host, _)| host.trim_start_matches('.').contains('.'));
    if !path.exists() && !host && !folder.contains([':', '?']) {
        return Err(format!("there is no folder {folder}"));
    }
    if path.is_dir() && kustomization.is_none() {
        return Err(format!(
            "there is no kustomization.yaml in {folder}; for plain manifests use -f {folder}"
        ));
    }
    let output = Command::new(kubectl)
        .args(["kustomize", "--"])
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "it is not in PATH".to_owned(),
                _ => error.to_string(),
            };
            format!(
                "failed to run {}, which makes the manifests of -k: {reason}; without kubectl: kustomize build {folder} | \
                 kubectl-balancing validate -f -",
                kubectl.display()
            )
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        return Err(format!("failed to build {folder} with kubectl kustomize ({}): {said}", output.status));
    }
    let name = format!("<kustomize {folder}>");
    let mut file = load(&name, &mut output.stdout.as_slice())
        .map_err(|error| format!("failed to read what kustomize made of {folder}: {error}"))?;
    file.made_from = Some(kustomization.map_or_else(|| folder.to_owned(), |p| p.display().to_string()));
    Ok(file)
}

/// Read all that was named.
pub(super) fn read(named: &[PathBuf], recursive: bool, stdin: &mut dyn Read) -> Input {
    let Input { mut files, mut failures, mut notes } = Input::default();
    let mut seen = HashSet::new();
    for name in named {
        if KUSTOMIZATIONS.iter().any(|k| name.join(k).is_file()) {
            let folder = name.display();
            notes.push(format!("{folder} is a folder of kustomize: -k {folder} checks what it makes"));
        }
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
    Input { files, failures, notes }
}

/// What a file is called in a sentence.
pub(super) fn called(name: &str) -> String {
    if name == "-" { "the standard input".to_owned() } else { name.to_owned() }
}

fn collect(file: io::Result<File>, shown: &str, files: &mut Vec<File>, failures: &mut Vec<String>) {
    match file {
        Ok(file) => files.push(file),
        Err(error) => failures.push(format!("failed to read {shown}: {error}")),
    }
}

/// Is it an address of the web, which kubectl would fetch?
fn is_url(name: &Path) -> bool {
    let text = name.to_string_lossy().to_ascii_lowercase();
    text.starts_with("http://") || text.starts_with("https://")
}

/// The files that a name stands for.
fn expand(name: &Path, recursive: bool, failures: &mut Vec<String>) -> Vec<PathBuf> {
    if is_url(name) {
        let url = name.display().to_string();
        let quoted = url.replace('\'', "%27");
        failures.push(format!(
            "{url} is not fetched: this command uses no network; pipe it: curl -fsSL '{quoted}' | kubectl balancing \
             validate -f -"
        ));
        return Vec::new();
    }
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
            let pattern = name.to_string_lossy().contains(['*', '?', '[']);
            let hint =
                if pattern { " (a pattern is the shell's to expand: leave out the quotes)" } else { "" };
            failures.push(format!("there is no file or folder {}{hint}", name.display()));
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
    Ok(File { name, text, error, made_from: None })
}
