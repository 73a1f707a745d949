//! `explain connection`: what happens to one hypothetical connection, rung by rung.

use std::{fmt, io::Write, net::IpAddr, str::FromStr};

use balancing_api::{
    agent::{
        Caller, DecideRequest, Decision, DecisionRung, DecisionVerdict, FrontendList, NodeStatus,
        PolicyState, RungKind,
    },
    cli::{ConnectionExplanation, DECISION, DECISION_LIST, DecisionList, document},
    names::rung_reason,
    net::{Frontend, Protocol},
    policy::PolicyRef,
};
use clap::Args;
use owo_colors::OwoColorize;

use super::{Error, Output, backend_cells, columns, field};
use crate::{
    client::{Client, View},
    cluster::relay::Wish,
    sample::complete,
    simulate::{Flow, agree, simulate},
    target::Target,
    text::{near, plural, sanitise},
};

/// Arguments of `explain connection`.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// Ask the agent of this node. [default: the node of the agent that is asked; in a cluster that of the pod of --from, or
    /// the one that there is]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Who calls: host (a process outside every pod) or pod/NAMESPACE/NAME (a pod of that node).
    #[arg(long, value_name = "CALLER", default_value = "host")]
    pub from: From,
    /// What is dialled: ADDRESS:PORT[/tcp|udp] or service/NAMESPACE/NAME:PORT[/tcp|udp]; tcp by default; IPv6 in brackets.
    #[arg(long, value_name = "TARGET")]
    pub to: To,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// `--from`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From(pub Caller);

/// `--to`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An address.
    Frontend(Frontend),
    /// A port of a Service, by number or name; without a protocol all of that port.
    Service {
        /// `namespace/name`
        service: String,
        /// Number or name.
        port: String,
        /// If given.
        protocol: Option<Protocol>,
    },
}

/// The text is no caller or target.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl FromStr for From {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "host" {
            return Ok(Self(Caller::Host(true)));
        }
        match text.strip_prefix("pod/").and_then(namespaced) {
            Some(pod) => Ok(Self(Caller::Pod(pod.to_owned()))),
            None => Err(ParseError("expected host or pod/NAMESPACE/NAME".to_owned())),
        }
    }
}

/// The text, if it is `namespace/name`.
fn namespaced(text: &str) -> Option<&str> {
    let (namespace, name) = text.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then_some(text)
}

impl FromStr for To {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |what: String| ParseError(what);
        if let Some(rest) = text.strip_prefix("service/") {
            let form = || wrong("expected service/NAMESPACE/NAME:PORT[/tcp|udp]".to_owned());
            let (service, port) = rest.split_once(':').ok_or_else(form)?;
            let (port, protocol) = match port.split_once('/') {
                Some((port, protocol)) => (port, Some(protocol.parse().map_err(|e| wrong(format!("{e}")))?)),
                None => (port, None),
            };
            let service = namespaced(service).ok_or_else(form)?.to_owned();
            if port.is_empty() {
                return Err(form());
            }
            return Ok(Self::Service { service, port: port.to_owned(), protocol });
        }
        let (address, protocol) = match text.rsplit_once('/') {
            Some((address, protocol)) => (address, protocol.parse().map_err(|e| wrong(format!("{e}")))?),
            None => (text, Protocol::Tcp),
        };
        let (ip, port) = split_port(address).ok_or_else(|| {
            wrong("expected ADDRESS:PORT[/tcp|udp], with an IPv6 address in brackets".to_owned())
        })?;
        let ip: IpAddr = ip.parse().map_err(|_| {
            wrong(format!("{ip:?} is not an IP address; for a Service use service/NAMESPACE/NAME:PORT"))
        })?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| wrong(format!("port {port:?} is not 1 to 65535")))?;
        Ok(Self::Frontend(Frontend::new(ip, port, protocol)))
    }
}

/// `10.0.0.1:80` and `[fd00::1]:80`; not `fd00::1:80`, where nobody knows what is the port.
fn split_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:");
    }
    text.split_once(':').filter(|(_, port)| !port.contains(':'))
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Caller::Host(_) => f.write_str("host"),
            Caller::Pod(pod) => write!(f, "pod {}", sanitise(pod)),
        }
    }
}

