//! Where things are on a screen of any size.

use ratatui::layout::Rect;

/// Below this nothing sensible fits.
pub const LEAST: (u16, u16) = (40, 6);

/// The parts of the screen, from top to bottom. A part that has no room has no height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas {
    /// State of the link, node, time.
    pub header: Rect,
    /// Tabs or breadcrumb, sort and filter.
    pub tabs: Rect,
    /// Totals of the node.
    pub totals: Rect,
    /// The same over time.
    pub trends: Rect,
    /// What concerns whole nodes.
    pub problems: Rect,
    /// The table with its header, or a policy.
    pub body: Rect,
    /// The selected row in words.
    pub detail: Rect,
    /// Keys.
    pub footer: Rect,
}

impl Areas {
    /// Rows of a table that fit below its header.
    #[must_use]
    pub fn rows(&self) -> u16 {
        self.body.height.saturating_sub(1)
    }
}

/// Is the terminal too small?
#[must_use]
pub fn too_small(size: (u16, u16)) -> bool {
    size.0 < LEAST.0 || size.1 < LEAST.1
}

/// Which parts that not every screen has this one has, if there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Lines that [`Areas::problems`] would fill.
    pub problems: u16,
    /// See [`Areas::detail`].
    pub detail: bool,
    /// Lines that the selected row in words would fill.
    pub detail_lines: u16,
    /// Are its words what the screen is about?
    pub wordy: bool,
    /// Rows that the table has. What they leave of the body, the words may have.
    pub rows: usize,
    /// See [`Areas::totals`].
    pub totals: bool,
    /// See [`Areas::trends`].
    pub trends: bool,
}

/// The parts of a screen of so many columns and rows.
#[must_use]
pub fn areas(size: (u16, u16), parts: Parts) -> Areas {
    let (width, height) = size;
    let mut areas = Areas::default();
    if too_small(size) {
        return areas;
    }
    let mut top = 0;
    let mut bottom = height;
    let mut take_top = |rows: u16| {
        let area = Rect::new(0, top, width, rows);
        top += rows;
        area
    };
    areas.header = take_top(1);
    areas.tabs = take_top(u16::from(height >= 8));
    areas.totals = take_top(u16::from(parts.totals && height >= 14));
    areas.trends = take_top(u16::from(parts.trends && height >= 30 && width >= 100));
    areas.problems = take_top(parts.problems.min(match height {
        0..10 => 0,
        10..24 => 1,
        _ => 2,
    }));
    let mut take_bottom = |rows: u16| {
        bottom -= rows;
        Rect::new(0, bottom, width, rows)
    };
    areas.footer = take_bottom(1);
    let least = match height {
        _ if !parts.detail => 0,
        0..10 => 0,
        10..14 => 1,
        14..20 => 1 + u16::from(parts.wordy),
        20..30 => 2 + 2 * u16::from(parts.wordy),
        _ => 3 + 2 * u16::from(parts.wordy),
    };
    // The table begins at the top: what it leaves is at its end, and nothing moves that is looked at.
    // Where it has no rows, that is said in their place.
    let table = u16::try_from(parts.rows).unwrap_or(u16::MAX).saturating_add(1).max(2);
    let free = (height - 1 - least).saturating_sub(top).saturating_sub(table);
    let more = if parts.detail { parts.detail_lines.saturating_sub(least).min(free) } else { 0 };
    areas.detail = take_bottom(least + more);
    areas.body = Rect::new(0, top, width, bottom - top);
    areas
}

/// First row shown, so that the selected one is and no room is left empty.
#[must_use]
pub fn window(offset: usize, selected: usize, rows: usize, height: usize) -> usize {
    if height == 0 {
        return selected.min(rows.saturating_sub(1));
    }
    let offset = offset.min(selected).min(rows.saturating_sub(height));
    offset.max((selected + 1).saturating_sub(height))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_leave_room_to_say_that_there_are_no_rows() {
        let parts = Parts {
            problems: 0,
            detail: true,
            detail_lines: 3,
            wordy: false,
            rows: 0,
            totals: false,
            trends: false,
        };
        assert_eq!(areas((40, 6), parts).body.height, 2);
    }

    proptest! {
        #[test]
        fn parts_fill_the_screen_without_overlap(
            width in 0u16..400, height in 0u16..200, problems in 0u16..5, detail: bool, totals: bool,
            trends: bool, wordy: bool, detail_lines in 0u16..50, rows in 0usize..300
        ) {
            let a = areas((width, height), Parts { problems, detail, detail_lines, wordy, rows, totals, trends });
            prop_assume!(!too_small((width, height)));
            let mut next = 0;
            for part in [a.header, a.tabs, a.totals, a.trends, a.problems, a.body, a.detail, a.footer] {
                prop_assert_eq!(part.y, next);
                prop_assert_eq!(part.width, width);
                next += part.height;
            }
            prop_assert_eq!(next, height);
            prop_assert!(a.body.height >= 2, "{}", a.body.height);
            // Rows that there is room for are not hidden by words.
            let without = areas((width, height), Parts { problems, detail, detail_lines: 0, wordy, rows, totals, trends });
            prop_assert!(usize::from(a.rows()) >= rows.min(usize::from(without.rows())));
        }

        #[test]
        fn the_selected_row_is_in_the_window(
            offset in 0usize..200, selected in 0usize..100, more in 1usize..100, height in 1usize..50
        ) {
            let rows = selected + more;
            let first = window(offset, selected, rows, height);
            prop_assert!(first <= selected && selected < first + height);
            prop_assert!(first + height <= rows || first == 0);
        }
    }
}
