//! The model and its screens, without a terminal.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend};

use super::{
    fit,
    model::{Effect, Link, Model, Msg, Screen},
    view,
};
use crate::{
    columns::RowId,
    fixture::{World, bl, lr, snapshots, world},
    sample::{Board, NodeSample, Sample},
    top::What,
};

fn sample(world: &World) -> Sample {
    Sample::of_one(NodeSample {
        status: world.status.clone(),
        frontends: world.programmed.clone(),
        counters: world.counters.clone(),
    })
}

fn board(world: &World) -> Arc<Board> {
    Arc::new(Board::new(sample(&world.later(2000)), Some(&sample(world))))
}

fn first_board(world: &World) -> Arc<Board> {
    Arc::new(Board::new(sample(world), None))
}

fn model(size: (u16, u16)) -> Model {
    let mut model = Model::new(
        "unix:/run/balancing/agent.sock".to_owned(),
        What::Policies,
        Duration::from_secs(2),
        true,
        true,
    );
    model.update(Msg::Resize(size.0, size.1));
    model
}

fn live(size: (u16, u16), world: &World) -> Model {
    let mut model = model(size);
    model.update(Msg::Data(board(world)));
    model
}

fn key(code: KeyCode) -> Msg {
    Msg::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn press(model: &mut Model, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        model.update(key(code));
    }
}

fn screen(model: &Model) -> String {
    if model.size.0 == 0 {
        // The text form of the test terminal cannot be of no width; drawing on it must be possible all the same.
        let mut terminal = Terminal::new(TestBackend::new(0, model.size.1)).unwrap();
        terminal.draw(|frame| view::view(model, frame)).unwrap();
        return String::new();
    }
    let mut terminal = Terminal::new(TestBackend::new(model.size.0, model.size.1)).unwrap();
    terminal.draw(|frame| view::view(model, frame)).unwrap();
    terminal.backend().to_string().lines().map(|l| l.trim_matches('"').trim_end().to_owned() + "\n").collect()
}

/// The same situation on both sizes.
fn shows(name: &str, situation: impl Fn((u16, u16)) -> Model) {
    snapshots().bind(|| {
        for size in [(80, 24), (120, 40)] {
            insta::assert_snapshot!(format!("top-{name}-{}x{}", size.0, size.1), screen(&situation(size)));
        }
    });
}

#[test]
fn screens_of_tables() {
    shows("live-policies", |size| live(size, &world()));
    shows("live-frontends", |size| {
        let mut model = live(size, &world());
        press(&mut model, "2");
        model
    });
    shows("live-backends", |size| {
        let mut model = live(size, &world());
        press(&mut model, "3jj");
        model
    });
    shows("sorted-filtered", |size| {
        let mut model = live(size, &world()).starting_with(None, "!notselected");
        press(&mut model, "sss");
        model
    });
    shows("typing-a-filter", |size| {
        let mut model = live(size, &world());
        press(&mut model, "/dns");
        model
    });
    shows("many-rows", |size| {
        let mut many = world();
        for i in 0..200 {
            let mut policy = many.status.policies[0].clone();
            policy.name = format!("policy-{i:03}");
            many.status.policies.push(policy);
        }
        let mut model = live(size, &many);
        press(&mut model, "Gkkk");
        model
    });
}

#[test]
fn screens_of_a_policy() {
    for (name, keys) in
        [("effective", "jjjjjj\n"), ("no-local-pod", "jjj\n"), ("not-ready", "jjjj\n"), ("conflict", "jj\n")]
    {
        shows(&format!("policy-{name}"), |size| {
            let mut model = live(size, &world());
            press(&mut model, keys);
            model
        });
    }
}

