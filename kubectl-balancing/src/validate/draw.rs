//! A finding as rustc draws it.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use balancing_api::{manifest::Span, rules::Severity};

use super::{
    input::File,
    resolve::{Related, Resolved},
};
use crate::text::sanitise;

/// Draws findings, with or without colours.
pub(super) struct Painter {
    renderer: Renderer,
}

impl Painter {
    pub(super) fn new(colour: bool) -> Self {
        Self { renderer: if colour { Renderer::styled() } else { Renderer::plain() } }
    }

    /// A finding, without a newline at its end.
    pub(super) fn finding(&self, files: &[File], found: &Resolved) -> String {
        let finding = &found.finding;
        let level = match finding.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) = found.related.iter().partition(|r| r.file == found.file);
        let mut snippets = vec![snippet(&files[found.file], Some(&found.span), &here)];
        snippets.extend(elsewhere.iter().map(|r| snippet(&files[r.file], None, &[*r])));
        let title = level.primary_title(sanitise(&finding.message).into_owned()).id(finding.code);
        let mut group = Group::with_title(title).elements(snippets);
        // Of a text that nobody can open, the line says less than the object does.
        if !files[found.file].has_lines() && !found.object.is_empty() {
            group = group.element(Level::NOTE.message(sanitise(&found.whereabouts()).into_owned()));
        }
        if !finding.help.is_empty() {
            group = group.element(Level::HELP.message(sanitise(&finding.help).into_owned()));
        }
        self.renderer.render(&[group])
    }
}

/// The lines from the first to the last mark.
fn snippet<'a>(file: &'a File, primary: Option<&Span>, related: &[&Related]) -> Snippet<'a, Annotation<'a>> {
    let spans = || primary.into_iter().chain(related.iter().map(|r| &r.span));
    let text = &file.text;
    let first = spans().map(|s| s.bytes.start).min().unwrap_or_default();
    let last = spans().map(|s| s.bytes.end).max().unwrap_or_default();
    let start = text[..first].rfind('\n').map_or(0, |at| at + 1);
    let end = text[last..].find(['\n', '\r']).map_or(text.len(), |at| last + at);
    let line = spans().map(|s| s.line).min().unwrap_or(1);
    let within = |s: &Span| s.bytes.start - start..s.bytes.end - start;
    Snippet::source(&text[start..end])
        .line_start(line as usize)
        .path(sanitise(shown_name(&file.name)).into_owned())
        .annotations(primary.map(|s| AnnotationKind::Primary.span(within(s))))
        .annotations(
            related.iter().map(|r| {
                AnnotationKind::Context.span(within(&r.span)).label(sanitise(&r.label).into_owned())
            }),
        )
}

fn shown_name(name: &str) -> &str {
    if name == "-" { "<stdin>" } else { name }
}
