use k8s_openapi::api::core::v1::{Pod, Service};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn value(yaml: &str) -> Value {
    let parsed = parse(&format!("apiVersion: v1\nkind: X\nv: {yaml}\n"));
    assert_eq!(parsed.error, None, "{yaml}");
    parsed.objects[0].value["v"].clone()
}

fn error(yaml: &str) -> SyntaxError {
    parse(yaml).error.unwrap_or_else(|| panic!("{yaml:?} was read"))
}

#[test]
fn scalars_follow_the_core_schema() {
    for (yaml, expected) in [
        ("80", json!(80)),
        ("\"80\"", json!("80")),
        ("'true'", json!("true")),
        ("true", json!(true)),
        ("yes", json!("yes")),
        ("~", json!(null)),
        ("", json!(null)),
        ("0x1F", json!(31)),
        ("0o17", json!(15)),
        ("0080", json!(80)),
        ("-7", json!(-7)),
        ("+7", json!(7)),
        ("1e3", json!(1000.0)),
        (".5", json!(0.5)),
        (".", json!(".")),
        ("1.2.3.4", json!("1.2.3.4")),
        ("-", json!("-")),
        ("18446744073709551615", json!(u64::MAX)),
        ("!!str 80", json!("80")),
        ("! 80", json!("80")),
        ("!!int \"80\"", json!(80)),
        ("2026-01-01", json!("2026-01-01")),
        ("0xZZ", json!("0xZZ")),
        ("|\n  80\n", json!("80\n")),
        ("[1, a]", json!([1, "a"])),
        ("{a: 1, \"b\": [x]}", json!({"a": 1, "b": ["x"]})),
    ] {
        if yaml == "-" {
            continue; // a list entry, not a scalar
        }
        assert_eq!(value(yaml), expected, "{yaml}");
    }
}

#[test]
fn what_json_cannot_hold_is_an_error() {
    for yaml in [".inf", "-.INF", ".nan", "1e999", "!!int abc", "!!bool 7"] {
        let e = error(&format!("a: {yaml}\n"));
        assert_eq!((e.line, e.column), (1, if yaml.starts_with("!!") { e.column } else { 4 }), "{yaml}: {e}");
    }
}

#[test]
fn documents_lists_and_empty_documents() {
    let text = "\
# a comment
---
apiVersion: v1
kind: A
metadata: {name: a, namespace: n}
---
---
# nothing
---
kind: List
apiVersion: v1
items:
- apiVersion: v1
  kind: B
  metadata:
    name: b
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: C, metadata: {name: c}}]}
---
kind: PodList
apiVersion: v1
items:
  - metadata: {name: p}
...
---
{\"apiVersion\": \"v1\", \"kind\": \"AllowList\", \"metadata\": {\"name\": \"mine\"}, \"items\": []}
";
    let parsed = parse(text);
    assert_eq!(parsed.error, None);
    assert_eq!(parsed.rejected, []);
    let seen: Vec<_> = parsed
        .objects
        .iter()
        .map(|o| (o.kind.as_str(), o.name.as_str(), o.document, o.origin.to_string(), o.line, o.column))
        .collect();
    assert_eq!(
        seen,
        [
            ("A", "a", 1, String::new(), 3, 1),
            ("B", "b", 4, "items[0]".to_owned(), 13, 3),
            ("C", "c", 4, "items[1].items[0]".to_owned(), 17, 3),
            ("Pod", "p", 5, "items[0]".to_owned(), 22, 5),
            ("AllowList", "mine", 6, String::new(), 25, 1),
        ]
    );
    assert_eq!(parsed.objects[0].namespace.as_deref(), Some("n"));
    assert_eq!(parsed.objects[3].api_version, "v1");
}

#[test]
fn what_is_no_object_is_rejected_and_the_rest_is_kept() {
    let parsed =
        parse("just text\n---\n- a\n---\nkind: X\n---\nmetadata: {name: x}\n---\napiVersion: v1\nkind: Y\n");
    assert_eq!(parsed.error, None);
    let messages: Vec<_> = parsed.rejected.iter().map(|r| (r.object.document, r.message.as_str())).collect();
    assert_eq!(
        messages,
        [
            (1, "expected an object of Kubernetes, found the text \"just text\""),
            (2, "expected an object of Kubernetes, found a list"),
            (3, "apiVersion is missing, so this is no object of Kubernetes"),
            (4, "apiVersion and kind are missing, so this is no object of Kubernetes"),
        ]
    );
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.objects[0].name, "");
}

