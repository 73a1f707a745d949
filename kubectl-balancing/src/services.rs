//! `services`: every programmed frontend as the data path sees it, with its ladder, as `ipvsadm -Ln` lists services.

use std::{collections::HashMap, io::Write, time::Duration};

use balancing_api::{
    agent::{FrontendInfo, RungInfo},
    cli::{BackendTopItem, Coverage, FrontendTopItem, document},
    net::Frontend,
    services::{SERVICES, ServiceBackend, ServiceItem, ServiceRung, Services},
};
use clap::Args;
use futures_util::future::join_all;

use crate::{
    client::{self, Client},
    cluster::relay::Wish,
    columns::{Cell, Row as _, RowId},
    output::{Error, Listing, json, jsonl, yaml},
    sample::{BackendId, Board, NodeSample, Sample, frontend_state, owner, taking_rung},
    table::aligned,
    target::Target,
    text::{parse_duration, sanitise},
};

/// Arguments of `services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// Only frontends of this address, ADDRESS:PORT, Service (NAMESPACE/NAME) or policy (lr/NAME, bl/NAME).
    #[arg(value_name = "FRONTEND")]
    pub frontend: Option<String>,
    /// Ask the agent of this node; repeat for several. [default: the node of the agent that is asked, or the one that a
    /// cluster has]
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Show how often each was used, in all.
    #[arg(long, conflicts_with = "rate")]
    pub stats: bool,
    /// Show how often each is used, per second.
    #[arg(long)]
    pub rate: bool,
    /// Show numbers as they are, not as 48.2k.
    #[arg(long)]
    pub exact: bool,
    /// Time between the two samples that rates are made of.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub interval: Duration,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Listing,
}

