//! What the schemas of the custom resources say beyond Rust's types: bounds, and rules in CEL that the API server
//! checks about one object. They refuse what [`crate::rules`] refuses, and nothing else.
//!
//! Every list and text that a rule reads is bounded: the API server refuses a rule whose worst case costs too much.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Key of the rules in a schema.
pub(crate) const RULES: &str = "x-kubernetes-validations";

/// Ports in one list.
pub(crate) const MAX_PORTS: usize = 128;
/// Addresses, namespaces, requirements of a selector.
pub(crate) const MAX_ITEMS: usize = 256;

/// A DNS label (RFC 1123).
pub(crate) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// One rule: it has to hold, else the API server answers the message.
pub(crate) fn rule(rule: impl Into<String>, message: &str) -> Value {
    json!({"rule": rule.into(), "message": message})
}

/// A whole number from 0 to `max`. `u32` itself would say a format that API servers do not know.
fn whole_number(max: i64) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0, "maximum": max})
}

/// A limit of connections a second.
pub(crate) fn limit(_: &mut SchemaGenerator) -> Schema {
    whole_number(i64::from(u32::MAX))
}

/// How many there are of something.
pub(crate) fn count(_: &mut SchemaGenerator) -> Schema {
    whole_number(i64::from(i32::MAX))
}

/// A port, as number or text without leading zeros.
pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    let text = "string(self).matches('^[1-9][0-9]{0,4}$') && int(self) <= 65535";
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 5,
        RULES: [rule(text, "a port is a number from 1 to 65535, without leading zeros")],
    })
}

/// `metav1.LabelSelector`, with what the API server checks of it in objects of its own.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let key = json!({
        "type": "string",
        "description": "Key of a label.",
        "minLength": 1,
        "maxLength": 317,
        "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    });
    let value = json!({
        "type": "string",
        "maxLength": 63,
        "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    });
    let mut label = value.clone();
    label["nullable"] = json!(true);
    let values = json!({
        "type": "array",
        "description": "Values for In and NotIn.",
        "items": value,
        "maxItems": MAX_ITEMS,
        "x-kubernetes-list-type": "atomic",
    });
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels and their values; all have to be there.",
                "additionalProperties": label,
                "maxProperties": MAX_ITEMS,
                RULES: [rule(
                    "self.all(key, type(self[key]) == string)",
                    "a label has text as its value; for an empty one write \"\"",
                )],
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements; all have to be met.",
                "maxItems": MAX_ITEMS,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": key,
                        "operator": {
                            "type": "string",
                            "description": "What is required of the label's value.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": values,
                    },
                    RULES: [rule(
                        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "In and NotIn need values, Exists and DoesNotExist take none",
                    )],
                },
            },
        },
        "x-kubernetes-map-type": "atomic",
    })
}

/// Names of namespaces.
pub(crate) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_ITEMS,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 63, "pattern": DNS_LABEL},
    })
}

/// Is `ADDRESS` something that can be dialled? A frontend on loopback would be each client's own.
fn address_rule(what: &str, loopback: bool) -> Value {
    let loopback = if loopback { " || ip(self).isLoopback()" } else { "" };
    let text =
        format!("isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast(){loopback})");
    rule(
        text,
        &format!("{what} is one IPv4 or IPv6 address that can be dialled, like 169.254.0.90 or fd00::90"),
    )
}

/// The address of a frontend.
pub(crate) fn vip(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 45, RULES: [address_rule("ip", false)]})
}

/// Fixed addresses of backends.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ITEMS,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 45, RULES: [address_rule("an address", true)]},
    })
}

/// A port's name, as two of them are compared.
fn name(port: &str) -> String {
    format!("(has({port}.name) ? {port}.name.lowerAscii() : '')")
}

/// No two ports of the list `self` have the same protocol and name; where `numbers`, nor the same protocol and number.
pub(crate) fn distinct(numbers: bool) -> Vec<Value> {
    let once = |same: &str| format!("self.all(x, self.exists_one(y, x.protocol == y.protocol && {same}))");
    let names = once(&format!("{} == {}", name("x"), name("y")));
    let message = "two ports of one protocol have the same name, or none: give each a name of its own, \
                   the same in the frontend and in the backend";
    let mut rules = vec![rule(names, message)];
    if numbers {
        rules.push(rule(
            once("string(x.port) == string(y.port)"),
            "a port stands twice: remove one of the two",
        ));
    }
    rules
}

/// Lists of frontend ports, from `spec`, and whether each is there.
const FRONTEND_PORTS: [&str; 3] =
    ["frontend.addressMatcher.toPorts", "frontend.serviceMatcher.toPorts", "frontend.toPorts"];

/// Something of the frontend leads somewhere: one pair of ports at least, for the lists of backend ports given as paths
/// from `spec`.
pub(crate) fn pairs(backends: &[&str]) -> Vec<Value> {
    let message = "no frontend port leads to a backend port: they pair by protocol and name, a single port each \
                   without names";
    let is_there = |path: &str| {
        let mut at = "self".to_owned();
        let steps = path.split('.').map(|step| {
            at = format!("{at}.{step}");
            format!("has({at})")
        });
        steps.collect::<Vec<_>>().join(" && ")
    };
    let mut rules = Vec::new();
    for front in FRONTEND_PORTS {
        for back in backends {
            let (f, b) = (format!("self.{front}"), format!("self.{back}"));
            let text = format!(
                "!({} && {}) || {f}.exists(f, {b}.exists(b, f.protocol == b.protocol && \
                 ({f}.size() == 1 && {b}.size() == 1 || {} == {})))",
                is_there(front),
                is_there(back),
                name("f"),
                name("b"),
            );
            rules.push(rule(text, message));
        }
    }
    rules
}

/// Exactly one of two fields of `self`.
pub(crate) fn one_of(a: &str, b: &str) -> Value {
    rule(format!("has(self.{a}) != has(self.{b})"), &format!("exactly one of {a} and {b} has to be given"))
}

/// `toPorts` of the frontend itself stands for `serviceMatcher.toPorts`, and for nothing else.
pub(crate) fn misplaced_ports() -> Value {
    rule(
        "!has(self.toPorts) || (has(self.serviceMatcher) && !has(self.serviceMatcher.toPorts))",
        "toPorts belongs into addressMatcher or serviceMatcher, two spaces further in",
    )
}

/// The list of conditions: one of each type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    type Conditions = Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>;
    let mut schema = generator.subschema_for::<Conditions>();
    schema.insert("maxItems".to_owned(), json!(16));
    schema.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    schema
}