/// Asks the agent and prints the answer. True: the maps do what they should.
pub async fn run(
    args: &ConnectionArgs,
    target: &Target,
    out: &mut dyn Write,
    colour: bool,
) -> Result<bool, Error> {
    let client = &agent(args, target).await?;
    let (status, mut desired) = tokio::try_join!(client.status(), client.frontends(View::Desired))?;
    if let Some(node) = args.node.as_deref().filter(|n| *n != status.node.name) {
        let own = sanitise(&status.node.name).into_owned();
        return Err(Error::NotFound(format!("node {node:?} not found: this agent is that of node {own}")));
    }
    complete(&mut desired, &status);
    let targets = targets(&args.to, &desired)?;
    let mut all = Vec::new();
    for to in targets {
        let live = client.decide(&DecideRequest { from: args.from.0.clone(), to }).await?;
        let used = live.qos.map_or(0, |q| q.used);
        let intended = simulate(&desired, &status, &Flow { from: args.from.0.clone(), to, used });
        let differs = !agree(&live, &intended);
        all.push(ConnectionExplanation { to, live, intended, differs });
    }
    let healthy = all.iter().all(|c| !c.differs && detached(c, &status).is_empty());
    let text = match args.output {
        Output::Text => {
            let parts: Vec<String> = all.iter().map(|c| text(&args.from, c, &status, colour)).collect();
            parts.join("\n")
        }
        Output::Json if all.len() == 1 => serde_json::to_string_pretty(&document(DECISION, &all[0]))? + "\n",
        Output::Yaml if all.len() == 1 => serde_yaml::to_string(&document(DECISION, &all[0]))?,
        Output::Json => {
            serde_json::to_string_pretty(&document(DECISION_LIST, DecisionList { items: all }))? + "\n"
        }
        Output::Yaml => serde_yaml::to_string(&document(DECISION_LIST, DecisionList { items: all }))?,
    };
    out.write_all(text.as_bytes())?;
    Ok(healthy)
}

/// The agent that knows how it is decided.
async fn agent(args: &ConnectionArgs, target: &Target) -> Result<Client, Error> {
    let cluster = match target {
        Target::Agent(client) => return Ok(client.clone()),
        Target::Cluster(cluster) => cluster,
    };
    let named = args.node.as_slice();
    let node = match (&args.from.0, named) {
        (Caller::Pod(pod), []) => cluster.node_of_pod(pod).await?,
        _ => cluster.nodes(Wish::Some(named)).await?.into_iter().next().unwrap_or_default(),
    };
    Ok(Client::of_node(&cluster.relay(), &node))
}

/// The frontends that a target means.
fn targets(to: &To, known: &FrontendList) -> Result<Vec<Frontend>, Error> {
    let (service, port, protocol) = match to {
        To::Frontend(frontend) => return Ok(vec![*frontend]),
        To::Service { service, port, protocol } => (service, port, protocol),
    };
    let of_service: Vec<_> = known
        .items
        .iter()
        .filter_map(|i| i.rungs.iter().find(|r| r.service.as_ref() == Some(service)).map(|r| (i.frontend, r)))
        .collect();
    if of_service.is_empty() {
        let names: Vec<&str> =
            known.items.iter().flat_map(|i| i.rungs.iter().filter_map(|r| r.service.as_deref())).collect();
        let near = near(service, names);
        let hint = if near.is_empty() {
            "; a headless Service, and one that nothing on this node resolves, has no frontend".to_owned()
        } else {
            format!("; did you mean {}?", near.join(", "))
        };
        return Err(Error::NotFound(format!(
            "no frontend on this node belongs to the Service {service}{hint}"
        )));
    }
    let found: Vec<Frontend> = of_service
        .iter()
        .filter(|(f, r)| f.port.to_string() == *port || r.service_port.as_ref() == Some(port))
        .map(|(f, _)| *f)
        .filter(|f| protocol.is_none_or(|p| p == f.protocol))
        .collect();
    if found.is_empty() {
        let ports: Vec<String> = of_service.iter().map(|(f, _)| f.to_string()).collect();
        return Err(Error::NotFound(format!(
            "the Service {service} has no port {port}; it has {}",
            ports.join(", ")
        )));
    }
    Ok(found)
}

