//! 10,000 Services with 10 endpoints each: a change costs what it touches.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use balancing_agent::{
    compile::{Compiler, NodeContext},
    snapshot::{Converter, Dirty, ObjectChange, Snapshot},
    source::manifests,
};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;

fn slice(i: usize, shift: usize) -> String {
    let (high, low) = (i / 250, i % 250);
    let mut text = format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{i}-abcde","namespace":"ns-{}","labels":{{"kubernetes.io/service-name":"svc-{i}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":["#,
        i % 50
    );
    for e in 0..ENDPOINTS {
        let comma = if e == 0 { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"addresses":["10.{}.{high}.{low}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"node-{}","targetRef":{{"kind":"Pod","namespace":"ns-{}","name":"svc-{i}-6d4cf56db6-{e:05}"}}}}"#,
            e + shift + 1,
            (i + e) % 1000,
            i % 50
        );
    }
    text + "]}"
}

fn service(i: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{i}","namespace":"ns-{}"}},"spec":{{"clusterIP":"172.16.{}.{}","ports":[{{"name":"http","port":80}}]}}}}"#,
        i % 50,
        i / 250,
        i % 250 + 1
    )
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn apply(snapshot: &mut Snapshot, converter: &mut Converter, text: &str) -> Dirty {
    let (records, problems) = manifests::objects(text, converter);
    assert_eq!(problems, Vec::<String>::new());
    snapshot.apply(records.into_iter().map(ObjectChange::set))
}

#[test]
fn a_change_costs_what_it_touches() {
    let mut converter = Converter::default();
    let mut snapshot = Snapshot::default();
    // Code and allocator warm: what grows from here on is what is held.
    apply(&mut Snapshot::default(), &mut converter, &(service(0) + "\n---\n" + &slice(0, 0)));
    let before = resident();
    let began = Instant::now();
    for i in 0..SERVICES {
        apply(&mut snapshot, &mut converter, &(service(i) + "\n---\n" + &slice(i, 0)));
    }
    let (read, records) = (began.elapsed(), resident().saturating_sub(before));
    let context = NodeContext { node: "node-1".into(), ..NodeContext::default() };
    let mut compiler = Compiler::default();
    let began = Instant::now();
    let changes = compiler.compile(&snapshot, &context, &Dirty::everything());
    let full = began.elapsed();
    assert_eq!(changes.frontends.len(), SERVICES);
    assert!(
        changes
            .frontends
            .iter()
            .all(|(_, l)| l.as_ref().unwrap().service.as_ref().unwrap().backends.len() == ENDPOINTS)
    );
    drop(changes);
    let all = resident().saturating_sub(before);

    let mut times: Vec<Duration> = (0..51)
        .map(|i| {
            let dirty = apply(&mut snapshot, &mut converter, &slice(i * 100, 1));
            let began = Instant::now();
            let changes = compiler.compile(&snapshot, &context, &dirty);
            assert_eq!((changes.frontends.len(), changes.policies.len()), (1, 0));
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "read {read:?}, records {records} B, compiled {full:?}, with the result {all} B, one change {:?}",
        times[25]
    );
    // Four orders of magnitude lie between them; two are asked for.
    assert!(times[25] * 100 < full, "one change {:?}, all {full:?}", times[25]);
}
