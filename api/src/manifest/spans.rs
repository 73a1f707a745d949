//! Where each value of a text stands: a second reading, made only when somebody asks.

use std::ops::Range;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{MAX_DEPTH, Path, Segment};

/// A piece of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Byte offsets into the text.
    pub bytes: Range<usize>,
    /// 1-based line of its start.
    pub line: u32,
    /// 1-based column of its start, in characters.
    pub column: u32,
    /// 1-based line of its end.
    pub end_line: u32,
    /// 1-based column behind its last character.
    pub end_column: u32,
}

/// The positions of everything in a text.
#[derive(Debug)]
pub struct Spans {
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
    /// One a document; documents that were not read to their end are missing.
    documents: Vec<Node>,
    text: String,
}

/// A value: for a scalar what is written, for a mapping or list its key (or first character), so that a mark under it
/// stays on one line.
#[derive(Debug)]
struct Node {
    start: Marker,
    end: Marker,
    children: Children,
}

#[derive(Debug)]
enum Children {
    None,
    Map(Vec<Entry>),
    Seq(Vec<Node>),
}

#[derive(Debug)]
struct Entry {
    name: String,
    start: Marker,
    end: Marker,
    value: Node,
}

/// What to mark of a value that has no key of its own: a scalar itself, a mapping by its first key.
fn beginning(node: &Node) -> (Marker, Marker) {
    match &node.children {
        Children::None => (node.start, node.end),
        Children::Map(entries) => entries.first().map_or((node.start, node.end), |e| (e.start, e.end)),
        Children::Seq(_) => (node.start, node.start),
    }
}

impl Spans {
    /// The positions in that text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let stripped = text.strip_prefix('\u{feff}').unwrap_or(text);
        let offset = text.len() - stripped.len();
        let readable = &stripped[..stripped.find('\0').unwrap_or(stripped.len())];
        Self { lines: line_starts(text, offset), documents: documents(readable), text: text.to_owned() }
    }

    /// The span of a path in a document (from 1). A scalar is marked itself, a mapping or list by its key; a path that
    /// does not exist by its nearest existing parent.
    #[must_use]
    pub fn locate(&self, document: usize, path: &Path) -> Span {
        let Some(mut node) = document.checked_sub(1).and_then(|i| self.documents.get(i)) else {
            return self.position(1, 1);
        };
        let mut mark = beginning(node);
        for segment in path.segments() {
            match (segment, &node.children) {
                (Segment::Key(k), Children::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|e| e.name == *k) else { break };
                    node = &entry.value;
                    mark = match node.children {
                        Children::None if node.end.index() > node.start.index() => (node.start, node.end),
                        _ => (entry.start, entry.end),
                    };
                }
                (Segment::Index(i), Children::Seq(items)) => {
                    let Some(item) = items.get(*i) else { break };
                    node = item;
                    mark = beginning(node);
                }
                _ => break,
            }
        }
        self.between(mark.0, mark.1)
    }

    /// The span of a key itself, for findings that are about the key; otherwise as [`Self::locate`].
    #[must_use]
    pub fn locate_key(&self, document: usize, path: &Path) -> Span {
        let mut node = document.checked_sub(1).and_then(|i| self.documents.get(i));
        let mut key = None;
        for segment in path.segments() {
            let (next, mark) = match (segment, node.map(|n| &n.children)) {
                (Segment::Key(k), Some(Children::Map(entries))) => {
                    match entries.iter().find(|e| e.name == *k) {
                        Some(e) => (Some(&e.value), Some((e.start, e.end))),
                        None => (None, None),
                    }
                }
                (Segment::Index(i), Some(Children::Seq(items))) => (items.get(*i), None),
                _ => (None, None),
            };
            node = next;
            key = mark;
        }
        key.map_or_else(|| self.locate(document, path), |(start, end)| self.between(start, end))
    }

    /// The one character at a line and column, from 1; the nearest place that exists.
    #[must_use]
    pub fn position(&self, line: u32, column: u32) -> Span {
        let index = (line.max(1) as usize - 1).min(self.lines.len().saturating_sub(1));
        let columns = column.max(1) as usize - 1;
        let start = self.byte(index, columns);
        let width =
            self.text[start..].chars().next().filter(|c| !matches!(c, '\n' | '\r')).map_or(0, char::len_utf8);
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let line = clamp(index + 1);
        let column = clamp(1 + self.text[self.lines[index]..start].chars().count());
        let end_column = column + u32::from(width > 0);
        Span { bytes: start..start + width, line, column, end_line: line, end_column }
    }

    /// The word that starts at a line and column, from 1, or one character where none does.
    #[must_use]
    pub fn word(&self, line: u32, column: u32) -> Span {
        let mut span = self.position(line, column);
        let rest = &self.text[span.bytes.start..];
        let word =
            rest.find(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '[' | ']' | '{' | '}' | '\0'));
        let length = word.unwrap_or(rest.len());
        if length > span.bytes.len() {
            let end = span.bytes.start + length;
            span.end_column =
                span.column + u32::try_from(self.text[span.bytes.start..end].chars().count()).unwrap_or(1);
            span.bytes.end = end;
        }
        span
    }

    fn between(&self, start: Marker, end: Marker) -> Span {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (line, column) = (narrow(start.line()), narrow(start.col() + 1));
        if end.index() <= start.index() {
            return self.position(line, column);
        }
        let byte = |m: Marker| self.byte(m.line().saturating_sub(1), m.col());
        let first = byte(start);
        let last = first + written(&self.text[first..byte(end).max(first)]);
        let end_index = self.lines.partition_point(|&l| l <= last).saturating_sub(1);
        let end_column = 1 + self.text[self.lines[end_index].min(last)..last].chars().count();
        Span {
            bytes: first..last,
            line,
            column,
            end_line: narrow(end_index + 1),
            end_column: narrow(end_column),
        }
    }

    /// The byte offset of a column (characters, from 0) of a line (from 0); the end of the line where it is shorter.
    fn byte(&self, line: usize, columns: usize) -> usize {
        let Some(&start) = self.lines.get(line) else { return self.text.len() };
        let rest = &self.text[start..];
        rest.char_indices()
            .take_while(|(_, c)| !matches!(c, '\n' | '\r'))
            .nth(columns)
            .map_or_else(|| start + rest.find(['\n', '\r']).unwrap_or(rest.len()), |(at, _)| start + at)
    }
}