/// The hooks that decide the connection and have no program of the agent.
fn detached(c: &ConnectionExplanation, status: &NodeStatus) -> Vec<String> {
    let attached = |hook: &str| status.datapath.programs.iter().any(|p| p.hook == hook && p.attached);
    c.live.hooks.iter().filter(|h| !attached(h)).cloned().collect()
}

/// The verdict in words.
#[must_use]
pub fn verdict(d: &Decision) -> String {
    let taken = d.rungs.iter().find(|r| r.taken);
    let who = taken.map(rung_owner).unwrap_or_default();
    match d.verdict {
        DecisionVerdict::Redirect => format!("redirected to a pod on this node by {who}"),
        DecisionVerdict::Balance => format!("balanced to the backends of {who}"),
        DecisionVerdict::Service => format!("served by the Service {who}"),
        DecisionVerdict::Refuse => {
            "refused: nothing serves this frontend, the client gets an error".to_owned()
        }
        DecisionVerdict::Untouched if d.rungs.is_empty() => {
            "untouched: it is no frontend on this node, the connection goes to the address dialled".to_owned()
        }
        DecisionVerdict::Untouched => {
            "untouched: no rung takes it, the connection goes to the address dialled".to_owned()
        }
        DecisionVerdict::Other(word) => {
            format!(
                "{}: the agent is newer than this program, which does not know the word",
                sanitise(word.as_str())
            )
        }
    }
}

fn rung_owner(rung: &DecisionRung) -> String {
    let name = match (&rung.policy, &rung.service) {
        (Some(policy), _) => policy.to_string(),
        (None, Some(service)) => service.clone(),
        (None, None) => String::new(),
    };
    sanitise(&name).into_owned()
}

/// Why a rung was or was not taken, in words.
#[must_use]
pub fn reason_words(rung: &DecisionRung) -> String {
    match rung.reason.as_str() {
        rung_reason::TAKEN => "taken".to_owned(),
        rung_reason::NOT_REACHED => "not reached: a rung above took it".to_owned(),
        rung_reason::NO_LOCAL_BACKEND => "no Ready pod on this node that the policy selects".to_owned(),
        rung_reason::NO_BACKEND if rung.rung == RungKind::Service => {
            "the Service has no usable endpoint".to_owned()
        }
        rung_reason::NO_BACKEND => "the policy has no usable backend".to_owned(),
        rung_reason::QOS_LIMIT => "the limit of this second is used up".to_owned(),
        rung_reason::EXEMPT_CALLER => {
            "the caller is one of the policy's own backends, or the product itself".to_owned()
        }
        rung_reason::AGENT_STALE => "the agent has not renewed its lease in time".to_owned(),
        other => sanitise(other).into_owned(),
    }
}

/// The explanation for people.
#[must_use]
pub fn text(from: &From, c: &ConnectionExplanation, status: &NodeStatus, colour: bool) -> String {
    let mut out = String::new();
    let loud = |text: &str| if colour { text.red().bold().to_string() } else { text.to_owned() };
    let detached = detached(c, status);
    if !detached.is_empty() {
        let what = format!("DETACHED: no program is attached to {}", detached.join(", "));
        out.push_str(&loud(&what));
        out.push_str(
            "\n  the maps below are ready, but nothing asks them: connections go to the address dialled\n\n",
        );
    }
    if c.differs {
        out.push_str(&loud("DIFFERS: the maps of this node do not do what its objects ask for"));
        out.push_str(&format!(
            "\n  programmed: {}\n  intended:   {}\n\n",
            verdict(&c.live),
            verdict(&c.intended)
        ));
    }
    field(&mut out, "Connection", &format!("{from} to {}", c.to));
    field(&mut out, "Node", &sanitise(&status.node.name));
    let said = verdict(&c.live);
    field(&mut out, "Verdict", &if colour { said.bold().to_string() } else { said });
    decision(&mut out, &c.live);
    field(&mut out, "Hooks", &c.live.hooks.join(", "));
    if c.differs {
        field(&mut out, "Intended", &verdict(&c.intended));
        decision(&mut out, &c.intended);
        field(&mut out, "Next", &next(&c.live, &c.intended, status));
    } else {
        field(&mut out, "Intended", "the same");
    }
    out
}