#[test]
fn screens_of_states() {
    shows("connecting", |size| {
        let mut model = model(size);
        model.update(Msg::Second);
        model
    });
    shows("first-sample", |size| {
        let mut model = model(size);
        model.update(Msg::Data(first_board(&world())));
        model
    });
    shows("empty", |size| {
        let mut empty = world();
        empty.status.policies.clear();
        live(size, &empty)
    });
    shows("filter-hides-all", |size| live(size, &world()).starting_with(None, "nothing-like-it").settled());
    shows("paused", |size| {
        let mut model = live(size, &world());
        press(&mut model, " ");
        model
    });
    shows("disconnected", |size| {
        let mut model = live(size, &world());
        model.update(Msg::Lost { error: "Connection refused".to_owned(), attempt: 2, retry_in: 3 });
        model
    });
    shows("help", |size| {
        let mut model = live(size, &world());
        press(&mut model, "?");
        model
    });
    shows("problems", |size| {
        let mut broken = world();
        broken.condition("ProgramsAttached", "False", "Detached", "connect4 has no program of this agent");
        broken.source_error("20-policy.yaml", 7, "LocalRedirectPolicy/typo", "port \"abc\" is no number");
        live(size, &broken)
    });
}

#[test]
fn a_terminal_that_is_too_small() {
    snapshots().bind(|| {
        insta::assert_snapshot!("top-too-small-33x5", screen(&live((33, 5), &world())));
        insta::assert_snapshot!("top-live-policies-40x6", screen(&live((40, 6), &world())));
        insta::assert_snapshot!("top-live-policies-60x15", screen(&live((60, 15), &world())));
        let mut plain = live((80, 24), &world());
        (plain.unicode, plain.colour) = (false, false);
        insta::assert_snapshot!("top-ascii-80x24", screen(&plain));
    });
}

impl Model {
    fn settled(mut self) -> Self {
        let size = self.size;
        self.update(Msg::Resize(size.0, size.1));
        self
    }

    fn selected(&self) -> Option<RowId> {
        self.table(self.what()).selected.clone()
    }
}

#[test]
fn the_selection_stays_on_its_row() {
    let mut model = live((80, 24), &world());
    press(&mut model, "jjjj");
    let selected = Some(RowId::Policy(lr("log-cache")));
    assert_eq!(model.selected(), selected);
    // Sorted by anything, turned round, with new data, and behind a filter that lets it through.
    press(&mut model, "sssi");
    assert_eq!(model.selected(), selected);
    let mut changed = world();
    changed.policy("edge-proxy").name = "aaa".to_owned();
    model.update(Msg::Data(board(&changed)));
    press(&mut model, "/cache\n");
    assert_eq!(model.selected(), selected);
    press(&mut model, "\u{1b}");
    assert_eq!(model.selected(), selected);
    // Gone: its neighbour.
    changed.status.policies.retain(|p| p.name != "log-cache");
    model.update(Msg::Data(board(&changed)));
    assert!(model.selected().is_some_and(|id| Some(id) != selected));
}

#[test]
fn every_key_of_a_table() {
    let mut model = live((80, 24), &world());
    press(&mut model, "G");
    assert_eq!(model.selected(), Some(RowId::Policy(lr("zoned"))));
    press(&mut model, "g");
    assert_eq!(model.selected(), Some(RowId::Policy(lr("lost"))));
    press(&mut model, "3");
    assert_eq!(model.screen, Screen::Table(What::Backends));
    press(&mut model, "\n");
    assert_eq!(model.screen, Screen::Policy { policy: bl("edge-proxy"), from: What::Backends, scroll: 0 });
    press(&mut model, "\u{1b}2j\n");
    assert!(matches!(&model.screen, Screen::Policy { policy, .. } if policy.name == "node-local-dns"));
    press(&mut model, "1?");
    assert!(model.help.is_none() || matches!(model.screen, Screen::Table(What::Policies)));
    let effect = |model: &mut Model, c| model.update(key(KeyCode::Char(c))).effects;
    press(&mut model, "\u{1b}");
    assert_eq!(effect(&mut model, '+'), [Effect::Interval(Duration::from_secs(5))]);
    assert_eq!(effect(&mut model, '-'), [Effect::Interval(Duration::from_secs(2))]);
    assert_eq!(effect(&mut model, '-'), [Effect::Interval(Duration::from_secs(1))]);
    assert_eq!(effect(&mut model, '-'), []);
    assert_eq!(effect(&mut model, 'r'), [Effect::Refresh]);
    assert_eq!(effect(&mut model, 'q'), [Effect::Quit]);
    let stop = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.update(Msg::Key(stop)).effects, [Effect::Quit]);
    // While a filter is typed, letters are letters and Ctrl-C still leaves.
    press(&mut model, "/q1 ");
    assert_eq!(model.table(What::Policies).filter, "q1 ");
    assert_eq!(model.update(Msg::Key(stop)).effects, [Effect::Quit]);
}

