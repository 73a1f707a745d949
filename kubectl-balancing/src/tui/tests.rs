//! The model and its screens, without a terminal.

use std::{sync::Arc, time::Duration};

use balancing_api::{
    agent::{BackendAddress, Event, EventOutcome, EventSource, PolicyState, Process, WantedPod},
    net::Protocol,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::SignedDuration;
use proptest::prelude::*;

use super::{
    export, fit,
    model::{Effect, Link, Model, Msg, Screen},
    style::Theme,
    svg,
    traced::Traced,
};
use crate::{
    columns::RowId,
    demo::Demo,
    fixture::{World, bl, lr, snapshots, world},
    rows::What,
    sample::{Board, NodeSample, Sample},
    scope::Scope,
    source::Origin,
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
    export::text(&export::paint(model))
}

const SIZES: [(u16, u16); 5] = [(40, 6), (60, 15), (80, 24), (120, 40), (200, 50)];

/// The same situation on all sizes.
fn shows(name: &str, situation: impl Fn((u16, u16)) -> Model) {
    snapshots().bind(|| {
        for size in SIZES {
            insta::assert_snapshot!(format!("top-{name}-{}x{}", size.0, size.1), screen(&situation(size)));
        }
    });
}

/// The synthetic cluster after so many seconds.
fn demo(size: (u16, u16), seconds: u64) -> Model {
    let mut model = model(size);
    model.origin = Origin::Demo;
    let (mut demo, mut before) = (Demo::new(1, 12), None);
    for _ in 0..seconds / 2 {
        let board = Board::new(demo.next(Duration::from_secs(2)), before.as_ref());
        before = Some(board.sample.clone());
        model.update(Msg::Data(Arc::new(board)));
    }
    model
}

/// A picture in the folder of snapshots: written where insta is told to write, else compared.
fn picture(name: &str, svg: &str) {
    let path = format!("{}/../snapshots/{name}.svg", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always") {
        std::fs::write(&path, svg).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == svg, "{path} is not what is drawn now; INSTA_UPDATE=always writes it anew");
}

#[test]
fn screens_of_tables() {
    shows("live-policies", |size| live(size, &world()));
    shows("live-frontends", |size| {
        let mut model = live(size, &world());
        press(&mut model, "3");
        model
    });
    shows("live-backends", |size| {
        let mut model = live(size, &world());
        press(&mut model, "4jj");
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
fn screens_of_the_synthetic_cluster() {
    let keys = |keys: &'static str| {
        move |size| {
            let mut model = demo(size, 180);
            press(&mut model, keys);
            model
        }
    };
    shows("demo-policies", keys(""));
    shows("demo-policy", keys("/name=node-local-dns\n\n"));
    shows("demo-balancing", keys("/edge\n\n"));
    shows("demo-nodes", keys("2"));
    shows("demo-node-maps", keys("2/demo-06\n\n"));
    shows("demo-problems", keys("6"));
    shows("demo-explain", keys("/metrics\ne"));
    shows("stale-node", |size| {
        let mut model = demo(size, 50);
        press(&mut model, "2");
        model
    });
    shows("replay", |size| {
        let mut model = demo(size, 20);
        model.origin = Origin::Replay { speed: 4.0, demo: true };
        model
    });
    shows("replay-ended", |size| {
        let mut model = demo(size, 20);
        model.origin = Origin::Replay { speed: 4.0, demo: false };
        model.update(Msg::Ended);
        model
    });
}

#[test]
fn pictures() {
    for (name, keys) in [
        ("policies", ""),
        ("policy", "/name=node-local-dns\n\n"),
        ("nodes", "2"),
        ("node", "2/demo-06\n\n"),
        ("problems", "6"),
    ] {
        let mut model = demo((120, 40), 180);
        press(&mut model, keys);
        picture(&format!("top-{name}"), &svg::svg(&export::paint(&model), model.theme));
    }
    for (name, theme) in [("light", Theme::Light), ("mono", Theme::Mono), ("cb", Theme::Cb)] {
        let mut model = demo((120, 40), 180);
        model.theme = theme;
        picture(&format!("top-theme-{name}"), &svg::svg(&export::paint(&model), model.theme));
    }
}

/// The page of the live view: its keys are those of the one key map.
#[test]
fn the_page_of_the_live_view() {
    use std::fmt::Write as _;
    let mut keys = String::from("| key | what it does |\n|---|---|\n");
    for b in super::keys::KEYS {
        let _ = writeln!(keys, "| `{}` | {} |", b.label.replace('`', "'"), b.help.replace('|', "\\|"));
    }
    let page = include_str!("top.md").replace("KEYS\n", &keys);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/top.md");
    if std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always") {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == page,
        "{path}; INSTA_UPDATE=always writes it anew"
    );
}

/// A script of keys over the synthetic cluster: `run SAMPLES` without a picture, `wait SAMPLES`, `key KEYS`, `expect TEXT`. The picture shows what each
/// step led to.
#[test]
fn the_animated_demo() {
    const SCRIPT: &str = include_str!("demo.keys");
    let mut model = model((110, 32));
    model.origin = Origin::Demo;
    let (mut demo, mut before) = (Demo::new(1, 12), None);
    let mut frames: Vec<(ratatui::buffer::Buffer, f64)> = Vec::new();
    let shot =
        |model: &Model, frames: &mut Vec<_>, seconds: f64| frames.push((export::paint(model), seconds));
    for line in SCRIPT.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (step, text) = line.split_once(' ').unwrap();
        match step {
            "wait" => {
                for _ in 0..text.parse::<u64>().unwrap() {
                    let board = Board::new(demo.next(Duration::from_secs(2)), before.as_ref());
                    before = Some(board.sample.clone());
                    model.update(Msg::Data(Arc::new(board)));
                    shot(&model, &mut frames, 0.8);
                }
            }
            "run" => {
                for _ in 0..text.parse::<u64>().unwrap() {
                    let board = Board::new(demo.next(Duration::from_secs(2)), before.as_ref());
                    before = Some(board.sample.clone());
                    model.update(Msg::Data(Arc::new(board)));
                }
            }
            "key" => {
                let text = text.replace("Enter", "\n").replace("Esc", "\u{1b}");
                for c in text.chars() {
                    press(&mut model, c.encode_utf8(&mut [0; 4]));
                    shot(&model, &mut frames, if text.chars().count() > 1 { 0.15 } else { 0.4 });
                }
            }
            "expect" => assert!(screen(&model).contains(text), "{text} is missing:\n{}", screen(&model)),
            _ => panic!("{line}"),
        }
    }
    picture("top-demo", &svg::animation(&frames));
}

/// Set-ups that somebody who has never seen the product must understand from the screens alone: the cause is named in words
/// on the first screen of problems.
#[test]
fn ten_broken_set_ups() {
    fn broken(name: &str, reason: &str, words: &[&str], bend: impl Fn(&mut World)) {
        let mut world = world();
        world.status.policies.retain(|p| p.name == "node-local-dns" || p.name == "apiserver-cache");
        let good = world.policy("apiserver-cache");
        (good.state, good.reason, good.message) =
            (PolicyState::Programmed, "Programmed".to_owned(), String::new());
        world.counters.policies.clear();
        world.counters.frontends.clear();
        bend(&mut world);
        shows_broken(name, reason, words, |size| live(size, &world));
    }
    fn shows_broken(name: &str, reason: &str, words: &[&str], situation: impl Fn((u16, u16)) -> Model) {
        for size in &SIZES[1..] {
            let mut model = situation(*size);
            press(&mut model, "6");
            let text = screen(&model);
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(reason), "{reason}:\n{text}");
            // The least terminal names the cause; what to do next may need a key there.
            for words in words.iter().take(if size.0 < 80 { 1 } else { words.len() }) {
                assert!(flat.contains(words), "{words}:\n{text}");
            }
            assert!(flat.contains("n1"), "the node:\n{text}");
            let name = format!("top-broken-{name}-{}x{}", size.0, size.1);
            snapshots().bind(|| insta::assert_snapshot!(name, text));
        }
    }
    fn bent(world: &mut World, state: PolicyState, reason: &str, message: &str) {
        let p = world.policy("apiserver-cache");
        (p.state, p.reason, p.message) = (state, reason.to_owned(), message.to_owned());
        p.backends.programmed = 0;
    }
    let fallback = PolicyState::Fallback;
    broken("no-local-pod", "NoLocalBackend", &["matches no pod on node n1", "kubectl get pods"], |w| {
        bent(
            w,
            fallback,
            "NoLocalBackend",
            "selector app=apiserver-cache matches no pod on node n1: normal resolution",
        );
    });
    broken(
        "wrong-selector",
        "NoLocalBackend",
        &["selector app=apiserver-cash", "is the selector right"],
        |w| {
            bent(
                w,
                fallback,
                "NoLocalBackend",
                "selector app=apiserver-cash matches no pod on node n1: normal resolution",
            );
            w.policy("apiserver-cache").wanted.selector = "app=apiserver-cash".to_owned();
        },
    );
    broken(
        "wrong-port-name",
        "PortMismatch",
        &["no backend port has the name", "same name and protocol"],
        |w| {
            let message = "no backend port has the name and protocol of frontend port 443/TCP \"https\"";
            bent(w, fallback, "PortMismatch", message);
        },
    );
    broken(
        "conflict",
        "FrontendConflict",
        &["is held by LocalRedirectPolicy/node-local-dns", "it is older"],
        |w| {
            let message = "10.96.0.10:53/UDP is held by LocalRedirectPolicy/node-local-dns: it is older";
            bent(w, PolicyState::Conflicted, "FrontendConflict", message);
        },
    );
    broken(
        "qos-saturated",
        "QosLimit",
        &["QoS saturated: the limit of 100/s is reached", "redirectsPerSecond"],
        |w| {
            w.counters = world().counters;
            w.counters.policies.retain(|c| c.policy.name == "node-local-dns");
            w.counters.frontends.clear();
        },
    );
    broken(
        "not-ready",
        "NoLocalBackend",
        &["kube-system/cache-1 is NotReady", "kubectl describe pod"],
        |w| {
            let message = "selector app=apiserver-cache matches no usable pod on node n1: kube-system/cache-1 is NotReady: \
                       normal resolution";
            bent(w, fallback, "NoLocalBackend", message);
            let pod = WantedPod {
                pod: "kube-system/cache-1".to_owned(),
                usable: false,
                reason: "NotReady".to_owned(),
            };
            w.policy("apiserver-cache").wanted.pods = vec![pod];
        },
    );
    broken(
        "vip-shadowed",
        "ShadowsService",
        &["is an address of Service web/api", "the Service is shadowed"],
        |w| {
            let item = w.programmed.items.iter_mut().find(|i| i.frontend.port == 443 && i.rungs.len() == 1);
            let item = item.filter(|i| i.rungs[0].policy.is_some());
            let item = match item {
                Some(item) => item,
                None => w
                    .programmed
                    .items
                    .iter_mut()
                    .find(|i| i.rungs[0].policy == Some(lr("apiserver-cache")))
                    .unwrap(),
            };
            let backend = crate::fixture::backend("10.244.9.9", 443, "web/api-0", "n2");
            item.rungs.push(crate::fixture::service_rung("web/api", "", vec![backend]));
        },
    );
    broken(
        "map-full",
        "MapFull",
        &["map backends on n1: the map is full", "restart the agent with a larger --max-backends"],
        |w| {
            let message = "169.254.0.90:443/TCP: map backends is full (131072 entries): raise --max-backends";
            w.condition("PoliciesProgrammed", "False", "MapFull", message);
            let map = w.status.datapath.maps.iter_mut().find(|m| m.name == "backends").unwrap();
            map.entries = map.capacity;
            bent(w, PolicyState::Failed, "MapFull", message);
        },
    );
    broken(
        "programs-detached",
        "Detached",
        &["connect4 has no program of this agent", "restart the agent"],
        |w| {
            w.condition("ProgramsAttached", "False", "Detached", "connect4 has no program of this agent");
            w.status.datapath.programs[0].attached = false;
        },
    );
    let words = ["the agent does not answer (Connection refused)", "start balancing-agent"];
    shows_broken("agent-stopped", "AgentStopped", &words, |size| {
        let mut stopped = live(size, &world());
        stopped.update(Msg::Lost { error: "Connection refused".to_owned(), attempt: 3, retry_in: 4 });
        press(&mut stopped, "2");
        assert!(screen(&stopped).contains("◌ Stale"));
        stopped
    });
}

