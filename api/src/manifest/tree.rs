//! From the events of the YAML parser to JSON values, with an explicit stack and limits.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Value};

use super::{
    MAX_ALIAS_WEIGHT, MAX_DEPTH, SyntaxError, Warning, describe,
    scalar::{self, Style},
};

/// Warnings of one text; what comes after them is the same over and over.
const MAX_WARNINGS: usize = 1000;

/// A document that holds something.
pub(super) struct Document {
    pub(super) value: Value,
    /// From 1, empty documents counted.
    pub(super) number: usize,
    /// Line and column of its start, from 1.
    pub(super) position: (u32, u32),
    /// Line and column of each item of a list called `items` at its top.
    pub(super) item_positions: Vec<(u32, u32)>,
}

/// Read all documents and hand each on; ends with the first error.
pub(super) fn documents(
    text: &str,
    warnings: &mut Vec<Warning>,
    mut each: impl FnMut(Document),
) -> Result<(), SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(warnings);
    // The parser takes a NUL for the end of the text.
    let nul = text.find('\0');
    let readable = &text[..nul.unwrap_or(text.len())];
    let mut parser = Parser::new_from_str(readable);
    loop {
        let (event, span) = match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok(event)) => event,
            // What the parser misses may be behind the NUL.
            Some(Err(_)) if nul.is_some() => break,
            Some(Err(error)) => return Err(builder.scan_error(readable, &error)),
        };
        match builder.event(event, span) {
            Ok(None) => {}
            Ok(Some(document)) => each(document),
            Err(failure) => return Err(failure.into_error(readable)),
        }
    }
    let Some(at) = nul else { return Ok(()) };
    let (line, column) = end_of(&text[..at]);
    let message = "a NUL byte: this is no text file, or it was damaged".to_owned();
    Err(SyntaxError { line, column, document: builder.document.max(1), message })
}

/// Line and column, from 1, of what follows this text.
fn end_of(text: &str) -> (u32, u32) {
    let line = 1 + text.matches('\n').count();
    let column = 1 + text[text.rfind('\n').map_or(0, |at| at + 1)..].chars().count();
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// Line and column of a marker, from 1.
fn position(marker: Marker) -> (u32, u32) {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (narrow(marker.line().max(1)), narrow(marker.col() + 1))
}

/// Why building stopped.
struct Failure {
    error: SyntaxError,
    /// Of a duplicate key: the key, and where its mapping starts.
    duplicate: Option<(String, Marker)>,
}

impl Failure {
    /// The error; that of a duplicate key says where the first one is, which nobody kept.
    fn into_error(self, text: &str) -> SyntaxError {
        let mut error = self.error;
        if let Some(line) = self.duplicate.and_then(|(key, mapping)| first_key(text, &key, mapping)) {
            error.message.push_str(&format!("; the first is in line {line}"));
        }
        error
    }
}

/// The line of the first key of that name in the mapping that starts there.
fn first_key(text: &str, wanted: &str, mapping: Marker) -> Option<u32> {
    let mut parser = Parser::new_from_str(text);
    let (mut depth, mut inside, mut at_key) = (0_usize, false, true);
    while let Some(Ok((event, span))) = parser.next_event() {
        if !inside {
            inside = matches!(event, Event::MappingStart(..)) && span.start == mapping;
            continue;
        }
        match event {
            Event::Scalar(key, ..) if depth == 0 && at_key && key == wanted => {
                return Some(position(span.start).0);
            }
            Event::Scalar(..) | Event::Alias(_) if depth == 0 => at_key = !at_key,
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd if depth == 0 => return None,
            Event::MappingEnd | Event::SequenceEnd => {
                depth -= 1;
                if depth == 0 {
                    at_key = !at_key;
                }
            }
            _ => {}
        }
    }
    None
}

/// An open mapping or list.
struct Frame {
    anchor: usize,
    start: Marker,
    kind: FrameKind,
}

enum FrameKind {
    Map { map: Map<String, Value>, key: Option<Key>, merges: Vec<Value> },
    Seq(Vec<Value>),
}

enum Key {
    Name(String),
    /// `<<`: the value's keys are added to the mapping, as kubectl's reader does.
    Merge,
}

/// An anchored value.
struct Anchored {
    value: Value,
    weight: usize,
    height: usize,
}

struct Builder<'w> {
    warnings: &'w mut Vec<Warning>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    copied: usize,
    document: usize,
    root: Option<Value>,
    position: (u32, u32),
    item_positions: Vec<(u32, u32)>,
}

