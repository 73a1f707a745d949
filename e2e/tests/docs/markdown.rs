//! As much of Markdown as the pages use.

/// A page without its blocks of code; lines keep their numbers.
pub(crate) fn prose(page: &str) -> String {
    parts(page).map(|(line, code)| if code { "" } else { line }).collect::<Vec<_>>().join("\n")
}

/// The lines of blocks of code, fenced ones of another language than the shell's left out, with their numbers.
pub(crate) fn code(page: &str) -> Vec<(usize, &str)> {
    let mut foreign = false;
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, (line, code)) in parts(page).enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match fence {
            Some(language) if code => {
                fenced = !fenced;
                foreign = fenced && !matches!(language.trim(), "" | "sh" | "console");
            }
            _ if code && !(fenced && foreign) => found.push((number + 1, line)),
            _ => {}
        }
    }
    found
}

/// The lines of a page, each with whether it belongs to a block of code.
fn parts(page: &str) -> impl Iterator<Item = (&str, bool)> {
    let (mut fenced, mut list, mut blank) = (false, false, true);
    page.lines().map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return (line, true);
        }
        if fenced {
            return (line, true);
        }
        let indented = line.starts_with("    ") && (blank && !list || list && line.starts_with("        "));
        if !line.trim().is_empty() && !line.starts_with(' ') {
            list =
                line.starts_with("- ") || line.split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        }
        // Blank lines, and lines of code, let a block go on.
        blank = line.trim().is_empty() || indented;
        (line, indented)
    })
}

/// The spans of code in prose, with the numbers of their lines.
pub(crate) fn spans(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(page).lines().enumerate() {
        for span in line.split('`').skip(1).step_by(2) {
            // Within a table a bar is written so.
            found.push((number + 1, span.replace("\\|", "|")));
        }
    }
    found
}

/// Prose without its spans of code.
pub(crate) fn plain(page: &str) -> String {
    let line = |line: &str| {
        line.split('`').enumerate().map(|(i, part)| if i % 2 == 0 { part } else { "" }).collect::<String>()
    };
    prose(page).lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The anchors of a page, as the usual renderers make them of headings.
pub(crate) fn anchors(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in prose(page).lines().filter(|l| l.starts_with('#')) {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let anchor: String = text
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = found.iter().filter(|a| **a == anchor).count();
        found.push(if again == 0 { anchor } else { format!("{anchor}-{again}") });
    }
    found
}

/// The rows of a page's tables below a heading: the cells of each, without the heads.
pub(crate) fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut inside = false;
    let mut found = Vec::new();
    let mut head = true;
    for line in page.lines() {
        if line.starts_with('#') {
            inside = line.trim_start_matches('#').trim() == heading;
        }
        if !line.starts_with('|') {
            head = true;
        } else if line.starts_with("|--") || line.starts_with("| --") {
            head = false;
        } else if inside && !head {
            let line = line.trim_end().trim_start_matches('|').trim_end_matches('|');
            found.push(cells(line));
        }
    }
    assert!(!found.is_empty(), "no table below {heading:?}");
    found
}

fn cells(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = 0;
    for (at, _) in line.match_indices('|') {
        if !line[..at].ends_with('\\') {
            found.push(line[begin..at].trim());
            begin = at + 1;
        }
    }
    found.push(line[begin..].trim());
    found
}

#[test]
fn code_and_prose_are_told_apart() {
    let page = "# A `b` c?\n\ntext `x|y`\n\n    code 1\n\n    code 2\n\n- item\n  more\n\n    of the item\n\n```yaml\nz: 1\n```\n\n```\ncode 3\n```\n";
    assert_eq!(
        code(page).iter().map(|(_, l)| l.trim()).filter(|l| !l.is_empty()).collect::<Vec<_>>(),
        ["code 1", "code 2", "code 3"]
    );
    assert!(prose(page).contains("of the item") && !prose(page).contains("code"));
    assert_eq!(spans(page)[1], (3, "x|y".to_owned()));
    assert_eq!(anchors(page), ["a-b-c"]);
    assert_eq!(rows("## T\n\n| h | i |\n|---|---|\n| a\\|b | c |\n", "T"), [["a\\|b", "c"]]);
}
