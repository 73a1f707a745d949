//! etcd, API server and controller manager in a namespace of the tests' network.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{binaries::program, kube::Kube, pki, process::Process};
use crate::{network::Network, run, wait};

/// How long a program of the control plane may take to serve; a machine that compiles beside needs some seconds.
const SERVES: Duration = Duration::from_secs(120);
/// Port of the API server.
const API: u16 = 6443;
/// Ports of etcd, for clients and for its peers, of which it has none.
const ETCD: [u16; 2] = [2379, 2380];
/// Users of the token file besides service accounts: token, name, groups. A test binds rights to `viewer` and `nobody`.
const USERS: [(&str, &str, &str); 4] = [
    ("admin-token", "admin", "system:masters"),
    ("controller-token", "system:kube-controller-manager", ""),
    ("viewer-token", "viewer", "viewers"),
    ("nobody-token", "nobody", ""),
];

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How a control plane is started.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// More flags of kube-apiserver.
    pub api_flags: Vec<String>,
}

/// A running control plane. RBAC is on; EndpointSlices, Pods of DaemonSets and Deployments and the collection of
/// garbage are the controller manager's; there is no scheduler and no kubelet.
#[derive(Debug)]
pub struct ControlPlane {
    // Ended in this order: an API server whose etcd goes first hangs.
    controllers: Option<Process>,
    api: Option<Process>,
    etcd: Option<Process>,
    netns: String,
    address: IpAddr,
    folder: Folder,
    authority: String,
    options: ControlPlaneOptions,
}

/// A folder that goes with its value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(keep) = std::env::var_os("BALANCING_E2E_KEEP") {
            for log in ["etcd", "kube-apiserver", "kube-controller-manager"].map(|n| format!("{n}.log")) {
                let own = self.0.file_name().unwrap_or_default().to_string_lossy();
                fs::copy(self.0.join(&log), Path::new(&keep).join(format!("{own}-{log}"))).ok();
            }
        }
        if let Err(e) = fs::remove_dir_all(&self.0) {
            eprintln!("failed to remove {}: {e}", self.0.display());
        }
    }
}