/// A cluster of two nodes.
fn cluster(size: (u16, u16)) -> Model {
    let mut model = model(size);
    "cluster prod".clone_into(&mut model.agent);
    model.cluster = true;
    let named = |name: &str| {
        let mut world = world();
        name.clone_into(&mut world.status.node.name);
        NodeSample { status: world.status, frontends: world.programmed, counters: world.counters }
    };
    let sample = Sample { nodes: vec![named("n1"), named("n2")], ..Sample::default() };
    model.update(Msg::Data(Arc::new(Board::new(sample, None))));
    model
}

#[test]
fn a_cluster_that_does_not_answer_is_no_agent_that_stopped() {
    let mut model = cluster((120, 40));
    let lost = || Msg::Lost { error: "one:6443 refused the connection".to_owned(), attempt: 1, retry_in: 3 };
    model.update(lost());
    model.update(key(KeyCode::Char('6')));
    let shown = screen(&model);
    assert!(shown.contains("Unreachable") && shown.contains("does `kubectl get"), "{shown}");
    assert!(!shown.contains("balancing-agent") && !shown.contains("AgentStopped"), "{shown}");
    let mut model = self::model((120, 40));
    "cluster prod".clone_into(&mut model.agent);
    model.cluster = true;
    assert!(screen(&model).contains("Asking cluster prod ..."), "{}", screen(&model));
    model.update(lost());
    assert!(screen(&model).contains("No answer of cluster prod yet"), "{}", screen(&model));
}