#[test]
fn errors_say_where() {
    let e = error("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
    assert_eq!((e.line, e.column), (5, 3));
    assert_eq!(e.message, "the key \"c\" stands twice in one mapping; the first is in line 3");
    let e = error("a: {x: 1, y: {x: 2}, x: 3}");
    assert_eq!((e.line, e.column), (1, 22));
    assert!(e.message.ends_with("the first is in line 1"), "{e}");

    let e = error("a:\n\tb: 1\n");
    assert_eq!(e.line, 2);
    assert!(e.message.starts_with("a tab indents this line"), "{e}");
    let e = error("\t\tnot yaml at all: {");
    assert!(e.message.contains("tab"), "{e}");
    let e = error("kind: [unclosed\n\n");
    assert_eq!((e.line, e.column), (1, 16));
    assert!(e.message.ends_with("inside of what starts in line 1, column 7"), "{e}");

    let e = error("a: 1\nb: x\0y\n");
    assert_eq!((e.line, e.column), (2, 5));
    assert!(e.message.contains("NUL"), "{e}");
    assert!(error("\0\u{1}\u{2}").message.contains("NUL"));

    assert!(error("a: {{ .Values.x }}").message.contains("template"));
    let e = error("a: 1\n---\nkind: [unclosed\n");
    assert_eq!(e.document, 2);
    assert!(parse("kind: [unclosed\n").error.is_some());
}

#[test]
fn objects_before_an_error_are_kept() {
    let parsed = parse("apiVersion: v1\nkind: A\n---\n]");
    assert_eq!(parsed.objects.len(), 1);
    assert!(parsed.error.is_some());
}

#[test]
fn items_are_handed_on_one_by_one() {
    let text = "apiVersion: v1\nkind: A\n---\n5\n---\napiVersion: v1\nkind: List\nitems: [{kind: B, apiVersion: v1}]\n---\n}";
    let mut seen = Vec::new();
    let rest = parse_each(text, |item| {
        seen.push(match item {
            Item::Object(o) => o.kind,
            Item::Rejected(r) => r.message,
        });
    });
    assert_eq!(seen, ["A", "expected an object of Kubernetes, found the number 5", "B"]);
    assert_eq!((rest.documents, rest.objects.len(), rest.rejected.len()), (3, 0, 0));
    assert_eq!(rest.error, parse(text).error);
    assert!(rest.error.is_some());
}

#[test]
fn depth_has_a_limit_and_no_stack_is_used() {
    for open in ["{", "[", "- ", "{a: ", "? ", "!!map {"] {
        let e = parse(&open.repeat(200_000)).error;
        assert!(e.is_some(), "{open}");
    }
    let block: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&block).message.contains("128 levels"));
    let flow = |n| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert_eq!(parse(&flow(MAX_DEPTH)).error, None);
    assert!(error(&flow(MAX_DEPTH + 1)).message.contains("128 levels"));
}