/// Candidates, rungs and budget of a decision.
fn decision(out: &mut String, d: &Decision) {
    if !d.backends.is_empty() {
        let rows: Vec<Vec<String>> = d.backends.iter().map(backend_cells).collect();
        let chosen = match d.backends.len() {
            1 => String::new(),
            many => format!("one of {}:\n", plural(many, "backend", "backends")),
        };
        field(out, "Backends", &(chosen + &columns(&rows)));
    }
    if !d.rungs.is_empty() {
        let rows: Vec<Vec<String>> = d
            .rungs
            .iter()
            .enumerate()
            .map(|(i, r)| {
                let kind = sanitise(r.rung.as_str());
                vec![
                    format!("{} {kind}", i + 1),
                    rung_owner(r),
                    sanitise(&r.reason).into_owned(),
                    reason_words(r),
                ]
            })
            .collect();
        field(out, "Ladder", &columns(&rows));
    }
    if let Some(qos) = d.qos {
        field(out, "QoS", &format!("{} of {} redirects used in this second", qos.used, qos.limit));
    }
}

/// What to look at where the maps are not as intended.
fn next(live: &Decision, intended: &Decision, status: &NodeStatus) -> String {
    let taken = live.rungs.iter().find(|r| r.taken).and_then(|r| r.policy.as_ref());
    let invalid = |p: &&PolicyRef| {
        let mut known = status.policies.iter();
        known.any(|s| (s.kind, &s.name) == (p.kind, &p.name) && s.state == PolicyState::Invalid)
    };
    if let Some(policy) = taken.filter(invalid) {
        let short = format!("{}/{}", policy.kind.short_name(), sanitise(&policy.name));
        return format!(
            "{short} cannot be applied as it is now, so what it said before is kept: kubectl balancing explain policy {short}"
        );
    }
    let reason = |d: &Decision| d.rungs.first().map(|r| r.reason.clone()).unwrap_or_default();
    if reason(intended) == rung_reason::EXEMPT_CALLER && reason(live) == rung_reason::TAKEN {
        return format!(
            "the cgroup of the calling pod was not found below {}, so its exemption is inactive",
            sanitise(&status.datapath.cgroup_root)
        );
    }
    if reason(live) == rung_reason::AGENT_STALE {
        return "the agent's lease was over when the maps were asked; is the agent overloaded? Look at its log".to_owned();
    }
    let bad = status.conditions.iter().find(|c| c.status != "True" && c.type_ != "Ready");
    match bad {
        Some(c) => format!("{} is {} ({}): {}", c.type_, c.status, c.reason, sanitise(&c.message)),
        None => "ask again: a change may be on its way; if it stays, look at the agent's log".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let to = |text: &str| text.parse::<To>();
        let frontend =
            |ip: &str, port, protocol| To::Frontend(Frontend::new(ip.parse().unwrap(), port, protocol));
        assert_eq!(to("10.0.0.1:53/udp").unwrap(), frontend("10.0.0.1", 53, Protocol::Udp));
        assert_eq!(to("10.0.0.1:80").unwrap(), frontend("10.0.0.1", 80, Protocol::Tcp));
        assert_eq!(to("[fd00::1]:80/TCP").unwrap(), frontend("fd00::1", 80, Protocol::Tcp));
        assert_eq!(to("[::ffff:10.0.0.1]:80").unwrap(), frontend("10.0.0.1", 80, Protocol::Tcp));
        let service =
            |port: &str, protocol| To::Service { service: "a/b".into(), port: port.into(), protocol };
        assert_eq!(to("service/a/b:53/udp").unwrap(), service("53", Some(Protocol::Udp)));
        assert_eq!(to("service/a/b:dns").unwrap(), service("dns", None));
        for wrong in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "fd00::1:80",
            "a:80",
            "10.0.0.1:80/sctp",
            "service/b:80",
            "service/a/b",
            "service/a/b:",
        ] {
            assert!(to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn callers_are_read() {
        assert_eq!("host".parse::<From>().unwrap(), From(Caller::Host(true)));
        assert_eq!("pod/a/b".parse::<From>().unwrap(), From(Caller::Pod("a/b".into())));
        for wrong in ["", "pod/a", "a/b", "pod//b", "pod/a/b/c", "hosts"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
