use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use clap::Parser;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

mod schemas;

/// The arguments as the command line gives them.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: ValidateArgs,
}

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("validate-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Ran {
    code: u8,
    out: String,
    err: String,
}

fn validate_stdin(line: &[&str], stdin: &[u8]) -> Ran {
    validate_with(line, "/nonexistent/kubectl".as_ref(), stdin)
}

fn validate_with(line: &[&str], kubectl: &OsStr, mut stdin: &[u8]) -> Ran {
    let args = Line::parse_from(std::iter::once("validate").chain(line.iter().copied())).args;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_with(&args, None, kubectl, &mut stdin, &mut out, &mut err, false).unwrap();
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn validate(line: &[&str]) -> Ran {
    validate_stdin(line, b"")
}

/// What a person sees of these files: the findings, then the counts.
fn drawn(files: &[(&str, &str)], colour: bool) -> String {
    let mut files: Vec<_> = files
        .iter()
        .map(|(name, text)| File { name: (*name).to_owned(), text: (*text).to_owned(), ..File::default() })
        .collect();
    let Outcome { findings, summary, .. } = examine(&mut files, &[], None);
    let painter = Painter::new(colour);
    let drawn = findings.iter().map(|f| painter.finding(&files, f) + "\n\n").collect::<String>();
    drawn + &sum_up(&summary, &findings, false)
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("validate-{name}"), text));
}

/// A policy that is right.
fn good() -> String {
    rule("BAL0102").unwrap().good.text()
}

/// The same with one place changed.
fn bent(old: &str, new: &str) -> String {
    assert!(good().contains(old), "{old}");
    good().replacen(old, new, 1)
}

#[test]
fn every_rule_as_people_see_it() {
    for rule in RULES {
        let text = drawn(&[("policy.yaml", &rule.bad.text())], false);
        assert!(text.contains(&format!("[{}]", rule.code)), "{text}");
        snapshot(rule.code, &text);
    }
}

#[test]
fn odd_texts_do_not_break_the_drawing() {
    snapshot("crlf", &drawn(&[("crlf.yaml", &bent("\"80\"", "\"abc\"").replace('\n', "\r\n"))], false));
    let tabs = bent("port: \"80\"", "port:\t\"abc\"\t# tabs\tall over");
    snapshot("tabs", &drawn(&[("tabs.yaml", &tabs)], false));
    let wide = bent("ip: 169.254.0.90", "ip: '界界界' # 全角");
    snapshot("wide", &drawn(&[("wide.yaml", &wide)], false));
    let control = bent("\"80\"", "\"\\e[31mred\\e[0m\\u202e\" # \u{1b}[31m\u{202e}");
    let text = drawn(&[("\u{1b}[2J.yaml", &control)], false);
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    snapshot("control", &text);
    let long = bent("name: web", &format!("name: {}", "w".repeat(254)));
    snapshot("long-name", &drawn(&[("long.yaml", &long)], false));
}

#[test]
fn json_of_one_long_line() {
    let line = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"x": "PAD"}}, {"apiVersion": "balancing.elf.io/v1beta1", "kind": "LocalRedirectPolicy", "metadata": {"name": "web"}, "spec": {"frontend": {"addressMatcher": {"ip": "10.0.0.1", "toPorts": [{"port": 0, "protocol": "TCP"}]}}, "backend": {"endpointSelector": {"matchLabels": {"app": "web"}}, "toPorts": [{"port": 80, "protocol": "TCP"}]}}}]}"#;
    let line = line.replace("PAD", &"x".repeat(3000));
    let column = line.find("0, \"protocol\"").unwrap() + 1;
    let text = drawn(&[("list.json", &line)], false);
    assert!(text.lines().all(|l| l.chars().count() < 200), "{text}");
    assert!(text.contains(&format!("list.json:1:{column}")), "{text}");
    snapshot("one-line", &text);
}

#[test]
fn conflicts_show_both_files() {
    let later = bent("name: web", "name: shop");
    snapshot("two-files", &drawn(&[("b/shop.yaml", &later), ("a/web.yaml", &good())], false));
}

