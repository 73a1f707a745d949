//! Commands that pages tell a reader to type.

use std::collections::{BTreeMap, BTreeSet};

use crate::{markdown, none, pages, read};

/// What a flag takes, by its name with its dashes.
type Flags = BTreeMap<String, bool>;

/// A program as its reference has it: the flags of each command, by the command's words.
struct Program {
    commands: BTreeMap<Vec<String>, Flags>,
    /// Flags of every command.
    global: Flags,
}

impl Program {
    /// What is wrong with these arguments; a command with `...` in it is no more than its beginning.
    fn fault(&self, words: &[String]) -> Option<String> {
        let mut path: Vec<String> = Vec::new();
        let mut used = Vec::new();
        let mut words = words.iter().peekable();
        let mut positional = false;
        while let Some(word) = words.next() {
            if word == "..." || word == "…" || word == "--" {
                return None;
            }
            if word.starts_with('-') && word.len() > 1 {
                let (name, value) = word.split_once('=').map_or((word.as_str(), false), |(n, _)| (n, true));
                used.push(name.to_owned());
                let takes = self.flag(&path, name).unwrap_or(false);
                if takes && !value {
                    words.next();
                }
                continue;
            }
            let longer: Vec<String> = path.iter().chain([word]).cloned().collect();
            if !positional && self.commands.keys().any(|known| known.starts_with(&longer)) {
                path = longer;
            } else {
                positional = true;
            }
        }
        let group = self.commands.keys().any(|known| known.starts_with(&path));
        if !group || (positional && path.is_empty() && !self.commands.contains_key(&path)) {
            return Some("there is no such command".to_owned());
        }
        let unknown = used.into_iter().find(|name| self.flag(&path, name).is_none())?;
        Some(format!("there is no flag {unknown}"))
    }

    fn flag(&self, path: &[String], name: &str) -> Option<bool> {
        if matches!(name, "-h" | "--help" | "-V" | "--version") {
            return Some(false);
        }
        let own = self.commands.get(path).and_then(|flags| flags.get(name));
        own.or_else(|| self.global.get(name)).copied()
    }
}

/// The plugin, by the page that is made from the program itself.
fn plugin() -> Program {
    let page = read("docs/reference/plugin-commands.md");
    let mut program = Program { commands: BTreeMap::new(), global: Flags::new() };
    let mut at: Option<Vec<String>> = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let words: Vec<String> = heading.trim_matches('`').split(' ').map(str::to_owned).collect();
            at = match words.strip_prefix(&["kubectl".to_owned(), "balancing".to_owned()]) {
                Some(path) => {
                    program.commands.insert(path.to_vec(), Flags::new());
                    Some(path.to_vec())
                }
                None if heading == "Every command" => Some(Vec::new()),
                None => None,
            };
        } else if let (Some(path), Some(cell)) = (&at, line.strip_prefix("| `")) {
            let text = cell.split('`').next().unwrap_or_default();
            let flags = match path.is_empty() {
                true => &mut program.global,
                false => program.commands.get_mut(path).expect("it was just put there"),
            };
            let takes = text.split(", ").last().is_some_and(|l| l.contains(' '));
            for name in text.split(", ").filter_map(|f| f.split(' ').next()).filter(|f| f.starts_with('-')) {
                flags.insert(name.to_owned(), takes);
            }
        }
    }
    assert!(
        program.commands.len() > 8 && program.global.len() > 10,
        "the page of commands was not understood"
    );
    program
}

/// A program by the snapshot of its help.
fn by_help(snapshot: &str, commands: &[&str]) -> Program {
    let text = read(snapshot);
    let mut flags = Flags::new();
    for line in text.lines().map(str::trim).filter(|l| l.starts_with('-')) {
        for part in line.split(", ").map(str::trim) {
            let name = part.split([' ', '=', '[']).next().unwrap_or(part);
            flags.insert(name.to_owned(), line.contains(" <"));
        }
    }
    let path = |command: &&str| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let commands = commands.iter().map(|c| (path(c), flags.clone())).collect();
    Program { commands, global: flags }
}

