//! `toPorts`: numbers, protocols, and how the two lists pair.

use serde_json::Value;

use super::{
    Place, Severity,
    catalogue::code,
    checked::{Port, pair},
    reader::{Fields, Report},
};
use crate::{
    manifest::{Path, quote},
    net::Protocol,
    policy::IntOrString,
};

const PORT: &[&str] = &["port", "protocol", "name"];

/// Which list it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What clients dial: no (port, protocol) twice.
    Frontend,
    /// Where it leads: a number may serve several frontends.
    Backend,
}

/// A list of ports, with what could not be read left open.
#[derive(Debug)]
pub(super) struct List {
    entries: Vec<Entry>,
    /// Are all entries here, and none of them twice? Otherwise nothing can be said about pairs.
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    number: Option<u16>,
    protocol: Option<Protocol>,
    name: String,
    path: Path,
}

impl Entry {
    /// The port, with 0 for a number that could not be read, so that its name still pairs.
    fn port(&self) -> Option<Port> {
        let name = self.name.clone();
        Some(Port { number: self.number.unwrap_or_default(), protocol: self.protocol?, name })
    }

    /// The path of its name where it has one, else its own.
    fn name_place(&self) -> Place {
        Place::value(if self.name.is_empty() { self.path.clone() } else { self.path.key("name") })
    }
}

impl List {
    /// The ports, if all of them could be read.
    pub(super) fn plain(&self) -> Option<Vec<Port>> {
        let read = |e: &Entry| e.port().filter(|p| p.number != 0);
        self.entries.iter().map(read).collect::<Option<Vec<_>>>().filter(|_| self.complete)
    }

    /// The ports as far as names and protocols could be read.
    fn named(&self) -> Option<Vec<Port>> {
        self.entries.iter().map(Entry::port).collect::<Option<Vec<_>>>().filter(|_| self.complete)
    }
}

/// The field `toPorts` of these fields, if it is there.
pub(super) fn read(report: &mut Report, fields: &Fields<'_>, side: Side) -> Option<List> {
    let values = fields.list(report, "toPorts")?;
    let path = fields.path.key("toPorts");
    if values.is_empty() {
        let help = match side {
            Side::Frontend => {
                "list the ports clients dial; with serviceMatcher, leave toPorts out for all ports"
            }
            Side::Backend => "list the ports of the backends",
        };
        report.block(code::TYPE, &path, format!("{path} has no entry"), help);
    }
    let entries: Vec<_> =
        values.iter().enumerate().filter_map(|(i, v)| entry(report, v, path.index(i))).collect();
    let distinct = !duplicates(report, &entries, side);
    Some(List { complete: distinct && entries.len() == values.len(), entries })
}

fn entry(report: &mut Report, value: &Value, path: Path) -> Option<Entry> {
    if value.is_number() || value.is_string() {
        let help = format!("write {{port: {value}, protocol: TCP}}");
        report.wrong_type(&path, "a mapping with port and protocol", value, &help);
        return None;
    }
    let fields = Fields::open(report, value, path, PORT)?;
    let number = fields.require(report, "port").and_then(|v| number(report, v, &fields.path.key("port")));
    let protocol = fields.require_text(report, "protocol").and_then(|p| protocol(report, p, &fields.path));
    let name = fields.text(report, "name").unwrap_or_default().to_owned();
    Some(Entry { number, protocol, name, path: fields.path })
}

fn number(report: &mut Report, value: &Value, path: &Path) -> Option<u16> {
    let range = "a port is a number from 1 to 65535";
    let written = match value {
        Value::String(s) => IntOrString::String(s.clone()),
        Value::Number(n) if n.as_i64().is_some() => IntOrString::Int(n.as_i64().unwrap_or_default()),
        Value::Number(n) => {
            report.block(code::PORT, path, format!("port {n} is no number from 1 to 65535"), range);
            return None;
        }
        other => {
            report.wrong_type(path, "a number or text", other, range);
            return None;
        }
    };
    let port = written.as_port();
    if port.is_none() {
        let (message, help) = no_port(value);
        report.block(code::PORT, path, message, &help);
    }
    port
}

/// Why a value is no port, and what to write.
fn no_port(value: &Value) -> (String, String) {
    let range = || "a port is a number from 1 to 65535".to_owned();
    let text = value.as_str().unwrap_or_default();
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let stripped = text.trim().trim_start_matches('0');
    match value {
        Value::Number(n) => (format!("port {n} is not in 1 to 65535"), range()),
        _ if text.is_empty() => ("port is empty text".to_owned(), range()),
        _ if digits(text) && text.starts_with('0') && !stripped.is_empty() => {
            (format!("port {} has leading zeros", quote(text)), format!("write \"{stripped}\""))
        }
        _ if digits(text) => (format!("port {} is not in 1 to 65535", quote(text)), range()),
        _ if digits(text.trim()) => {
            (format!("port {} has blanks around it", quote(text)), format!("write {:?}", text.trim()))
        }
        _ if text.split(['-', ':', ',']).all(|p| digits(p.trim())) => {
            (format!("port {} is more than one port", quote(text)), "write one entry a port".to_owned())
        }
        _ if text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') => {
            let help = format!("{}; names of container or Service ports are not looked up", range());
            (format!("port {} is no number", quote(text)), help)
        }
        _ => (format!("port {} is no number", quote(text)), range()),
    }
}