impl ControlPlane {
    /// Starts one in the namespace of that name and waits until objects can be made.
    ///
    /// # Errors
    /// One of its programs ends or does not serve in time; the error holds the end of its log.
    pub fn start(network: &Network, name: &str, options: ControlPlaneOptions) -> Result<Self> {
        let own = run::name(&format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let folder = Folder(run::memory().join(own));
        fs::create_dir(&folder.0).with_context(|| format!("failed to make {}", folder.0.display()))?;
        let address = network.v4(name);
        let authority = pki::write(&folder.0, &[address, IpAddr::from([10, 96, 0, 1])])?;
        let users = USERS.iter().enumerate().map(|(id, (token, user, groups))| {
            // The last column may hold several groups and is quoted; an empty one would be a group without a name.
            if groups.is_empty() {
                format!("{token},{user},{id}\n")
            } else {
                format!("{token},{user},{id},\"{groups}\"\n")
            }
        });
        fs::write(folder.0.join("tokens.csv"), users.collect::<String>())?;
        let netns = network.netns(name);
        let mut plane =
            Self { controllers: None, api: None, etcd: None, netns, address, folder, authority, options };
        plane.start_etcd()?;
        plane.start_api()?;
        plane.start_controllers()?;
        plane.wait_for_accounts()?;
        Ok(plane)
    }

    fn path(&self, name: &str) -> String {
        self.folder.0.join(name).display().to_string()
    }

    fn launch(&self, name: &str, flags: &[String]) -> Result<Process> {
        let log = self.folder.0.join(format!("{name}.log"));
        Process::start(&self.netns, None, &program(name)?, log, |command| {
            command.args(flags);
        })
    }

    fn start_etcd(&mut self) -> Result<()> {
        let [client, peer] = ETCD.map(|port| format!("http://127.0.0.1:{port}"));
        let flags = [
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // The data ends with the test.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        self.etcd = Some(self.launch("etcd", &flags)?);
        Ok(())
    }

    /// Starts the API server, which is not running, and waits until it serves.
    ///
    /// # Errors
    /// It ends or does not serve in time.
    pub fn start_api(&mut self) -> Result<()> {
        let file = |name| self.path(name);
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", ETCD[0]),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={API}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".to_owned(),
            "--allow-privileged=true".to_owned(),
            // No kube-proxy is beside it: it finds webhooks and proxied Services by their endpoints.
            "--enable-aggregator-routing=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        flags.extend(self.options.api_flags.iter().cloned());
        self.api = Some(self.launch("kube-apiserver", &flags)?);
        let kube = self.admin()?;
        let mut last = String::new();
        let ready = wait::until(
            SERVES,
            || "the API server's /readyz".to_owned(),
            || {
                for process in [&mut self.etcd, &mut self.api].into_iter().flatten() {
                    if let Some(status) = process.ended()? {
                        bail!("it ended with {status}: {}", process.log_tail());
                    }
                }
                match kube.get("/readyz") {
                    Ok(answer) if answer.status == 200 => return Ok(Some(())),
                    Ok(answer) => last = answer.text,
                    Err(e) => last = format!("{e:#}"),
                }
                Ok(None)
            },
        );
        ready.with_context(|| last)
    }

    /// Kills the API server; connections to it break, and new ones are refused.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill_api(&mut self) -> Result<()> {
        self.api.take().context("the API server is not running")?.kill()
    }

    fn start_controllers(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig("controller")?.display().to_string();
        let flags = [
            format!("--kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            // Without it the controllers have no rights, and there are no slices at all.
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", self.path("sa.key")),
            format!("--root-ca-file={}", self.path("ca.crt")),
            format!("--flex-volume-plugin-dir={}", self.path("flex")),
            "--bind-address=127.0.0.1".to_owned(),
            "--secure-port=0".to_owned(),
            "--authentication-kubeconfig=".to_owned(),
            "--authentication-skip-lookup".to_owned(),
            // Nobody renews the leases of nodes without a kubelet.
            "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller"
                .to_owned(),
            // Starting the controllers costs some 100 requests, at the default rate 4 s.
            "--kube-api-qps=300".to_owned(),
            "--kube-api-burst=600".to_owned(),
            "--concurrent-service-endpoint-syncs=10".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.controllers = Some(self.launch("kube-controller-manager", &flags)?);
        Ok(())
    }

    /// A pod can be made once its namespace has its service account.
    fn wait_for_accounts(&mut self) -> Result<()> {
        let kube = self.admin()?;
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        wait::until(
            SERVES,
            || "the service account of namespace default".to_owned(),
            || {
                if let Some(process) = &mut self.controllers
                    && let Some(status) = process.ended()?
                {
                    bail!("the controller manager ended with {status}: {}", process.log_tail());
                }
                Ok((kube.get(account)?.status == 200).then_some(()))
            },
        )
    }

    /// The address and port of the API server.
    #[must_use]
    pub fn server(&self) -> (IpAddr, u16) {
        (self.address, API)
    }

    /// The certificate of its authority, as PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A folder for files that go with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// A client with every right.
    ///
    /// # Errors
    /// Its kubeconfig cannot be written.
    pub fn admin(&self) -> Result<Kube> {
        self.client("admin")
    }

    /// A client of a user of the token file: `admin`, `viewer` (group `viewers`, no rights of its own), `nobody`.
    ///
    /// # Errors
    /// There is no such user.
    pub fn client(&self, user: &str) -> Result<Kube> {
        Kube::connect(&self.kubeconfig(user)?)
    }

    /// The kubeconfig of a user of the token file.
    ///
    /// # Errors
    /// There is no such user, or it cannot be written.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let token = format!("{user}-token");
        if !USERS.iter().any(|(t, ..)| *t == token) {
            bail!("no user {user} in the token file");
        }
        self.kubeconfig_with(user, &token)
    }

    /// A kubeconfig that carries a token.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig_with(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.0.join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {
                "server": format!("https://{}:{API}", self.address),
                "certificate-authority": self.path("ca.crt"),
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        });
        fs::write(&path, config.to_string())
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }
}