#[test]
fn sorting_walks_through_the_columns_and_back() {
    let mut model = live((80, 24), &world());
    let before = model.table(What::Policies).order.clone();
    let mut seen = Vec::new();
    loop {
        press(&mut model, "s");
        match model.table(What::Policies).sort {
            Some(sort) => seen.push(sort.column),
            None => break,
        }
        assert!(seen.len() < 50);
    }
    assert!(seen.len() >= 5 && seen.is_sorted());
    assert_eq!(model.table(What::Policies).order, before);
}

#[test]
fn idle_and_paused_draw_nothing() {
    let mut model = live((80, 24), &world());
    let same = model.board.clone().unwrap();
    assert!(!model.update(Msg::Data(same)).draw);
    assert!(!model.update(Msg::Second).draw && !model.counts_seconds());
    assert!(!model.update(Msg::Resize(80, 24)).draw);
    assert!(!model.update(key(KeyCode::Char('x'))).draw);
    assert!(!model.update(key(KeyCode::Up)).draw);
    assert_eq!(model.update(key(KeyCode::Char(' '))).effects, [Effect::Pause(true)]);
    let before = screen(&model);
    assert!(!model.update(Msg::Data(board(&world().later(60_000)))).draw);
    assert!(!model.update(Msg::Lost { error: "x".to_owned(), attempt: 1, retry_in: 1 }).draw);
    assert!(!model.update(Msg::Second).draw && !model.counts_seconds());
    assert_eq!(screen(&model), before);
    assert_eq!(model.update(key(KeyCode::Char(' '))).effects, [Effect::Pause(false)]);
}

#[test]
fn a_lost_agent_counts_down_and_returns() {
    let mut model = live((80, 24), &world());
    assert!(model.update(Msg::Lost { error: "gone".to_owned(), attempt: 3, retry_in: 2 }).draw);
    assert!(model.counts_seconds() && screen(&model).contains("RECONNECTING in 2s (3): gone"));
    assert!(model.update(Msg::Second).draw && screen(&model).contains("in 1s"));
    assert!(screen(&model).contains("node-local-dns"));
    model.update(Msg::Data(board(&world())));
    assert_eq!(model.link, Link::Live);
    // Never seen at all: the shell says why on the normal screen.
    let failed =
        super::tests::model((80, 24)).update(Msg::Lost { error: "x".to_owned(), attempt: 1, retry_in: 1 });
    assert_eq!(failed.effects, [Effect::Fail]);
}

#[test]
fn ten_thousand_rows_are_no_burden() {
    let mut many = world();
    for i in 0..10_000 {
        let mut policy = many.status.policies[0].clone();
        policy.name = format!("policy-{i}");
        many.status.policies.push(policy);
    }
    let mut model = live((120, 40), &many);
    press(&mut model, "G");
    assert_eq!(model.shown_rows(What::Policies).len(), usize::from(model.areas().rows()));
    assert!(screen(&model).contains("zoned"));
}

fn worlds() -> impl Strategy<Value = World> {
    ("\\PC{0,300}|[a-z-]{1,253}", 0usize..40, any::<bool>(), 0i64..100_000).prop_map(
        |(name, more, broken, later)| {
            let mut world = world().later(later);
            world.policy("zoned").name = name.clone();
            world.policy("typo").message = format!("{name}\n\u{1b}[31m{name}");
            for i in 0..more {
                let mut policy = world.status.policies[i % 8].clone();
                policy.name = format!("{name}{i}");
                world.status.policies.push(policy);
            }
            if broken {
                world.condition("SourcesSynced", "False", "SourceErrors", &name);
                world.programmed.items.truncate(more % 8);
            }
            world
        },
    )
}

