//! One connection at a time: who asks what, who should answer, and who did.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result};
use balancing_api::agent::PolicyState;

use super::{
    head, say,
    stage::{DNS, Stage},
    verdict::Checks,
};
use crate::{protocol::TrafficKind, run, wait};

/// HTTP requests: dialled, who answers, why.
const REQUESTS: [([u8; 4], u16, &str, &str); 9] = [
    ([10, 96, 0, 80], 8080, "web-cache", "policy test-service, first port"),
    ([10, 96, 0, 80], 80, "web-cache", "policy test-service, second port"),
    ([10, 96, 0, 80], 9153, "web", "a port not in the policy: the Service's own pod"),
    ([169, 254, 0, 90], 8080, "web-cache", "policy test-addr: an address that nobody has"),
    ([169, 254, 0, 90], 80, "web-cache", "policy test-addr, second port"),
    ([169, 254, 0, 90], 81, "error: No route to host (os error 113)", "a port not in the policy: left alone"),
    ([10, 96, 0, 1], 443, "api-proxy", "policy test: the API server, by the local proxy"),
    ([10, 96, 0, 90], 80, "shop-cache", "policy shop: to port 8080"),
    ([10, 96, 0, 90], 443, "shop-cache", "policy shop: to port 8443"),
];
/// How long a change may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// The story.
pub(super) struct Story<'a, 'n> {
    pub(super) stage: &'a mut Stage<'n>,
    pub(super) checks: &'a mut Checks,
}

impl Story<'_, '_> {
    /// Tells it.
    pub(super) fn tell(&mut self) -> Result<()> {
        head("One connection at a time");
        say("What is dialled, who answered, and why. The policies are in examples/.");
        for (address, port, want, why) in REQUESTS {
            let to = SocketAddr::from((address, port));
            let who = self.stage.client()?.ask(TrafficKind::Http, to)?;
            self.line(&format!("http://{to}"), &who, want, why);
        }
        self.dig("node-local cache", "policy node-local-dns: by the node's own cache")?;
        self.resolve()?;
        self.fall_back()
    }

    fn line(&mut self, asked: &str, who: &str, want: &str, why: &str) {
        let shown = if who.starts_with("error") { "nobody" } else { who };
        say(&format!("  {asked:<26} {shown:<17} {why}"));
        self.checks.that(who == want, || format!("{asked} was answered by {who:?}, expected {want:?}"));
    }

    /// `dig` in the client pod.
    fn dig(&mut self, want: &str, why: &str) -> Result<()> {
        let mut dig = self.stage.in_pod("client", "dig")?;
        dig.arg(format!("@{}", DNS.ip())).args(["+short", "+tries=1", "+time=2", "TXT", crate::dns::WHOAMI]);
        let who = run::output(&mut dig)?;
        self.line(&format!("dig @{}", DNS.ip()), who.trim().trim_matches('"'), want, why);
        Ok(())
    }

    /// The C library's resolver, of a pod and of the host, for a name that the cache has to ask CoreDNS for.
    fn resolve(&mut self) -> Result<()> {
        let name = "shop.default.svc.cluster.local";
        let resolv = self.stage.scratch("resolv.conf", &format!("nameserver {}\n", DNS.ip()))?;
        let nss = self.stage.scratch("nsswitch.conf", "hosts: dns\n")?;
        let why = "the cache asked CoreDNS, by the same 10.96.0.10";
        // A mount namespace of its own: the machine's files stay as they are.
        let script = r#"mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf && exec getent ahostsv4 "$3""#;
        for (who, mut command) in
            [("pod", self.stage.in_pod("client", "unshare")?), ("host", self.stage.on_host("unshare")?)]
        {
            command.args(["--mount", "sh", "-c", script, "sh"]).args([&resolv, &nss]).arg(name);
            let answer = resolved(&mut command).with_context(|| format!("getent on the {who}"))?;
            self.line(&format!("getent shop... ({who})"), &answer, "10.96.0.90", why);
        }
        Ok(())
    }

    /// The cache is not Ready, and is again.
    fn fall_back(&mut self) -> Result<()> {
        head("The local pod goes, and comes back");
        let cache = self.stage.dns_cache()?;
        for (ready, state, want, why) in [
            (false, PolicyState::Fallback, "CoreDNS", "not Ready: the Service's own pods, at once"),
            (true, PolicyState::Programmed, "node-local cache", "Ready again"),
        ] {
            cache.set_ready(ready)?;
            let stage = &self.stage;
            wait::until(
                PATIENCE,
                || format!("policy node-local-dns {state:?}"),
                || Ok((stage.state("node-local-dns")? == state).then_some(())),
            )?;
            self.dig(want, why)?;
        }
        Ok(())
    }
}

/// The first address that `getent ahostsv4` prints.
fn resolved(command: &mut Command) -> Result<String> {
    Ok(run::output(command)?.split_whitespace().next().unwrap_or("nothing").to_owned())
}