#[test]
fn what_newcomers_write() {
    let files = [
        ("kind.yaml", bent("LocalRedirectPolicy", "LocalRedirectPolice")),
        ("headless.yaml", good().lines().skip(2).map(|l| format!("{l}\n")).collect()),
        ("template.yaml", bent("name: web", "name: {{ .Release.Name }}")),
        ("indent.yaml", bent("          name: http", "         name: http")),
        ("labels.yaml", bent("      matchLabels:\n        app: web", "      app: web")),
        (
            "ports.yaml",
            bent("      - port: \"8080\"\n        protocol: TCP\n        name: http", "      - 8080"),
        ),
        ("dns.yaml", bent("169.254.0.90", "web.default.svc")),
        ("host.yaml", bent("169.254.0.90", "169.254.0.90:80")),
        ("name.yaml", bent("metadata:\n  name: web", "metadata:\nname: web")),
        ("slip.yaml", bent("endpointSelector", "endpointSelectr")),
        ("words.yaml", "kind of a policy\n".to_owned()),
        ("values.yaml", "replicas: 3\n".to_owned()),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    snapshot("newcomers", &drawn(&files, false));
}

#[test]
fn colours_only_when_asked() {
    let files = [("p.yaml", bent("\"80\"", "\"abc\""))];
    let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let (plain, coloured) = (drawn(&files, false), drawn(&files, true));
    assert!(!plain.contains('\u{1b}'));
    assert!(coloured.contains("\u{1b}["));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some(at) = rest.find('\u{1b}') {
        stripped.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = &rest[rest.find('m').unwrap() + 1..];
    }
    assert_eq!(stripped + rest, plain);
}

#[test]
fn exit_status_does_not_depend_on_the_format() {
    let folder = Folder::new();
    let clean = folder.write("clean.yaml", good());
    let warning = folder.write("warning.yaml", bent("  name: web\n", "  name: web\n  namespace: x\n"));
    let error = folder.write("error.yaml", bent("\"80\"", "\"abc\""));
    let missing = folder.0.join("missing.yaml").display().to_string();
    for output in ["text", "json", "sarif", "github", "junit", "name"] {
        for (file, fail_on, code) in [
            (&clean, "error", 0),
            (&clean, "warning", 0),
            (&warning, "error", 0),
            (&warning, "warning", 1),
            (&error, "error", 1),
            (&error, "warning", 1),
            (&missing, "error", 2),
        ] {
            let ran = validate(&["-f", file, "-o", output, "--fail-on", fail_on]);
            assert_eq!(ran.code, code, "{file} {output} {fail_on}: {}{}", ran.out, ran.err);
            if output == "json" {
                let list: Value = serde_json::from_str(&ran.out).unwrap();
                assert_eq!(list["kind"], "FindingList");
            }
        }
    }
    let both = validate(&["-f", &missing, "-f", &error]);
    assert_eq!(both.code, 2, "what could not be read weighs more");
    assert!(both.out.contains("BAL0102"), "the other file is checked nevertheless");
    assert!(both.err.starts_with(&format!("error: there is no file or folder {missing}")), "{}", both.err);
    assert_eq!(validate(&[]).code, 2);
}

/// A file with an error, a warning, an info and a policy that is right, under a name that every format has to escape.
fn mixed() -> (Folder, String) {
    let folder = Folder::new();
    let error = bent("\"80\"", "\"a<b\"");
    let warning = bent("  name: web\n", "  name: shop\n  namespace: x\n").replace("0.90", "0.91");
    let info = rule("BAL0204").unwrap().bad.text();
    let right = bent("name: web", "name: right").replace("0.90", "0.92");
    let path = folder.write("a, b: 100%.yaml", [error, warning, info, right].join("---\n"));
    (folder, path)
}

/// The output with the folder's name taken out.
fn told(folder: &Folder, path: &str, line: &[&str]) -> String {
    let ran = validate(&[&[path], line].concat());
    assert_eq!(ran.code, 1, "{}", ran.err);
    let encoded = path.replace('%', "%25").replace(':', "%3A").replace(',', "%2C");
    let uri = format!("file://{}/a%2C%20b%3A%20100%25.yaml", folder.path());
    ran.out
        .replace(&uri, "URI")
        .replace(&encoded, "PROPERTY")
        .replace(path, "FILE")
        .replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

/// SARIF carries the fingerprint of the file's name, which is another in every run here.
fn without_fingerprints(value: &mut Value) {
    for result in value["runs"][0]["results"].as_array_mut().unwrap() {
        let print = result["partialFingerprints"]["finding/v1"].take();
        assert_eq!(print.as_str().unwrap().len(), 16);
    }
}

#[test]
fn reports_for_machines() {
    let (folder, path) = mixed();
    let mut sarif: Value = serde_json::from_str(&told(&folder, &path, &["-o", "sarif"])).unwrap();
    without_fingerprints(&mut sarif);
    assert_eq!(sarif["version"], "2.1.0");
    schemas::is_for_code_scanning(&sarif);
    for result in sarif["runs"][0]["results"].as_array().unwrap() {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
    }
    snapshot("sarif", &serde_json::to_string_pretty(&sarif).unwrap());
    snapshot("github", &told(&folder, &path, &["-o", "github"]));
    snapshot("junit", &told(&folder, &path, &["-o", "junit"]));
    let strict = told(&folder, &path, &["-o", "junit", "--fail-on", "warn"]);
    assert!(strict.contains("tests=\"4\" failures=\"2\" errors=\"0\""), "{strict}");
}

#[test]
fn what_could_not_be_read_is_in_the_report() {
    let folder = Folder::new();
    let missing = folder.0.join("<missing>.yaml").display().to_string();
    let sarif = validate(&["-f", &missing, "-o", "sarif"]);
    let value: Value = serde_json::from_str(&sarif.out).unwrap();
    let invocation = &value["runs"][0]["invocations"][0];
    assert_eq!((sarif.code, &invocation["executionSuccessful"]), (2, &Value::Bool(false)));
    assert_eq!(schemas::against_sarif(&value), Vec::<String>::new());
    let junit = validate(&["-f", &missing, "-o", "junit"]);
    assert_eq!(junit.code, 2);
    assert!(
        junit.out.contains("errors=\"1\"") && junit.out.contains("&lt;missing&gt;.yaml"),
        "{}",
        junit.out
    );
}

#[test]
fn github_gets_ten_of_a_level_and_the_count_of_the_rest() {
    let folder = Folder::new();
    let ports: String =
        (0..13).map(|i| format!("        - {{port: x{i}, protocol: TCP, name: n{i}}}\n")).collect();
    let text = bent("        - port: \"80\"\n          protocol: TCP\n          name: http\n", &ports);
    let ran = validate(&["-f", &folder.write("p.yaml", text), "-o", "github"]);
    let commands = ran.out.lines().filter(|l| l.starts_with("::error ")).count();
    assert_eq!(commands, 10);
    assert!(ran.out.lines().last().unwrap().starts_with("and "), "{}", ran.out);
}

#[test]
fn file_names_cannot_make_commands() {
    let folder = Folder::new();
    let path = folder.write("x\n::stop-commands::y\n.yaml", bent("\"80\"", "\"a\""));
    let ran = validate(&["-f", &path, "-o", "github"]);
    assert_eq!(ran.out.lines().filter(|l| l.starts_with("::")).count(), 1, "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1);
}

#[test]
fn findings_that_are_meant_are_not_reported() {
    let (_folder, path) = mixed();
    let ran =
        validate(&[&path, "-S", "BAL0008=lr/sh*", "-S", "BAL0204", "--fail-on", "warning", "-o", "json"]);
    let list: Value = serde_json::from_str(&ran.out).unwrap();
    let codes: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|i| i["code"].as_str().unwrap()).collect();
    assert_eq!((ran.code, codes), (1, vec!["BAL0102"]));
    assert_eq!((&list["summary"]["suppressed"], &list["summary"]["warnings"]), (&2.into(), &0.into()));
    let blocked = validate(&[&path, "-S", "BAL0102,BAL0201"]);
    assert_eq!(blocked.code, 1, "what is not applied is an error whatever is suppressed");
    assert!(blocked.err.contains("BAL0102 of LocalRedirectPolicy/web is not suppressed"), "{}", blocked.err);
    assert!(blocked.err.contains("-S BAL0201 suppresses nothing"), "{}", blocked.err);
    let wrong = Line::try_parse_from(["validate", "-f", "x", "-S", "BAL9999"]).unwrap_err();
    assert!(wrong.exit_code() == 2 && wrong.to_string().contains("--list-rules"), "{wrong}");
}

#[test]
fn what_is_shown_does_not_change_the_exit_status() {
    let (_folder, path) = mixed();
    for (threshold, count) in [("info", 3), ("warn", 2), ("error", 1)] {
        let line = [path.as_str(), "--output-threshold", threshold, "--fail-on", "warning", "-o", "json"];
        let ran = validate(&line);
        let list: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((ran.code, list["items"].as_array().unwrap().len()), (1, count), "{threshold}");
    }
}

#[test]
fn findings_go_to_stdout_and_counts_to_stderr() {
    let folder = Folder::new();
    let ran = validate(&["-f", &folder.write("clean.yaml", good())]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert_eq!(ran.err, "1 file, 1 policy: no problems found\n");
    let others = validate_stdin(&["-f", "-"], b"kind: ConfigMap\napiVersion: v1\n");
    assert_eq!((others.code, others.out.as_str()), (0, ""));
    assert_eq!(
        others.err,
        "1 file, 0 policies: no policy found, so nothing was checked; 1 other object skipped\n"
    );
}

#[test]
fn json_has_every_field_of_the_contract() {
    let text = format!("# first\n---\n{}", bent("name: http\n", "name: 界http\n"));
    let ran = validate_stdin(&["-f", "-", "-o", "json"], text.replace("\"8080\"", "'0'").as_bytes());
    assert_eq!(ran.code, 1);
    snapshot("json", &ran.out);
}

#[test]
fn folders_files_lists_and_stdin() {
    let folder = Folder::new();
    let a = folder.write("a.yaml", good());
    folder.write("b.yml", bent("name: web", "name: b").replace("0.90", "0.91"));
    folder.write("sub/c.json", "{}");
    folder.write("notes.txt", "not: [read");
    folder.write(".hidden.yaml", "not: [read");
    folder.write(".git/x.yaml", "not: [read");
    symlink(folder.path(), folder.0.join("circle")).unwrap();
    let files = |line: &[&str]| {
        let ran = validate(&[line, &["-o", "json"]].concat());
        let list: Value = serde_json::from_str(&ran.out).unwrap();
        (ran.code, list["summary"]["files"].as_u64().unwrap())
    };
    assert_eq!(files(&["-f", folder.path()]), (0, 2));
    assert_eq!(files(&["-R", "-f", folder.path()]), (0, 3));
    assert_eq!(files(&[folder.path()]), (0, 2));
    assert_eq!(files(&["-f", &format!("{a},{}/b.yml", folder.path())]), (0, 2));
    assert_eq!(files(&["-f", &a, "-f", folder.path()]), (0, 2), "one file under two names is one file");
    assert_eq!(
        files(&["-f", &format!("{}/sub", folder.path())]),
        (2, 1),
        "no object, so nothing was checked"
    );

    let empty = Folder::new();
    let ran = validate(&["-f", empty.path()]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("no *.yaml, *.yml or *.json in"), "{}", ran.err);
    symlink("/nowhere/at/all", empty.0.join("dangling.yaml")).unwrap();
    let ran = validate(&["-f", empty.path()]);
    assert!(ran.code == 2 && ran.err.contains("dangling.yaml"), "{}", ran.err);

    let ran = validate_stdin(&["-f", "-"], bent("\"80\"", "\"abc\"").as_bytes());
    assert!(ran.code == 1 && ran.out.contains("<stdin>:10:17"), "{}", ran.out);
}

#[test]
fn what_is_no_text_or_too_large() {
    let folder = Folder::new();
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(good().bytes().flat_map(|b| [b, 0])).collect();
    let ran = validate(&["-f", &folder.write("utf16.yaml", utf16)]);
    assert!(
        ran.code == 1 && ran.out.contains("BAL0001") && ran.out.contains("save it as UTF-8"),
        "{}",
        ran.out
    );
    let mut latin = good().replace("name: web", "name: w").into_bytes();
    latin.extend(b"# caf\xe9\n");
    let ran = validate(&["-f", &folder.write("latin.yaml", latin)]);
    let place = format!("latin.yaml:{}:6", good().lines().count() + 1);
    assert!(ran.code == 1 && ran.out.contains(&place), "{}", ran.out);
    let ran = validate(&["-f", &folder.write("zero.yaml", [0, 1, 2])]);
    assert!(ran.code == 1 && ran.out.contains("NUL byte"), "{}", ran.out);
    let ran = validate(&["-f", "/dev/zero"]);
    assert!(ran.code == 2 && ran.err.contains("larger than 16 MiB"), "{}", ran.err);
}

/// What a broken pipe leaves must not look like manifests that are right; kubectl fails there too.
#[test]
fn nothing_to_check_is_a_failure() {
    let folder = Folder::new();
    for text in ["", "\n\n", "# a comment\n---\n---\n", "---\napiVersion: v1\nkind: List\nitems: []\n"] {
        let empty = folder.write("empty.yaml", text);
        for output in ["text", "json", "sarif", "github", "junit", "name"] {
            let ran = validate(&["-f", &empty, "-o", output]);
            assert_eq!(ran.code, 2, "{text:?} {output}");
            let said = format!("error: no objects to validate: there is none in {empty}\n");
            assert!(ran.err.starts_with(&said), "{}", ran.err);
        }
        let json: Value = serde_json::from_str(&validate(&["-f", &empty, "-o", "json"]).out).unwrap();
        assert_eq!((&json["summary"]["empty"], &json["summary"]["files"]), (&1.into(), &1.into()));
        let junit = validate(&["-f", &empty, "-o", "junit"]).out;
        assert!(junit.contains("errors=\"1\"") && junit.contains("no objects to validate"), "{junit}");
    }
    for page in ["404: Not Found\n", "not found\n", "{}", "[]"] {
        let ran = validate_stdin(&["-f", "-"], page.as_bytes());
        assert!(ran.code == 2 && ran.err.contains("no objects to validate"), "{page}: {}", ran.err);
    }
    let piped = validate_stdin(&["-f", "-"], b"");
    assert!(piped.code == 2 && piped.err.contains("did the command before the pipe fail?"), "{}", piped.err);
    // Beside files that hold something it is no failure, and is said.
    let ran = validate(&["-f", &folder.write("good.yaml", good()), "-f", &folder.write("empty.yaml", "")]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.err,
        format!(
            "note: there is no object in {}/empty.yaml\n2 files, 1 policy: no problems found; 1 file without any object\n",
            folder.path()
        )
    );
}

#[test]
fn addresses_of_the_web_and_patterns_are_refused_with_a_way_out() {
    let ran = validate(&["-f", "https://example.org/it's.yaml"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("curl -fsSL 'https://example.org/it%27s.yaml' | kubectl balancing validate -f -"),
        "{}",
        ran.err
    );
    let ran = validate(&["-f", "/nonexistent/*.yaml"]);
    assert!(ran.code == 2 && ran.err.contains("leave out the quotes"), "{}", ran.err);
}

/// A program that takes kubectl's place.
fn script(folder: &Folder, text: &str) -> PathBuf {
    let path = PathBuf::from(folder.write("kubectl", format!("#!/bin/sh\n{text}\n")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_kustomize_makes_is_checked() {
    let folder = Folder::new();
    let kustomization = folder.write("prod/kustomization.yaml", "resources: [web.yaml]\n");
    let prod = format!("{}/prod", folder.path());
    folder.write("made.yaml", bent("\"80\"", "\"abc\""));
    let kubectl =
        script(&folder, &format!("test \"$*\" = 'kustomize -- {prod}' && cat '{}/made.yaml'", folder.path()));
    let run = |line: &[&str]| validate_with(line, kubectl.as_os_str(), b"");
    let ran = run(&["-k", &prod]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    snapshot("kustomize", &ran.out.replace(&prod, "PROD"));
    let json: Value = serde_json::from_str(&run(&["-k", &prod, "-o", "json"]).out).unwrap();
    assert_eq!(json["items"][0]["file"], format!("<kustomize {prod}>"));
    // Annotations stand in a file that is there.
    let github = run(&["-k", &prod, "-o", "github"]).out;
    assert!(
        github.starts_with(&format!("::error file={kustomization},line=1,title="))
            && github.contains("::LocalRedirectPolicy/web spec.frontend.addressMatcher.toPorts[0].port: "),
        "{github}"
    );
    let sarif: Value = serde_json::from_str(&run(&["-k", &prod, "-o", "sarif"]).out).unwrap();
    let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    schemas::is_for_code_scanning(&sarif);
    assert_eq!(schemas::against_sarif(&sarif), Vec::<String>::new());
    assert_eq!(place["artifactLocation"]["uri"], format!("file://{kustomization}"));
    assert_eq!(
        place["region"],
        serde_json::json!({"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1})
    );
    // Whoever names the folder with -f is told.
    let ran = run(&["-f", &prod]);
    assert!(ran.err.contains(&format!("note: {prod} is a folder of kustomize: -k {prod}")), "{}", ran.err);
}

#[test]
fn kustomize_that_fails_says_why() {
    let folder = Folder::new();
    folder.write("prod/kustomization.yaml", "resources: [web.yaml]\n");
    let prod = format!("{}/prod", folder.path());
    let ran = validate(&["-k", &prod]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.starts_with(
            "error: failed to run /nonexistent/kubectl, which makes the manifests of -k: it is not in PATH"
        ) && ran.err.contains(&format!("kustomize build {prod} | kubectl-balancing validate -f -")),
        "{}",
        ran.err
    );
    let broken = script(&folder, "echo 'error: no \u{1b}[2Jsuch file' >&2; exit 3");
    let ran = validate_with(&["-k", &prod], broken.as_os_str(), b"");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("(exit status: 3): no ^[[2Jsuch file"), "{}", ran.err);
    let plain = validate_with(&["-k", folder.path()], broken.as_os_str(), b"");
    assert!(
        plain.err.contains(&format!(
            "no kustomization.yaml in {0}; for plain manifests use -f {0}",
            folder.path()
        ))
    );
    for (named, said) in [
        ("nowhere".to_owned(), "error: there is no folder nowhere"),
        (format!("{prod}/kustomization.yaml"), "is a file: name its folder with -k"),
        // A repository is kustomize's to get.
        ("github.com/x/y".to_owned(), "(exit status: 3)"),
    ] {
        let ran = validate_with(&["-k", &named], broken.as_os_str(), b"");
        assert!(ran.code == 2 && ran.err.contains(said), "{named}: {}", ran.err);
    }
    for wrong in
        [&["-k", "x", "-f", "y"][..], &["-k", "x", "-R"], &["-k", "x", "y"], &["-k", "x", "--list-rules"]]
    {
        let line = std::iter::once("validate").chain(wrong.iter().copied());
        assert_eq!(Line::try_parse_from(line).unwrap_err().exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn names_of_what_is_wrong() {
    let (_folder, path) = mixed();
    let ran = validate(&[&path, "-o", "name"]);
    assert_eq!(ran.code, 1);
    let info = rule("BAL0204").unwrap().bad.text();
    let named = info.lines().find_map(|l| l.strip_prefix("  name: ")).unwrap();
    assert_eq!(
        ran.out,
        format!(
            "localredirectpolicy.balancing.elf.io/web\nlocalredirectpolicy.balancing.elf.io/shop\nlocalredirectpolicy.balancing.elf.io/{named}\n"
        )
    );
    let few = validate(&[&path, "-o", "name", "--output-threshold", "error"]);
    assert_eq!(few.out, "localredirectpolicy.balancing.elf.io/web\n");
    // What is about the text is not lost.
    let broken = validate_stdin(&["-f", "-", "-o", "name"], b"kind: [unclosed\n");
    assert_eq!((broken.code, broken.out.as_str()), (1, ""));
    assert!(
        broken.err.contains("note: about no object with a name: -:") && broken.err.contains("BAL0001"),
        "{}",
        broken.err
    );
}

#[test]
fn rules_are_listed_and_explained() {
    let list = validate(&["--list-rules"]);
    assert_eq!(list.code, 0);
    assert_eq!(list.out.lines().count(), RULES.len() + 1);
    snapshot("list-rules", &list.out);
    let explained = validate(&["--explain", "bal0104"]);
    assert_eq!(explained.code, 0);
    snapshot("explain", &explained.out);
    let unknown = validate(&["--explain", "BAL9999"]);
    assert!(unknown.code == 2 && unknown.err.contains("BAL9999") && unknown.err.contains("--list-rules"));
}

#[test]
fn published_examples_are_clean() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let ran = validate(&["-R", "-f", examples.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A policy in which any piece of text stands anywhere: it is drawn, in one piece and without control characters.
    #[test]
    fn any_text_is_drawn(at in 0_usize..400, insert in "[ -~\t\r\n界é\u{1b}\u{0}\u{202e}\u{feff}]{0,12}", cut in 0_usize..30) {
        let mut text = good();
        let at = at.min(text.len());
        text.replace_range(at..(at + cut).min(text.len()), &insert);
        let out = drawn(&[("x.yaml", &text), ("y.yaml", &good())], false);
        prop_assert!(!out.contains(['\u{1b}', '\u{0}', '\u{202e}', '\r']), "{:?}", out);
    }

    /// The same in the formats for machines: each is well formed, and says each finding once.
    #[test]
    fn any_text_is_reported(at in 0_usize..400, insert in "[ -~\t\r\n界é\u{1b}\u{0}\u{202e}\u{ffff}%<&\"]{0,12}", name in "[a-z:,%<&\u{1b}\n ]{1,12}") {
        let mut text = good();
        text.insert_str(at.min(text.len()), &insert);
        let mut files = vec![File { name: name.clone(), text, ..File::default() }];
        let Outcome { findings, policies, .. } = examine(&mut files, &[], None);
        let shown: Vec<&Resolved> = findings.iter().collect();
        let report = Report { files: &files, findings: &shown, policies: &policies, failures: &[name] };
        let sarif = report.sarif();
        prop_assert_eq!(schemas::against_sarif(&sarif), Vec::<String>::new());
        prop_assert_eq!(sarif["runs"][0]["results"].as_array().map(Vec::len), Some(findings.len()));
        for line in report.github().lines() {
            let command = ["::error ", "::warning ", "::notice ", "and "].iter().any(|c| line.starts_with(c));
            prop_assert!(command && !line.chars().any(char::is_control), "{:?}", line);
        }
        let junit = report.junit(Severity::Info);
        schemas::is_junit(&junit);
        prop_assert_eq!(junit.matches("<failure ").count(), findings.len());
        prop_assert_eq!(junit.matches("<testcase ").count(), junit.matches("</testcase>").count());
        prop_assert!(!junit.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{ffff}'), "{:?}", junit);
    }
}

/// A policy on port 53 of a VIP.
fn of_vip(name: &str, created: Option<&str>) -> serde_json::Value {
    let mut policy: serde_json::Value = serde_yaml::from_str(&good()).unwrap();
    policy["metadata"]["name"] = name.into();
    if let Some(created) = created {
        policy["metadata"]["creationTimestamp"] = created.into();
    }
    policy
}

fn against(files: &[serde_json::Value], live: &Live) -> (Vec<Resolved>, Summary) {
    let mut files: Vec<File> = files
        .iter()
        .map(|p| File { name: "new.json".to_owned(), text: p.to_string(), ..File::default() })
        .collect();
    let Outcome { findings, summary, .. } = examine(&mut files, &[], Some(live));
    // Whatever is found can be drawn.
    let painter = Painter::new(false);
    findings.iter().for_each(|f| assert!(!painter.finding(&files, f).is_empty()));
    (findings, summary)
}

#[test]
fn what_is_new_loses_against_what_is_there() {
    let live = Live::of(vec![of_vip("there", Some("2026-01-01T00:00:00Z"))], vec![]);
    let (findings, summary) = against(&[of_vip("new", None)], &live);
    let errors: Vec<&Resolved> = findings.iter().filter(|f| f.finding.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].object, "LocalRedirectPolicy/new", "the older one wins, and that is in the cluster");
    assert_eq!((summary.files, summary.objects), (1, 1), "what is there is not what was asked about");
    // A file that says of the same policy what it will be is no second policy.
    assert!(against(&[of_vip("there", None)], &live).0.iter().all(|f| f.finding.severity != Severity::Error));
}

#[test]
fn without_files_the_cluster_is_checked() {
    let old = of_vip("a", Some("2026-01-01T00:00:00Z"));
    let young = of_vip("b", Some("2026-01-02T00:00:00Z"));
    let live = Live::of(vec![young.clone(), old.clone()], vec![]);
    let (findings, summary) = against(&[], &live);
    assert_eq!((summary.files, summary.objects, summary.errors), (0, 2, 1));
    assert_eq!(
        findings.iter().find(|f| f.finding.severity == Severity::Error).unwrap().object,
        "LocalRedirectPolicy/b"
    );
    // What does not concern the file is not told with it.
    let other =
        serde_json::from_str::<serde_json::Value>(&old.to_string().replace("169.254", "169.253")).unwrap();
    let mut other = other;
    other["metadata"]["name"] = "c".into();
    other["metadata"]["creationTimestamp"] = serde_json::Value::Null;
    let (findings, _) = against(&[other], &live);
    assert!(
        findings.iter().all(|f| f.object.ends_with("/c")),
        "{:?}",
        findings.iter().map(|f| &f.object).collect::<Vec<_>>()
    );
}