impl<'w> Builder<'w> {
    fn new(warnings: &'w mut Vec<Warning>) -> Self {
        Self {
            warnings,
            stack: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
            document: 0,
            root: None,
            position: (1, 1),
            item_positions: Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, Failure> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => self.start_document(),
            Event::DocumentEnd => return Ok(self.end_document()),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag.as_deref(), span.start)?;
            }
            Event::Alias(id) => self.alias(id, span.start)?,
            Event::MappingStart(anchor, _) => {
                self.open(anchor, span.start, || FrameKind::Map {
                    map: Map::new(),
                    key: None,
                    merges: Vec::new(),
                })?;
            }
            Event::SequenceStart(anchor, _) => {
                self.open(anchor, span.start, || FrameKind::Seq(Vec::new()))?;
            }
            Event::MappingEnd | Event::SequenceEnd => self.close()?,
        }
        Ok(None)
    }

    fn start_document(&mut self) {
        self.document += 1;
        self.anchors.clear();
        self.item_positions.clear();
        self.root = None;
    }

    fn end_document(&mut self) -> Option<Document> {
        let value = self.root.take().filter(|v| !v.is_null())?;
        Some(Document {
            value,
            number: self.document,
            position: self.position,
            item_positions: std::mem::take(&mut self.item_positions),
        })
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Marker,
    ) -> Result<(), Failure> {
        let plain = style == ScalarStyle::Plain;
        if let Some(Frame { start, kind: FrameKind::Map { map, key: key @ None, .. }, .. }) =
            self.stack.last_mut()
        {
            if plain && tag.is_none() && text == "<<" {
                *key = Some(Key::Merge);
            } else if map.contains_key(text.as_ref()) {
                let duplicate = Some((text.to_string(), *start));
                let failure = self.fail(at, format!("the key {text:?} stands twice in one mapping"));
                return Err(Failure { duplicate, ..failure });
            } else {
                *key = Some(Key::Name(text.to_string()));
            }
            if anchor != 0 {
                self.keep(anchor, &Value::String(text.into_owned()), at)?;
            }
            return Ok(());
        }
        let style = match tag {
            Some(tag) if tag.is_yaml_core_schema() => Style::Tagged(&tag.suffix),
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Style::Quoted,
            _ if plain => Style::Plain,
            _ => Style::Quoted,
        };
        if matches!(style, Style::Plain)
            && self.warnings.len() < MAX_WARNINGS
            && let Some(message) = scalar::ambiguity(&text)
        {
            let (line, column) = position(at);
            self.warnings.push(Warning { document: self.document, line, column, message });
        }
        let value = match scalar::resolve(text, style) {
            Ok(value) => value,
            Err(message) => return Err(self.fail(at, message)),
        };
        self.mark(at);
        if anchor != 0 {
            self.keep(anchor, &value, at)?;
        }
        self.push(value, at)
    }

    fn alias(&mut self, id: usize, at: Marker) -> Result<(), Failure> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(self.fail(at, "an alias inside of the value that it stands for".to_owned()));
        };
        if self.stack.len() + anchored.height > MAX_DEPTH {
            return Err(self.too_deep(at));
        }
        let weight = anchored.weight;
        let value = anchored.value.clone();
        self.spend(weight, at)?;
        if let Some(Frame { kind: FrameKind::Map { key: None, .. }, .. }) = self.stack.last() {
            let Value::String(text) = value else {
                return Err(self.fail(at, "a key of a mapping has to be text".to_owned()));
            };
            return self.scalar(Cow::Owned(text), ScalarStyle::DoubleQuoted, 0, None, at);
        }
        self.mark(at);
        self.push(value, at)
    }

    fn open(
        &mut self,
        anchor: usize,
        start: Marker,
        kind: impl FnOnce() -> FrameKind,
    ) -> Result<(), Failure> {
        if let Some(Frame { kind: FrameKind::Map { key: None, .. }, .. }) = self.stack.last() {
            let message =
                "a key of a mapping has to be text; a template's {{ ... }} has to be rendered first";
            return Err(self.fail(start, message.to_owned()));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.too_deep(start));
        }
        self.mark(start);
        self.stack.push(Frame { anchor, start, kind: kind() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let value = match frame.kind {
            FrameKind::Seq(items) => Value::Array(items),
            FrameKind::Map { mut map, merges, .. } => {
                for merge in merges {
                    merge_into(&mut map, merge)
                        .map_err(|what| self.fail(frame.start, format!("<< needs a mapping, not {what}")))?;
                }
                Value::Object(map)
            }
        };
        if frame.anchor != 0 {
            self.keep(frame.anchor, &value, frame.start)?;
        }
        self.push(value, frame.start)
    }

    /// Put a finished value where it belongs.
    fn push(&mut self, value: Value, at: Marker) -> Result<(), Failure> {
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Frame { kind: FrameKind::Seq(items), .. }) => items.push(value),
            Some(Frame { kind: FrameKind::Map { map, key, merges }, .. }) => match key.take() {
                Some(Key::Name(name)) => {
                    map.insert(name, value);
                }
                Some(Key::Merge) => merges.push(value),
                None => return Err(self.fail(at, "a value without a key".to_owned())),
            },
        }
        Ok(())
    }

    /// Note where a value starts, if it is a document or an item of its `items`.
    fn mark(&mut self, at: Marker) {
        match self.stack.as_slice() {
            [] => self.position = position(at),
            [
                Frame { kind: FrameKind::Map { key: Some(Key::Name(key)), .. }, .. },
                Frame { kind: FrameKind::Seq(_), .. },
            ] if key == "items" => self.item_positions.push(position(at)),
            _ => {}
        }
    }

    /// Keep an anchored value.
    fn keep(&mut self, anchor: usize, value: &Value, at: Marker) -> Result<(), Failure> {
        let (weight, height) = measure(value);
        self.spend(weight, at)?;
        self.anchors.insert(anchor, Anchored { value: value.clone(), weight, height });
        Ok(())
    }

    fn spend(&mut self, weight: usize, at: Marker) -> Result<(), Failure> {
        self.copied = self.copied.saturating_add(weight);
        if self.copied > MAX_ALIAS_WEIGHT {
            return Err(self.fail(at, "the aliases of this text expand to more than 16 MiB".to_owned()));
        }
        Ok(())
    }

    fn too_deep(&self, at: Marker) -> Failure {
        self.fail(at, format!("more than {MAX_DEPTH} levels of nesting"))
    }

    fn fail(&self, at: Marker, message: String) -> Failure {
        let (line, column) = position(at);
        Failure {
            error: SyntaxError { line, column, document: self.document.max(1), message },
            duplicate: None,
        }
    }

    /// The parser's error, with what it does not say: tabs, and what was left open at the end of the text.
    fn scan_error(&self, text: &str, error: &ScanError) -> SyntaxError {
        let mut message = error.info().to_owned();
        let (mut line, mut column) = position(*error.marker());
        let at_end = text.split('\n').nth(line as usize - 1).is_none_or(str::is_empty)
            && text.split('\n').skip(line as usize).all(str::is_empty);
        if at_end {
            (line, column) = end_of(text.trim_end_matches(['\n', '\r']));
            if let Some(open) = self.stack.last() {
                let (line, column) = position(open.start);
                message.push_str(&format!(
                    "; the text ends inside of what starts in line {line}, column {column}"
                ));
            }
        }
        let tab_indents = |l: &str| l[..l.len() - l.trim_start_matches([' ', '\t']).len()].contains('\t');
        if text.split('\n').nth(line as usize - 1).is_some_and(tab_indents) {
            message = format!("a tab indents this line, YAML indents by spaces alone ({message})");
        }
        SyntaxError { line, column, document: self.document.max(1), message }
    }
}

/// Add the keys of a mapping, or of a list of mappings, that the mapping does not have.
fn merge_into(map: &mut Map<String, Value>, merge: Value) -> Result<(), String> {
    let sources = match merge {
        Value::Array(items) => items,
        other => vec![other],
    };
    for source in sources {
        let Value::Object(source) = source else { return Err(describe(&source)) };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}

/// Weight (64 a node, and its text) and height of a value, which is at most [`MAX_DEPTH`] levels high.
fn measure(value: &Value) -> (usize, usize) {
    let inner = |(weight, height): (usize, usize), v: &Value| {
        let (w, h) = measure(v);
        (weight + w, height.max(h))
    };
    match value {
        Value::String(s) => (64 + s.len(), 0),
        Value::Array(items) => {
            let (weight, height) = items.iter().fold((64, 0), inner);
            (weight, height + 1)
        }
        Value::Object(map) => {
            let keys: usize = map.keys().map(String::len).sum();
            let (weight, height) = map.values().fold((64 + keys, 0), inner);
            (weight, height + 1)
        }
        _ => (64, 0),
    }
}