fn protocol(report: &mut Report, written: &str, entry: &Path) -> Option<Protocol> {
    let path = entry.key("protocol");
    let Ok(protocol) = written.parse::<Protocol>() else {
        let message = if written.eq_ignore_ascii_case("sctp") {
            "SCTP is not supported, TCP and UDP are".to_owned()
        } else {
            format!("protocol {} is neither TCP nor UDP", quote(written))
        };
        report.block(code::PROTOCOL, &path, message, "write TCP or UDP");
        return None;
    };
    if written != protocol.as_str() {
        let message = format!("protocol {} is read as {protocol}; an API server refuses it", quote(written));
        report.warn(code::PROTOCOL, &path, message, &format!("write {protocol}"));
    }
    Some(protocol)
}

/// Report what stands twice in one list -> is there anything?
fn duplicates(report: &mut Report, entries: &[Entry], side: Side) -> bool {
    let before = report.findings.len();
    for (i, entry) in entries.iter().enumerate() {
        let Some(port) = entry.port() else { continue };
        let earlier = || entries[..i].iter().filter_map(|e| Some((e, e.port()?)));
        let same_number = earlier()
            .find(|(_, p)| port.number != 0 && (p.number, p.protocol) == (port.number, port.protocol));
        let same_name =
            earlier().find(|(_, p)| p.protocol == port.protocol && p.name.eq_ignore_ascii_case(&port.name));
        let (code, place, other, message, help) = match (same_number, same_name, side) {
            (Some((first, _)), _, Side::Frontend) => (
                code::DUPLICATE,
                Place::value(entry.path.key("port")),
                Place::value(first.path.key("port")),
                format!("port {}/{} stands twice", port.number, port.protocol),
                "remove one of the two".to_owned(),
            ),
            (_, Some((first, _)), _) if port.name.is_empty() => (
                code::PAIRING,
                Place::value(entry.path.clone()),
                Place::value(first.path.clone()),
                format!("two {} ports without a name: which leads where cannot be told", port.protocol),
                "give each of them a name, the same in the frontend and in the backend".to_owned(),
            ),
            (_, Some((first, _)), _) => (
                code::DUPLICATE,
                entry.name_place(),
                first.name_place(),
                format!("the name {} stands twice among the {} ports", quote(&port.name), port.protocol),
                "give each port a name of its own".to_owned(),
            ),
            _ => continue,
        };
        let finding = report.add(code, Severity::Error, place, message, &help);
        finding.blocks = true;
        finding.related.push((other, "the first is here".to_owned()));
    }
    report.findings.len() > before
}

/// Frontend ports without a backend port and backend ports that nobody uses.
pub(super) fn pairing(report: &mut Report, front: &List, back: &List) {
    let (Some(fronts), Some(backs)) = (front.named(), back.named()) else { return };
    if fronts.is_empty() || backs.is_empty() {
        return;
    }
    let pairing = pair(&fronts, &backs);
    if let ([f], [b]) = (fronts.as_slice(), backs.as_slice()) {
        if pairing.pairs.is_empty() {
            let message = format!("the frontend port is {}, the backend port {}", f.protocol, b.protocol);
            let place = Place::value(back.entries[0].path.key("protocol"));
            let help = "both have to be of one protocol";
            let finding = report.add(code::PAIRING, Severity::Error, place, message, help);
            finding.blocks = true;
            let other = Place::value(front.entries[0].path.key("protocol"));
            finding.related.push((other, format!("this is {}", f.protocol)));
        }
        return;
    }
    let used =
        |b: &Port| fronts.iter().any(|f| f.protocol == b.protocol && f.name.eq_ignore_ascii_case(&b.name));
    let unused: Vec<_> = back.entries.iter().zip(&backs).filter(|(_, b)| !used(b)).collect();
    let nothing = pairing.pairs.is_empty();
    for (entry, f) in front.entries.iter().zip(&fronts).filter(|(_, f)| pairing.unpaired.contains(f)) {
        let message = match f.name.as_str() {
            "" => format!(
                "frontend port {} has no name, and no backend {} port is without one",
                shown(f),
                f.protocol
            ),
            name => {
                format!(
                    "no backend {} port is called {}, as frontend port {} is",
                    f.protocol,
                    quote(name),
                    shown(f)
                )
            }
        };
        let candidates: Vec<_> = unused.iter().filter(|(_, b)| b.protocol == f.protocol).collect();
        let mut help = match candidates.as_slice() {
            [] => format!(
                "add a backend port for it: {{port: NUMBER, protocol: {}, name: {}}}",
                f.protocol,
                or_name(f)
            ),
            _ => "give the frontend port and its backend port the same name".to_owned(),
        };
        help.push_str(match nothing {
            true => "; as it is no port pairs, and the policy would do nothing",
            false => "; until then the policy leaves this port alone",
        });
        let finding = report.add(code::PAIRING, Severity::Error, entry.name_place(), message, &help);
        finding.blocks = nothing;
        for (e, _) in candidates {
            finding.related.push((e.name_place(), "no frontend port uses this one".to_owned()));
        }
    }
    if pairing.unpaired.is_empty() {
        for (entry, b) in unused {
            let message = format!("no frontend port leads to backend port {}", shown(b));
            let help = "remove it, or give it the name of a frontend port";
            report.add(code::PAIRING, Severity::Warning, entry.name_place(), message, help);
        }
    }
}

fn or_name(port: &Port) -> &str {
    if port.name.is_empty() { "NAME" } else { &port.name }
}

/// A port without its name, `?` for a number that was not read.
fn shown(port: &Port) -> String {
    match port.number {
        0 => format!("?/{}", port.protocol),
        n => format!("{n}/{}", port.protocol),
    }
}