#[test]
fn of_a_cluster_one_node_is_traced_at_a_time() {
    let mut model = cluster((120, 40));
    let press = |model: &mut Model, c: char| model.update(key(KeyCode::Char(c))).effects;
    let node = |name: &str| Effect::Trace(Some(Traced::Node(name.to_owned())));
    // Nobody is asked before it is known who.
    assert_eq!(press(&mut model, '5'), []);
    assert!(screen(&model).contains("Of which node?"), "{}", screen(&model));
    assert_eq!([press(&mut model, '2'), press(&mut model, 'j')], [[], []]);
    let second = model.selected();
    assert_eq!(second, Some(RowId::Node("n2".to_owned())));
    assert_eq!(press(&mut model, 't'), [node("n2")]);
    model.update(Msg::Events(events(9), 3));
    let shown = screen(&model);
    assert!(
        shown.contains(" node n2 ") && shown.contains("LOST 3") && shown.contains("10.96.0.10:53"),
        "{shown}"
    );
    // It breaks off: what is there stays, and is not taken for what happens now.
    model.update(Msg::TraceFailed("the agent ended it".to_owned()));
    assert!(screen(&model).contains("NOT LIVE"), "{}", screen(&model));
    model.update(Msg::Events(Vec::new(), 0));
    assert!(!screen(&model).contains("NOT LIVE"), "{}", screen(&model));
    assert_eq!(press(&mut model, '1'), [Effect::Trace(None)]);
    // That of a policy is asked of the node that was traced last.
    assert_eq!(press(&mut model, 't'), [node("n2")]);
    assert!(model.table(What::Trace).filter.starts_with("policy=") && !model.events.is_empty());
    // What another node decided is not shown as the first one's.
    press(&mut model, '2');
    press(&mut model, 'g');
    assert_eq!(press(&mut model, '5'), [node("n1")]);
    assert!(model.events.is_empty() && model.events_lost == 0);
    model.update(Msg::TraceFailed("you may not get x; ask with: kubectl auth can-i get x".to_owned()));
    assert!(screen(&model).contains("kubectl auth can-i get x"), "{}", screen(&model));
    // One agent has one trace, whichever row is selected.
    let mut one = live((120, 40), &world());
    assert_eq!(press(&mut one, '5'), [Effect::Trace(Some(Traced::Agent))]);
}