fn messages() -> impl Strategy<Value = Msg> {
    let letter = prop_oneof![
        prop::sample::select("?/123si +-=rkjgGqx!漢e\u{301}".chars().collect::<Vec<_>>())
            .prop_map(KeyCode::Char),
        prop::sample::select(vec![
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Backspace,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::F(1),
            KeyCode::Tab,
        ]),
    ];
    prop_oneof![
        10 => (letter, prop::sample::select(vec![KeyModifiers::NONE, KeyModifiers::SHIFT, KeyModifiers::CONTROL]))
            .prop_map(|(code, modifiers)| Msg::Key(KeyEvent::new(code, modifiers))),
        3 => (0u16..=300, 0u16..=100).prop_map(|(w, h)| Msg::Resize(w, h)),
        1 => (0u16..60, 0u16..16).prop_map(|(w, h)| Msg::Resize(w, h)),
        3 => worlds().prop_map(|w| Msg::Data(board(&w))),
        1 => worlds().prop_map(|w| Msg::Data(first_board(&w))),
        1 => Just(Msg::Data(Arc::new(Board::new(Sample::default(), None)))),
        1 => ("\\PC{0,80}", 0u32..20, 0u64..20)
            .prop_map(|(error, attempt, retry_in)| Msg::Lost { error, attempt, retry_in }),
        1 => Just(Msg::Second),
        1 => "\\PC{0,300}".prop_map(Msg::Paste),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sequence of events at any size: no panic, nothing unsafe on the screen, and an event that is said to change
    /// nothing changes nothing.
    #[test]
    fn whatever_happens(all in prop::collection::vec(messages(), 1..40), start in (0u16..=300, 0u16..=100)) {
        let mut model = model(start);
        let mut before = screen(&model);
        for message in all {
            let selected = (model.what(), model.selected());
            let is_data = matches!(message, Msg::Data(_));
            let told = format!("{message:?}");
            let update = model.update(message);
            let after = screen(&model);
            prop_assert!(!after.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(update.draw || after == before, "{told}");
            if let (true, (what, Some(id)), Some(board)) = (is_data && !model.paused, &selected, &model.board) {
                let still = match id {
                    RowId::Policy(p) => board.policies.iter().any(|r| r.policy == *p),
                    RowId::Frontend(f) => board.frontends.iter().any(|r| r.frontend == *f),
                    RowId::Node(n) => board.nodes.iter().any(|r| r.name == *n),
                    RowId::Problem(..) | RowId::Event(_) => false,
                    RowId::Backend(b) => board.backends.iter().any(|r| r.address == b.address && r.owner == b.owner),
                };
                let filtered = !model.table(*what).filter.is_empty();
                if still && !filtered && !matches!(id, RowId::Backend(_)) {
                    prop_assert_eq!(&model.selected(), &selected.1);
                }
            }
            before = after;
        }
    }

    #[test]
    fn cut_text_has_the_width_it_should(text in "\\PC{0,60}", cells in 0u16..80, right: bool, unicode: bool) {
        for ellipsis in [crate::columns::Ellipsis::Right, crate::columns::Ellipsis::Middle] {
            let cut = fit::fit(&text, cells, ellipsis, right, unicode);
            prop_assert_eq!(fit::width(&cut), cells, "{:?}", cut);
        }
    }
}

#[test]
fn long_text_is_cut_where_it_tells_least() {
    use crate::columns::Ellipsis;
    assert_eq!(fit::fit("10.96.0.10:53/UDP", 11, Ellipsis::Middle, false, true), "10.96…3/UDP");
    assert_eq!(fit::fit("10.96.0.10:53/UDP", 11, Ellipsis::Right, false, false), "10.96.0.10~");
    assert_eq!(fit::fit("漢字漢字", 5, Ellipsis::Right, false, true), "漢字…");
    assert_eq!(fit::fit("7", 3, Ellipsis::Right, true, true), "  7");
}