/// How much of this is the scalar that starts here: the parser counts blanks and comments behind a quoted one to it.
fn written(text: &str) -> usize {
    let Some(quote @ ('"' | '\'')) = text.chars().next() else { return text.trim_end().len() };
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote && chars.next_if(|&(_, next)| quote == '\'' && next == '\'').is_none() {
            return at + 1;
        }
    }
    text.len()
}

/// Byte offsets of the starts of lines; a line ends with LF, CR LF or CR.
fn line_starts(text: &str, first: usize) -> Vec<usize> {
    let bytes = text.as_bytes();
    let ends = bytes
        .iter()
        .enumerate()
        .filter(|&(i, &b)| b == b'\n' || (b == b'\r' && bytes.get(i + 1) != Some(&b'\n')));
    std::iter::once(first).chain(ends.map(|(i, _)| i + 1)).collect()
}

/// An open mapping or list.
struct Open {
    start: Marker,
    key: Option<(String, Marker, Marker)>,
    children: Children,
}

/// Put a finished value where it belongs.
fn attach(stack: &mut [Open], root: &mut Option<Node>, node: Node) {
    match stack.last_mut() {
        None => *root = Some(node),
        Some(Open { children: Children::Seq(items), .. }) => items.push(node),
        Some(Open { children: Children::Map(entries), key, .. }) => {
            if let Some((name, start, end)) = key.take() {
                entries.push(Entry { name, start, end, value: node });
            }
        }
        Some(Open { children: Children::None, .. }) => {}
    }
}

fn documents(text: &str) -> Vec<Node> {
    let mut parser = Parser::new_from_str(text);
    let mut stack: Vec<Open> = Vec::new();
    let mut documents = Vec::new();
    let mut root = None;
    while let Some(Ok((event, span))) = parser.next_event() {
        let node = match event {
            Event::StreamEnd => break,
            Event::DocumentEnd => {
                let empty = Node { start: span.start, end: span.start, children: Children::None };
                documents.push(root.take().unwrap_or(empty));
                continue;
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if stack.len() >= MAX_DEPTH {
                    break;
                }
                let children = match event {
                    Event::MappingStart(..) => Children::Map(Vec::new()),
                    _ => Children::Seq(Vec::new()),
                };
                stack.push(Open { start: span.start, key: None, children });
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let Some(open) = stack.pop() else { break };
                Node { start: open.start, end: span.end, children: open.children }
            }
            Event::Scalar(text, style, ..) => {
                if let Some(Open { key: key @ None, children: Children::Map(_), .. }) = stack.last_mut() {
                    *key = Some((text.into_owned(), span.start, span.end));
                    continue;
                }
                // A block scalar is marked by its first character, not over all of its lines.
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let end = if block { span.start } else { span.end };
                Node { start: span.start, end, children: Children::None }
            }
            Event::Alias(_) => {
                if let Some(Open { key: key @ None, children: Children::Map(_), .. }) = stack.last_mut() {
                    *key = Some((String::new(), span.start, span.end));
                    continue;
                }
                Node { start: span.start, end: span.end, children: Children::None }
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
        attach(&mut stack, &mut root, node);
    }
    // What was open when reading ended is still good for the part before.
    while let Some(open) = stack.pop() {
        let node = Node { start: open.start, end: open.start, children: open.children };
        attach(&mut stack, &mut root, node);
    }
    documents.extend(root);
    documents
}