/// The tasks of `cargo xtask`, by its usage.
fn tasks() -> BTreeSet<String> {
    let usage = read("xtask/src/main.rs");
    let usage =
        usage.split("const USAGE: &str").nth(1).and_then(|u| u.split("\";").next()).expect("its usage");
    let lines = usage.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    lines.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

/// The simple commands of a line of shell, each as its words. Quotes hold words together; what they hold is not looked at.
fn simple(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    let end = |word: &mut String, begun: &mut bool, all: &mut Vec<Vec<String>>| {
        if std::mem::take(begun) {
            all.last_mut().expect("one").push(std::mem::take(word));
        }
    };
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, '#') if !begun => break,
            (None, ' ' | '\t') => end(&mut word, &mut begun, &mut all),
            (None, '|' | ';' | '&' | '(' | ')' | '>' | '<') => {
                // `2>file` and `<(...)` begin something that is no argument.
                if matches!(c, '>') && word.chars().all(|c| c.is_ascii_digit()) {
                    (word, begun) = (String::new(), false);
                }
                end(&mut word, &mut begun, &mut all);
                all.push(if c == '>' || c == '<' { vec!["(redirected)".to_owned()] } else { Vec::new() });
            }
            (None, '\\') => {
                word.extend(chars.next());
                begun = true;
            }
            (None, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    end(&mut word, &mut begun, &mut all);
    all.retain(|words| !words.is_empty());
    all
}

/// Lines of a page that may be commands: of its code, those that go on in the next joined; and spans.
fn lines(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in markdown::code(page) {
        let text = line.trim().trim_start_matches("$ ");
        let (text, more) = text.strip_suffix('\\').map_or((text, false), |t| (t, true));
        match found.last_mut().filter(|_| goes_on) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(text);
            }
            None => found.push((number, text.to_owned())),
        }
        goes_on = more;
    }
    found.into_iter().chain(markdown::spans(page)).collect()
}

#[test]
fn every_command_and_flag_exists() {
    let (plugin, tasks) = (plugin(), tasks());
    let agent = by_help("snapshots/agent-help.snap", &["run", "cleanup"]);
    let operator = by_help("snapshots/operator-help.snap", &[""]);
    let mut defects = Vec::new();
    let mut checked = 0;
    for (page, text) in pages() {
        for (line, command) in lines(&text) {
            for words in simple(&command) {
                let begin = words.iter().take_while(|w| w.contains('=') && !w.starts_with('-')).count();
                let words: Vec<&str> = words[begin..].iter().map(String::as_str).collect();
                let owned = |from: usize| words[from..].iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
                let fault = match words[..] {
                    ["kubectl", "balancing", ..] => plugin.fault(&owned(2)),
                    ["kubectl-balancing", _, ..] => plugin.fault(&owned(1)),
                    ["balancing-agent", _, ..] => agent.fault(&owned(1)),
                    ["balancing-operator", _, ..] => operator.fault(&owned(1)),
                    ["cargo", "xtask", task, ..] if !tasks.contains(task) => {
                        Some("there is no such task".to_owned())
                    }
                    ["cargo", "xtask", ..] => None,
                    _ => continue,
                };
                checked += 1;
                defects.extend(fault.map(|why| format!("{page}:{line}: {}: {why}", words.join(" "))));
            }
        }
    }
    assert!(checked > 80, "only {checked} commands were found");
    none(&defects);
}

#[test]
fn a_wrong_command_is_found() {
    let plugin = plugin();
    let fault = |line: &str| {
        let words = simple(line).remove(0);
        plugin.fault(&words[2..])
    };
    assert_eq!(fault("kubectl balancing top --once --filter 'a b' -o json | jq ."), None);
    assert_eq!(fault("kubectl balancing explain connection --from host --to 10.0.0.1:53/udp"), None);
    assert_eq!(fault("kubectl balancing top --onze").as_deref(), Some("there is no flag --onze"));
    assert_eq!(fault("kubectl balancing status --demo").as_deref(), Some("there is no flag --demo"));
    assert_eq!(fault("kubectl balancing tpo").as_deref(), Some("there is no such command"));
    assert_eq!(simple("a 'b c' \"d\" # e"), [["a", "b c", "d"]]);
    assert_eq!(simple("a=1 b | c -x > d")[1], ["c", "-x"]);
}