#[test]
fn screens_of_a_policy() {
    for (name, keys) in
        [("effective", "jjjjj\n"), ("no-local-pod", "jjj\n"), ("not-ready", "jjjj\n"), ("conflict", "jj\n")]
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
    shows("no-answer-yet", |size| {
        let mut model = model(size);
        let error = "No such file or directory".to_owned();
        model.update(Msg::Lost { error, attempt: 3, retry_in: 2 });
        model
    });
    shows("trace-replay", |size| {
        let mut model = live(size, &world());
        model.origin = Origin::Replay { speed: 1.0, demo: false };
        press(&mut model, "5");
        model
    });
    shows("one-policy", |size| {
        let mut model = model(size);
        let scope = Scope { policy: Some("lr/node-local-dns".parse().unwrap()), nodes: vec![] };
        model.scope = vec!["policy lr/node-local-dns".to_owned()];
        let part = |world: &World| scope.of(sample(world), true).unwrap();
        let board = Board::new(part(&world().later(2000)), Some(&part(&world())));
        model.update(Msg::Data(Arc::new(board)));
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
    shows("help-demo", |size| {
        let mut model = demo(size, 4);
        press(&mut model, "?");
        model
    });
    shows("counter-reset", |size| {
        let mut model = live(size, &world());
        let mut anew = world().later(4000);
        anew.counters.policies[0].redirects = 7;
        model.update(Msg::Data(Arc::new(Board::new(sample(&anew), Some(&sample(&world().later(2000)))))));
        model
    });
    shows("no-problems", |size| {
        let mut good = world();
        good.status.policies.retain(|p| p.name == "edge-proxy");
        good.counters.frontends.clear();
        let mut model = live(size, &good);
        press(&mut model, "6");
        model
    });
    shows("trace", |size| {
        let mut model = live(size, &world());
        press(&mut model, "5");
        model.update(Msg::Events(events(30), 12));
        model
    });
    shows("trace-waiting", |size| {
        let mut model = live(size, &world());
        press(&mut model, "5");
        model
    });
    shows("filter-wrong", |size| {
        let mut model = live(size, &world());
        press(&mut model, "/fail>0");
        model
    });
    shows("wide-exact", |size| {
        let mut model = live(size, &world());
        press(&mut model, "wu");
        model
    });
    shows("describe", |size| {
        let mut model = live(size, &world());
        press(&mut model, "jjd");
        model
    });
    shows("yaml", |size| {
        let mut model = live(size, &world());
        press(&mut model, "4y");
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
        let mut plain = live((80, 24), &world());
        (plain.unicode, plain.colour) = (false, false);
        insta::assert_snapshot!("top-ascii-80x24", screen(&plain));
    });
}

/// What the agent says of connections, one after the other.
fn events(count: u32) -> Vec<Event> {
    let outcomes =
        ["redirect", "redirect", "qosDrop", "service", "fallback", "refuse", "failure", "teleported"];
    (0..count)
        .map(|i| Event {
            time: crate::fixture::time("2026-11-21T15:31:07Z")
                + SignedDuration::from_millis(i64::from(i) * 37),
            outcome: EventOutcome::from(outcomes[i as usize % 8]),
            hook: "connect4".to_owned(),
            process: Process { pid: 4000 + i, comm: "curl\u{1b}[2J".to_owned() },
            cgroup_id: 77,
            pod: (i % 2 == 0).then(|| "default/web-0".to_owned()),
            container: None,
            from: EventSource { netns: 1 },
            to: crate::fixture::frontend("10.96.0.10", 53, Protocol::Udp),
            chosen: (i % 8 < 2).then(|| BackendAddress { address: "10.244.1.7".parse().unwrap(), port: 53 }),
            policy: (i % 3 != 0).then(|| lr("node-local-dns")),
            service: Some("kube-system/kube-dns".to_owned()),
            failure: (i % 8 == 2).then(|| "QosLimit".to_owned()),
        })
        .collect()
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
    press(&mut model, "4");
    assert_eq!(model.screens, [Screen::Table(What::Backends)]);
    press(&mut model, "\n");
    assert_eq!(*model.screen(), Screen::Policy { policy: bl("edge-proxy"), scroll: 0 });
    press(&mut model, "\u{1b}3j\n");
    assert!(matches!(model.screen(), Screen::Policy { policy, .. } if policy.name == "node-local-dns"));
    // A screen opened from a screen goes back to it.
    press(&mut model, "e");
    assert!(screen(&model).contains("frontends > lr/node-local-dns > explain lr/node-local-dns on n1"));
    press(&mut model, "\u{1b}");
    assert!(matches!(model.screen(), Screen::Policy { .. }));
    press(&mut model, "2\n");
    assert_eq!(*model.screen(), Screen::Node { name: "n1".to_owned(), scroll: 0 });
    press(&mut model, "6\n");
    assert!(matches!(model.screen(), Screen::Policy { .. } | Screen::Node { .. }));
    press(&mut model, "1?");
    let effect = |model: &mut Model, c| model.update(key(KeyCode::Char(c))).effects;
    press(&mut model, "\u{1b}");
    assert_eq!(effect(&mut model, '+'), [Effect::Interval(Duration::from_secs(5))]);
    assert_eq!(effect(&mut model, '-'), [Effect::Interval(Duration::from_secs(2))]);
    assert_eq!(effect(&mut model, '-'), [Effect::Interval(Duration::from_secs(1))]);
    assert_eq!(effect(&mut model, '-'), []);
    assert_eq!(effect(&mut model, 'r'), [Effect::Refresh]);
    assert_eq!(effect(&mut model, 'm'), [Effect::Mouse(true)]);
    assert_eq!(effect(&mut model, 'S'), [Effect::Save]);
    assert_eq!(effect(&mut model, 'R'), [Effect::Record(true)]);
    assert_eq!(effect(&mut model, 'c'), [Effect::Copy("lost".to_owned())]);
    assert_eq!(effect(&mut model, '5'), [Effect::Trace(Some(Traced::Agent))]);
    assert_eq!(effect(&mut model, '1'), [Effect::Trace(None)]);
    assert_eq!(effect(&mut model, 'q'), [Effect::Quit]);
    let stop = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.update(Msg::Key(stop)).effects, [Effect::Quit]);
    // While a filter is typed, letters are letters and Ctrl-C still leaves.
    press(&mut model, "/q1 ");
    assert_eq!(model.table(What::Policies).filter, "q1 ");
    press(&mut model, "\u{1b}");
    // Modes are told and go back.
    model.update(Msg::Resize(120, 40));
    for (key, shown) in [("f", "faults only"), ("F", "selection by line"), ("a", "rates smoothed")] {
        press(&mut model, key);
        assert!(screen(&model).contains(shown), "{shown}:\n{}", screen(&model));
    }
    press(&mut model, "a");
    assert!(screen(&model).contains("rates since start"));
    press(&mut model, "aFf");
    assert!(!screen(&model).contains("rates s") && !screen(&model).contains("faults only"));
    // Looking for something moves the selection and hides nothing.
    press(&mut model, "g\\dns\n");
    assert_eq!(model.selected(), Some(RowId::Policy(lr("shadow-dns"))));
    press(&mut model, "n");
    assert_eq!(model.selected(), Some(RowId::Policy(lr("node-local-dns"))));
    press(&mut model, "nN");
    assert_eq!(model.selected(), Some(RowId::Policy(lr("node-local-dns"))));
    assert_eq!(model.table(What::Policies).order.len(), 8);
    press(&mut model, "\\zzz\n");
    assert!(screen(&model).contains("no row has"));
    // A row's trace is filtered by its policy.
    press(&mut model, "t");
    assert_eq!(
        (model.what(), model.table(What::Trace).filter.as_str()),
        (What::Trace, "policy=lr/node-local-dns")
    );
    model.update(Msg::Events(events(9), 0));
    assert_eq!(model.table(What::Trace).order.len(), 6);
    // Tab goes through all tables.
    let mut seen = vec![];
    for _ in 0..6 {
        model.update(key(KeyCode::Tab));
        seen.push(model.what());
    }
    assert_eq!(
        seen,
        [What::Problems, What::Policies, What::Nodes, What::Frontends, What::Backends, What::Trace]
    );
    assert_eq!(model.update(Msg::Key(stop)).effects, [Effect::Quit]);
}

#[test]
fn keys_that_can_do_nothing_say_why() {
    let mut model = demo((80, 24), 4);
    for (key, why) in [
        ("t", "only an agent has a live trace"),
        ("i", "no column is sorted by"),
        ("n", "nothing to look for"),
    ] {
        press(&mut model, key);
        assert!(screen(&model).contains(why), "{key}:\n{}", screen(&model));
    }
    assert_eq!(model.what(), What::Policies);
    press(&mut model, "5");
    assert!(screen(&model).contains("No trace: the synthetic cluster has numbers alone"));
    let mut empty = super::tests::model((80, 24));
    for key in ["\n", "d", "y", "e", "t", "c"] {
        press(&mut empty, key);
        assert!(empty.notice.is_some(), "{key}");
    }
}

/// A key that changes nothing that is seen says so.
#[test]
fn more_columns_need_room() {
    for (size, room) in [((80, 24), false), ((200, 50), true)] {
        let mut model = live(size, &world());
        press(&mut model, "w");
        assert_eq!(screen(&model).contains("no room for more columns"), !room, "{size:?}");
        assert_eq!(screen(&model).contains("QOS-LIMIT"), room, "{size:?}");
    }
    // How many nodes have a policy is of interest where there are several.
    assert!(!screen(&live((120, 40), &world())).contains("NODES"));
    assert!(screen(&demo((120, 40), 4)).contains("NODES"));
}

#[test]
fn the_mouse_selects_and_sorts() {
    let mut model = live((120, 40), &world());
    let body = model.areas().body;
    assert!(model.update(Msg::Click(10, body.y + 3)).draw);
    assert_eq!(model.table(What::Policies).index, 2);
    assert!(!model.update(Msg::Click(10, body.y + 30)).draw);
    model.update(Msg::Click(6, body.y));
    assert_eq!(model.table(What::Policies).sort.map(|s| (s.column, s.descending)), Some((0, false)));
    model.update(Msg::Click(6, body.y));
    assert_eq!(model.table(What::Policies).sort.map(|s| (s.column, s.descending)), Some((0, true)));
}

#[test]
fn without_following_the_selection_stays_on_its_line() {
    let mut model = live((80, 24), &world());
    press(&mut model, "jjFs");
    assert_eq!(model.table(What::Policies).index, 2);
    press(&mut model, "i");
    assert_eq!(model.table(What::Policies).index, 2);
}

#[test]
fn whoever_has_not_moved_sees_the_newest_line_of_the_trace() {
    let mut model = live((80, 24), &world());
    press(&mut model, "5");
    model.update(Msg::Events(events(5), 0));
    model.update(Msg::Events(events(5), 0));
    assert_eq!(model.selected(), Some(RowId::Event(9)));
    press(&mut model, "jj");
    model.update(Msg::Events(events(5), 0));
    assert_eq!((model.selected(), model.table(What::Trace).index), (Some(RowId::Event(7)), 7));
    model.update(Msg::Events(events(3000), 0));
    assert_eq!(model.events.len(), 1000);
}

/// An hour at a fake clock: samples that change nothing and seconds that nobody counts draw nothing.
#[test]
fn an_idle_hour_draws_once() {
    let mut model = model((120, 40));
    let board = board(&world());
    let mut draws = 0;
    for second in 0..3600u32 {
        if second % 2 == 0 {
            draws += u32::from(model.update(Msg::Data(board.clone())).draw);
        }
        if model.counts_seconds() {
            draws += u32::from(model.update(Msg::Second).draw);
        }
    }
    assert_eq!(draws, 1);
    press(&mut model, " ");
    for later in 0..100 {
        draws += u32::from(model.update(Msg::Data(super::tests::board(&world().later(later * 1000)))).draw);
        draws += u32::from(model.update(Msg::Second).draw);
    }
    assert_eq!(draws, 1);
}

#[test]
fn views_are_saved_in_three_forms() {
    let model = demo((120, 40), 20);
    let files = export::files(&model);
    let of = |ending: &str| files.iter().find(|(e, _)| *e == ending).map(|(_, text)| text.as_str()).unwrap();
    assert!(of("txt").contains("DEMO DATA") && of("svg").contains("DEMO DATA"));
    let json: serde_json::Value = serde_json::from_str(of("json")).unwrap();
    assert_eq!((&json["kind"], &json["demo"]), (&"PolicyTop".into(), &true.into()));
    assert_eq!(export::stem(&model), "policies-20260101T120020Z");
}

#[test]
fn ascii_screens_are_ascii() {
    for keys in ["", "\n", "2", "2\n", "3", "4", "6", "?", "we"] {
        let mut model = demo((120, 40), 60);
        model.unicode = false;
        press(&mut model, keys);
        let text = screen(&model);
        assert!(text.is_ascii(), "{keys:?}: {:?}\n{text}", text.chars().find(|c| !c.is_ascii()));
    }
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
    // Never seen at all: it waits, says for whom, and what may be wrong.
    let mut never = super::tests::model((80, 24));
    let lost = never.update(Msg::Lost { error: "No such file".to_owned(), attempt: 1, retry_in: 1 });
    assert_eq!(lost.effects, []);
    assert!(never.counts_seconds() && screen(&never).contains("CONNECTING again in 1s (1): No such file"));
    assert!(never.update(Msg::Second).draw && screen(&never).contains("again now"));
    never.update(Msg::Data(board(&world())));
    assert!(screen(&never).contains("LIVE") && screen(&never).contains("node-local-dns"));
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
        prop::sample::select(
            "?/\\123456si +-=rkjgGqx!漢e\u{301}nNfwua[]zFedytcSRm~<>()".chars().collect::<Vec<_>>()
        )
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
        1 => Just(Msg::Ended),
        1 => (0u16..300, 0u16..100).prop_map(|(x, y)| Msg::Click(x, y)),
        1 => any::<bool>().prop_map(Msg::Wheel),
        2 => (0u32..60, 0u64..3).prop_map(|(n, lost)| Msg::Events(events(n), lost)),
        1 => "\\PC{0,80}".prop_map(Msg::TraceFailed),
        1 => "\\PC{0,80}".prop_map(Msg::Notice),
        1 => any::<bool>().prop_map(Msg::Recording),
        1 => (1u64..40).prop_map(|n| {
            let mut demo = Demo::new(n, n as u32);
            let before = demo.next(Duration::from_secs(n));
            Msg::Data(Arc::new(Board::new(demo.next(Duration::from_secs(1)), Some(&before))))
        }),
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
        let (mut draws, messages) = (0, all.len());
        for message in all {
            let selected = (model.what(), model.selected());
            let is_data = matches!(message, Msg::Data(_));
            let told = format!("{message:?}");
            let update = model.update(message);
            let after = screen(&model);
            prop_assert!(!after.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(update.draw || after == before, "{told}");
            draws += usize::from(update.draw);
            if let (true, (what, Some(id)), Some(board)) = (is_data && !model.paused, &selected, &model.board) {
                let still = match id {
                    RowId::Policy(p) => board.policies.iter().any(|r| r.policy == *p),
                    RowId::Frontend(f) => board.frontends.iter().any(|r| r.frontend == *f),
                    RowId::Node(n) => board.nodes.iter().any(|r| r.name == *n),
                    RowId::Problem(..) | RowId::Event(_) => false,
                    RowId::Backend(b) => board.backends.iter().any(|r| r.address == b.address && r.owner == b.owner),
                };
                let filtered = !model.table(*what).filter.is_empty() || model.faults || !model.follow;
                if still && !filtered && !matches!(id, RowId::Backend(_)) {
                    prop_assert_eq!(&model.selected(), &selected.1);
                }
            }
            before = after;
        }
        prop_assert!(draws <= messages);
    }

    #[test]
    fn lines_of_text_fit(text in "[ a-zé漢]{0,80}", cells in 2u16..60) {
        let lines = super::details::text_lines(std::slice::from_ref(&text), cells);
        let strip = |t: &str| t.chars().filter(|c| *c != ' ').collect::<String>();
        prop_assert_eq!(strip(&lines.concat()), strip(&text));
        if cells >= 12 {
            for line in &lines {
                prop_assert!(fit::width(line) <= cells, "{:?}", line);
            }
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
fn lines_of_text_go_on_below() {
    let lines = |text: &str, cells| super::details::text_lines(&[text.to_owned()], cells);
    assert_eq!(lines("  one two three", 10), ["  one two", "    three"]);
    assert_eq!(lines("abcdefghij", 4), ["abcd", "  ef", "  gh", "  ij"]);
    assert_eq!(lines("", 10), [""]);
    // Under the value of a key, unless there would be too little room.
    assert_eq!(lines("Kind:  one two three", 14), ["Kind:  one two", "       three"]);
    assert_eq!(lines("a-long-key  one two", 14), ["a-long-key", "  one two"]);
    assert_eq!(lines("plain words  one two", 12), ["plain words", "  one two"]);
}

#[test]
fn long_text_is_cut_where_it_tells_least() {
    use crate::columns::Ellipsis;
    assert_eq!(fit::fit("10.96.0.10:53/UDP", 11, Ellipsis::Middle, false, true), "10.96…3/UDP");
    assert_eq!(fit::fit("10.96.0.10:53/UDP", 11, Ellipsis::Right, false, false), "10.96.0.10~");
    assert_eq!(fit::fit("漢字漢字", 5, Ellipsis::Right, false, true), "漢字…");
    assert_eq!(fit::fit("7", 3, Ellipsis::Right, true, true), "  7");
}
