//! What is shown, as files. Pure but for [`save`].

use std::{
    io,
    path::{Path, PathBuf},
};

use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

use super::{model::Model, svg::svg, view::view};
use crate::top;

/// The screen as cells.
#[must_use]
pub fn paint(model: &Model) -> Buffer {
    let backend = TestBackend::new(model.size.0, model.size.1);
    // The backend is memory: nothing of this can fail.
    let Ok(mut terminal) = Terminal::new(backend);
    let Ok(_) = terminal.draw(|frame| view(model, frame));
    terminal.backend().buffer().clone()
}

/// The screen as text, without blanks at the ends of lines.
#[must_use]
pub fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for row in 0..buffer.area.height {
        let mut line = String::new();
        let mut skip = 0;
        for column in 0..buffer.area.width {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if let Some(cell) = buffer.cell((column, row)) {
                skip = super::fit::width(cell.symbol()).saturating_sub(1);
                line.push_str(cell.symbol());
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What is shown in three forms: (ending of the file's name, content).
#[must_use]
pub fn files(model: &Model) -> Vec<(&'static str, String)> {
    let buffer = paint(model);
    let mut files = vec![("txt", text(&buffer)), ("svg", svg(&buffer, model.theme))];
    if let Some(board) = model.board.as_deref()
        && let Ok(json) = top::json(
            model.what(),
            board,
            &model.table(model.what()).order,
            &model.events,
            model.origin.is_demo(),
        )
    {
        files.push(("json", json));
    }
    files
}

/// Where views and recordings are kept: a folder of the user's state.
#[must_use]
pub fn folder(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> PathBuf {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").filter(|p| p.is_absolute());
    let base = base.or_else(|| set("HOME").map(|home| home.join(".local/state")));
    base.unwrap_or_else(std::env::temp_dir).join("kubectl-balancing")
}

/// The name of a file about what is shown, without its ending: `policies-20261121T153109Z`.
#[must_use]
pub fn stem(model: &Model) -> String {
    let time = model.board.as_deref().map(|b| b.sample.taken_at()).unwrap_or_default();
    format!("{}-{}", model.what().name(), time.strftime("%Y%m%dT%H%M%SZ"))
}

/// Saves what is shown -> the path without the ending.
pub fn save(model: &Model, folder: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(stem(model));
    for (ending, content) in files(model) {
        std::fs::write(path.with_extension(ending), content)?;
    }
    Ok(path)
}

/// The text as base64, which the clipboard of a terminal takes.
#[must_use]
pub fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = part.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= part.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text), encoded);
        }
    }

    #[test]
    fn the_folder_is_the_users() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> =
                pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            folder(move |name| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.into()))
        };
        assert_eq!(of(&[("HOME", "/h")]), PathBuf::from("/h/.local/state/kubectl-balancing"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), PathBuf::from("/s/kubectl-balancing"));
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]),
            PathBuf::from("/h/.local/state/kubectl-balancing")
        );
    }
}