/// Asks the agents, twice if rates are wanted, and prints.
pub async fn run(
    args: &ServicesArgs,
    target: &Target,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Error> {
    let agents = agents(args, target).await?;
    let mut before = None;
    if args.rate {
        before = Some(sample(&agents).await?.0);
        tokio::time::sleep(args.interval).await;
    }
    let (now, silent) = sample(&agents).await?;
    if let Target::Agent(_) = target
        && let (Some(wanted), Some(own)) = (args.node.first(), now.nodes.first())
        && *wanted != own.status.node.name
    {
        let own = sanitise(&own.status.node.name).into_owned();
        return Err(Error::NotFound(format!("node {wanted:?} not found: this agent is that of node {own}")));
    }
    let services = services(now, before.as_ref(), args.frontend.as_deref());
    out.write_all(render(args, &services)?.as_bytes())?;
    out.flush()?;
    let mut silent = silent.into_iter();
    if let Some(first) = silent.next() {
        silent.try_for_each(|error| writeln!(err, "error: {error}"))?;
        return Err(first.into());
    }
    match (&args.frontend, services.items.is_empty()) {
        (Some(asked), true) => Err(Error::NotFound(format!(
            "no frontend of {asked:?} is programmed; `kubectl balancing services` lists all"
        ))),
        (None, true) => Ok(writeln!(err, "No frontends found.")?),
        (_, false) => Ok(()),
    }
}

/// Who is asked.
async fn agents(args: &ServicesArgs, target: &Target) -> Result<Vec<Client>, Error> {
    match target {
        Target::Agent(client) => Ok(vec![client.clone()]),
        Target::Cluster(cluster) => {
            let relay = cluster.relay();
            let nodes = cluster.nodes(Wish::Some(&args.node)).await?;
            Ok(nodes.iter().map(|node| Client::of_node(&relay, node)).collect())
        }
    }
}

/// What the agents say, and why others say nothing; an error where none says anything.
async fn sample(agents: &[Client]) -> Result<(Sample, Vec<client::Error>), Error> {
    let (mut sample, mut silent) = (Sample::default(), Vec::new());
    for answer in join_all(agents.iter().map(Client::sample)).await {
        match answer {
            Ok(node) => sample.nodes.push(node),
            Err(error) => silent.push(error),
        }
    }
    if sample.nodes.is_empty()
        && let Some(first) = silent.pop()
    {
        return Err(first.into());
    }
    let fresh = u32::try_from(sample.nodes.len()).unwrap_or(u32::MAX);
    sample.coverage = Coverage { fresh, ..Coverage::default() };
    Ok((sample, silent))
}

fn render(args: &ServicesArgs, services: &Services) -> Result<String, Error> {
    Ok(match args.output {
        Listing::Json => json(&document(SERVICES, services))?,
        Listing::Jsonl => jsonl(&document(SERVICES, services))?,
        Listing::Yaml => yaml(&document(SERVICES, services))?,
        Listing::Name => services.items.iter().map(|i| format!("frontend/{}\n", i.row.frontend)).collect(),
        Listing::Table | Listing::Wide => text(args, services),
    })
}

/// The frontends of all nodes. Rates need the sample before.
fn services(sample: Sample, before: Option<&Sample>, asked: Option<&str>) -> Services {
    let board = Board::new(sample, before);
    let mut items = Vec::new();
    for node in &board.sample.nodes {
        // Each node by itself: the data path of a node knows no other.
        let earlier =
            before.and_then(|b| b.nodes.iter().find(|n| n.status.node.name == node.status.node.name));
        let earlier = earlier.cloned().map(Sample::of_one);
        let own = Board::new(Sample::of_one(node.clone()), earlier.as_ref());
        items.extend(of_node(node, &own).into_iter().filter(|i| asked.is_none_or(|a| concerns(i, a))));
    }
    let taken_at = board.sample.taken_at();
    Services { taken_at, interval: board.interval, coverage: board.sample.coverage, items }
}

fn of_node(node: &NodeSample, board: &Board) -> Vec<ServiceItem> {
    let frontends: HashMap<Frontend, &FrontendTopItem> =
        board.frontends.iter().map(|f| (f.frontend, f)).collect();
    let backends: HashMap<RowId, &BackendTopItem> = board.backends.iter().map(|b| (b.id(), b)).collect();
    node.frontends
        .items
        .iter()
        .filter_map(|info| {
            // The board has a row for every frontend of its sample.
            let row = frontends.get(&info.frontend)?;
            Some(item(&node.status.node.name, info, row, &backends))
        })
        .collect()
}

fn item(
    node: &str,
    info: &FrontendInfo,
    counted: &FrontendTopItem,
    backends: &HashMap<RowId, &BackendTopItem>,
) -> ServiceItem {
    // One frontend may be there twice, for different callers; the counters are of both.
    let taken = taking_rung(info).map_or(0, |r| r.backends.len());
    let row = FrontendTopItem {
        state: frontend_state(info),
        otherwise: info.otherwise,
        backends: u32::try_from(taken).unwrap_or(u32::MAX),
        ..counted.clone()
    };
    let rungs = info.rungs.iter().map(|r| rung(info, r, backends)).collect();
    ServiceItem { node: node.to_owned(), scope: info.scope.clone(), row, rungs }
}

fn rung(info: &FrontendInfo, rung: &RungInfo, counted: &HashMap<RowId, &BackendTopItem>) -> ServiceRung {
    let owner = owner(rung);
    let backend = |b: &balancing_api::agent::BackendInfo| {
        let protocol = info.frontend.protocol;
        let id = BackendId { address: b.address, port: b.port, protocol, owner: owner.clone() };
        let counted = counted.get(&RowId::Backend(id));
        ServiceBackend {
            info: b.clone(),
            selected: counted.map_or(0, |c| c.selected),
            rates: counted.and_then(|c| c.rates),
        }
    };
    ServiceRung {
        rung: rung.rung,
        policy: rung.policy.clone(),
        redirects_per_second: rung.redirects_per_second,
        service: rung.service.clone(),
        service_port: rung.service_port.clone(),
        affinity_seconds: rung.affinity_seconds,
        backends: rung.backends.iter().map(backend).collect(),
    }
}

/// Is this the frontend that was asked for, or one of the Service or policy?
fn concerns(item: &ServiceItem, asked: &str) -> bool {
    let whole = item.row.frontend.to_string();
    let port = whole.split('/').next().unwrap_or_default();
    let address = item.row.frontend.address.to_string();
    [whole.as_str(), port, &address].iter().any(|n| n.eq_ignore_ascii_case(asked))
        || item.rungs.iter().any(|r| r.service.as_deref() == Some(asked) || short_owner(r) == asked)
}

/// `lr/node-local-dns`, `svc/kube-system/kube-dns`
fn short_owner(rung: &ServiceRung) -> String {
    match (&rung.policy, &rung.service) {
        (Some(policy), _) => format!("{}/{}", policy.kind.short_name(), policy.name),
        (None, Some(service)) => format!("svc/{service}"),
        (None, None) => crate::text::UNKNOWN.to_owned(),
    }
}

/// For people: a frontend, beneath it each rung with its backends.
fn text(args: &ServicesArgs, services: &Services) -> String {
    let mut nodes: Vec<&str> = services.items.iter().map(|i| i.node.as_str()).collect();
    nodes.dedup();
    let mut out = String::new();
    for (i, node) in nodes.iter().enumerate() {
        if nodes.len() > 1 {
            out.push_str(&format!("{}Node {}\n", if i == 0 { "" } else { "\n" }, sanitise(node)));
        }
        let items = services.items.iter().filter(|i| i.node == *node);
        let rows =
            items.flat_map(|i| if args.stats || args.rate { counted(args, i) } else { ladder(i) }).collect();
        out.push_str(&aligned(header(args), rows));
    }
    out
}

fn header(args: &ServicesArgs) -> Vec<String> {
    let columns: &[&str] = match (args.stats, args.rate) {
        (true, _) => &["REDIRECTS", "BALANCED", "RESOLVED", "QOS-DROPS", "REFUSED", "CHOSEN"],
        (_, true) => &["REDIR/s", "BALANCE/s", "SERVICE/s", "QOS-DROPS/s", "REFUSED/s", "CHOSEN/s"],
        _ => &["RUNG", "OWNER / POD", "NODE", "FLAGS"],
    };
    ["PROT", "FRONTEND / BACKEND"].iter().chain(columns).map(|c| (*c).to_owned()).collect()
}

/// A frontend with its rungs and their backends.
fn ladder(item: &ServiceItem) -> Vec<Vec<String>> {
    let address = std::net::SocketAddr::new(item.row.frontend.address, item.row.frontend.port).to_string();
    let mut first = vec![item.row.frontend.protocol.to_string(), address];
    let mut flags = vec![format!("otherwise={}", item.row.otherwise)];
    if item.scope != "Any" {
        flags.push(format!("scope={}", item.scope));
    }
    let mut rows = Vec::new();
    for rung in &item.rungs {
        let mut marks: Vec<String> = Vec::new();
        if let Some(limit) = rung.redirects_per_second.filter(|l| *l > 0) {
            marks.push(format!("limit={limit}/s"));
        }
        if let Some(seconds) = rung.affinity_seconds {
            marks.push(format!("affinity={seconds}s"));
        }
        if let Some(port) = rung.service_port.as_ref().filter(|p| !p.is_empty()) {
            marks.push(format!("port={port}"));
        }
        if rung.backends.is_empty() {
            marks.push("no-backend".to_owned());
        }
        marks.append(&mut flags);
        rows.push(row(
            &mut first,
            [rung.rung.to_string(), short_owner(rung), String::new(), marks.join(" ")],
        ));
        for b in &rung.backends {
            let address = std::net::SocketAddr::new(b.info.address, b.info.port).to_string();
            let pod = b.info.pod.clone().unwrap_or_default();
            let node = b.info.node.clone().unwrap_or_default();
            rows.push(row(&mut vec!["  ->".to_owned(), address], [String::new(), pod, node, String::new()]));
        }
    }
    if rows.is_empty() {
        rows.push(row(&mut first, ["-".to_owned(), String::new(), String::new(), flags.join(" ")]));
    }
    rows
}

/// A line; `first` is used up by it.
fn row(first: &mut Vec<String>, rest: [String; 4]) -> Vec<String> {
    let mut cells = std::mem::take(first);
    cells.resize(2, String::new());
    cells.extend(rest);
    cells.iter().map(|c| sanitise(c).into_owned()).collect()
}

/// A frontend and its backends with their numbers.
fn counted(args: &ServicesArgs, item: &ServiceItem) -> Vec<Vec<String>> {
    let shown = |cell: Cell| if args.exact { cell.exact() } else { cell.shown() };
    let number =
        |count: u64, rate: Option<f64>| shown(if args.rate { Cell::Rate(rate) } else { Cell::Count(count) });
    let rate = |of: fn(&balancing_api::cli::FrontendRates) -> f64| item.row.rates.as_ref().map(of);
    let address = std::net::SocketAddr::new(item.row.frontend.address, item.row.frontend.port).to_string();
    let mut rows = vec![vec![
        item.row.frontend.protocol.to_string(),
        address,
        number(item.row.redirects, rate(|r| r.redirects)),
        number(item.row.balanced, rate(|r| r.balanced)),
        number(item.row.resolved, rate(|r| r.resolved)),
        number(item.row.qos_drops, rate(|r| r.qos_drops)),
        number(item.row.refusals, rate(|r| r.refusals)),
        String::new(),
    ]];
    for b in item.rungs.iter().flat_map(|r| &r.backends) {
        let mut cells =
            vec!["  ->".to_owned(), std::net::SocketAddr::new(b.info.address, b.info.port).to_string()];
        cells.resize(7, String::new());
        cells.push(number(b.selected, b.rates.map(|r| r.selected)));
        rows.push(cells);
    }
    rows
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        fixture::{World, snapshots, world},
    };

    fn args(line: &str) -> ServicesArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Services(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn node(w: World) -> NodeSample {
        NodeSample { status: w.status, frontends: w.programmed, counters: w.counters }
    }

    fn shown(line: &str) -> String {
        let args = args(line);
        let before = Sample::of_one(node(world()));
        let before = args.rate.then_some(&before);
        let now = Sample::of_one(node(world().later(2000)));
        render(&args, &services(now, before, args.frontend.as_deref())).unwrap()
    }

    #[test]
    fn tables_and_documents() {
        snapshots().bind(|| {
            insta::assert_snapshot!("services", shown("x services"));
            insta::assert_snapshot!("services-stats", shown("x services --stats"));
            insta::assert_snapshot!("services-stats-exact", shown("x services --stats --exact 10.96.0.10"));
            insta::assert_snapshot!("services-rate", shown("x services --rate"));
            insta::assert_snapshot!("services-json", shown("x services --rate 10.96.0.10:53/udp -o json"));
        });
    }

    #[test]
    fn frontends_are_found_by_what_leads_to_them() {
        for (asked, count) in [
            ("10.96.0.10", 2),
            ("10.96.0.10:53", 2),
            ("10.96.0.10:53/udp", 1),
            ("[fd00:96::7]:443", 1),
            ("kube-system/kube-dns", 2),
            ("bl/edge-proxy", 2),
            ("lr/edge-proxy", 0),
        ] {
            assert_eq!(shown(&format!("x services -o name {asked}")).lines().count(), count, "{asked}");
        }
    }

    #[test]
    fn many_nodes_are_listed_one_after_the_other() {
        let mut other = world();
        other.status.node.name = "n2".to_owned();
        other.programmed.items.truncate(1);
        let sample = Sample { nodes: vec![node(world()), node(other)], ..Sample::default() };
        let services = services(sample, None, None);
        assert_eq!(services.items.len(), 9);
        let text = text(&args("x services"), &services);
        assert!(text.starts_with("Node n1\nPROT") && text.contains("\n\nNode n2\nPROT"), "{text}");
    }

    #[test]
    fn names_from_outside_are_harmless() {
        let mut world = world();
        world.programmed.items[0].rungs[0].service = Some("a/\u{1b}[2J".to_owned());
        world.programmed.items[0].rungs[0].backends[0].pod = Some(format!("x/{}\n", "y".repeat(253)));
        let services = services(Sample::of_one(node(world)), None, None);
        let text = text(&args("x services"), &services);
        assert!(!text.contains('\u{1b}') && text.contains("svc/a/^[[2J"), "{text}");
    }
}