#[test]
fn aliases_are_expanded_within_limits() {
    assert_eq!(value("[&x {p: 1}, *x]"), json!([{"p": 1}, {"p": 1}]));
    assert_eq!(value("{a: &x {p: 1, q: 2}, b: {<<: *x, q: 3}}")["b"], json!({"q": 3, "p": 1}));
    assert_eq!(value("{a: &x {p: 1}, b: &y {p: 2, r: 3}, c: {<<: [*x, *y]}}")["c"], json!({"p": 1, "r": 3}));
    assert_eq!(value("{\"<<\": 1}"), json!({"<<": 1}));
    assert!(error("a: &x [*x]").message.contains("alias inside"), "{:?}", parse("a: &x [*x]"));
    assert!(parse("a: *nobody").error.is_some());

    let bomb: String = std::iter::once("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned())
        .chain((1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "))))
        .collect();
    assert!(error(&bomb).message.contains("16 MiB"));
    let deep: String = std::iter::once("a0: &a0 [x]\n".to_owned())
        .chain((1..300).map(|i| format!("a{i}: &a{i} [*a{}]\n", i - 1)))
        .collect();
    assert!(error(&deep).message.contains("128 levels"));
}

#[test]
fn ambiguous_scalars_are_warned_of() {
    let warnings =
        parse("apiVersion: v1\nkind: X\na: yes\nb: \"yes\"\nc: 0010\nd: 0080\ne: no thanks\n").warnings;
    let seen: Vec<_> = warnings.iter().map(|w| (w.line, w.column, w.message.as_str())).collect();
    assert_eq!(
        seen,
        [
            (3, 4, "yes without quotes is the boolean true to kubectl and the text \"yes\" here"),
            (5, 4, "0010 without quotes is 8 (octal) to kubectl and 10 here"),
        ]
    );
}

#[test]
fn spans_count_characters_and_bytes() {
    let text = "\u{feff}# ü\r\napiVersion: v1\r\nkind: 界\r\nmetadata:\r\n  name: \"wörld 界\"   # x\r\n  labels: {\"a/b\": 界, c: [1, 22]}\r\nlist:\r\n- p: 1\r\n  q: |\r\n    x\r\n    y\r\n";
    let object = &parse(text).objects[0];
    let spans = Spans::of(text);
    let of = |path: &str| {
        let path: Path = path
            .split('.')
            .map(|s| match s.parse() {
                Ok(i) => Segment::Index(i),
                Err(_) => Segment::Key(s.to_owned()),
            })
            .collect();
        let s = object.locate(&spans, &path);
        (text[s.bytes.clone()].to_owned(), s.line, s.column, s.end_line, s.end_column)
    };
    assert_eq!(of("kind"), ("界".to_owned(), 3, 7, 3, 8));
    assert_eq!(of("metadata.name"), ("\"wörld 界\"".to_owned(), 5, 9, 5, 18));
    assert_eq!(of("metadata.labels.a/b"), ("界".to_owned(), 6, 19, 6, 20));
    assert_eq!(of("metadata.labels.c.1"), ("22".to_owned(), 6, 29, 6, 31));
    assert_eq!(of("metadata.labels.nope.deeper"), ("labels".to_owned(), 6, 3, 6, 9));
    assert_eq!(of("metadata.labels"), ("labels".to_owned(), 6, 3, 6, 9));
    assert_eq!(of("list.0"), ("p".to_owned(), 8, 3, 8, 4));
    assert_eq!(of("list.0.q"), ("q".to_owned(), 9, 3, 9, 4));
    assert_eq!(of("nope").1, 2);
    let key = spans.locate_key(1, &Path::of(&["metadata", "labels", "c"]));
    assert_eq!((&text[key.bytes], key.column), ("c", 22));
}

#[test]
fn paths_are_written_as_people_read_them() {
    let path = Path::of(&["metadata", "annotations", "balancing.elf.io/serviceId"]).index(3).key("port");
    assert_eq!(path.to_string(), "metadata.annotations[\"balancing.elf.io/serviceId\"][3].port");
    assert_eq!(Path::default().to_string(), "");
}

#[test]
fn decoding_tells_the_path_and_unknown_fields() {
    let object = |text: &str| parse(text).objects.remove(0);
    let service = object(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\nspec:\n  ports: [{port: 80, prot: TCP}]\nstatus: {}\n",
    );
    let decoded = decode::<Service>(&service).expect("a Service");
    let unknown: Vec<_> = decoded.unknown_fields.iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["metadata.lables", "spec.ports[0].prot"]);

    let pod = object(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a, ports: [{containerPort: \"x\"}]}]\n",
    );
    let e = decode::<Pod>(&pod).expect_err("a string for a number");
    assert_eq!(e.path.to_string(), "spec.containers[0].ports[0].containerPort");
    assert!(e.message.contains("invalid type"), "{e}");

    let nameless = object("apiVersion: v1\nkind: Service\nspec: {}\n");
    assert_eq!(decode::<Service>(&nameless).expect_err("no name").path.to_string(), "metadata.name");

    let policy = object(
        "apiVersion: balancing.elf.io/v1beta1\nkind: LocalRedirectPolicy\nmetadata: {name: a}\nspec: {frontend: {}, backend: {endpointSelector: {}, toPorts: []}, x: 1}\nstatus: {}\n",
    );
    let decoded = decode::<crate::policy::LocalRedirectPolicy>(&policy).expect("a policy");
    assert_eq!(decoded.unknown_fields, [Path::of(&["spec", "x"])]);
}

/// Text made of what YAML gives a meaning to.
fn yamlish() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "    ",
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        ":",
        "? ",
        "\"",
        "'",
        "&x ",
        "*x",
        "!!str ",
        "!t ",
        "|\n",
        ">-\n",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\t",
        "\r\n",
        "\r",
        "界",
        "\u{feff}",
        "\0",
        "~",
        "<<: ",
        "1",
        "\\",
        "\u{85}",
    ]);
    prop::collection::vec(pieces, 0..60).prop_map(|v| v.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in prop_oneof![any::<String>(), yamlish()]) {
        let parsed = parse(&text);
        let spans = Spans::of(&text);
        for o in &parsed.objects {
            let _ = o.locate(&spans, &Path::of(&["metadata", "name"]));
        }
        for document in 0..4 {
            for path in [Path::default(), Path::of(&["a"]), Path::of(&["a", "b"]), Path::default().index(0)] {
                for s in [spans.locate(document, &path), spans.locate_key(document, &path)] {
                    prop_assert!(text.get(s.bytes.clone()).is_some(), "{s:?}");
                }
            }
        }
        if let Some(e) = parsed.error {
            prop_assert!(e.line >= 1 && e.column >= 1);
            let s = spans.position(e.line, e.column);
            prop_assert!(text.get(s.bytes).is_some());
        }
    }

    #[test]
    fn json_reads_as_serde_json_reads_it(keys in prop::collection::btree_map("[a-z]{1,6}", any::<(i64, String, bool)>(), 0..6)) {
        let value = json!({"apiVersion": "v1", "kind": "X", "v": keys});
        let text = value.to_string();
        prop_assume!(!text.contains('\u{7f}'));
        let parsed = parse(&text);
        prop_assert_eq!(parsed.error, None);
        prop_assert_eq!(&parsed.objects[0].value, &value);
    }
}
