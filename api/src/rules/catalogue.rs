//! Every rule with its explanation and examples: the one source of `--list-rules`, `--explain` and docs/rules.

use super::Severity;

/// The codes, by what they are about. A code is never given to another rule.
pub(super) mod code {
    pub(in crate::rules) const UNKNOWN_FIELD: &str = "BAL0002";
    pub(in crate::rules) const KIND: &str = "BAL0003";
    pub(in crate::rules) const NAME: &str = "BAL0005";
    pub(in crate::rules) const TYPE: &str = "BAL0006";
    pub(in crate::rules) const CHOICE: &str = "BAL0007";
    pub(in crate::rules) const NAMESPACE: &str = "BAL0008";
    pub(in crate::rules) const SUPPRESSION: &str = "BAL0009";
    pub(in crate::rules) const ONE_OF: &str = "BAL0101";
    pub(in crate::rules) const PORT: &str = "BAL0102";
    pub(in crate::rules) const PROTOCOL: &str = "BAL0103";
    pub(in crate::rules) const PAIRING: &str = "BAL0104";
    pub(in crate::rules) const DUPLICATE: &str = "BAL0105";
    pub(in crate::rules) const ADDRESS: &str = "BAL0106";
    pub(in crate::rules) const SELECTOR: &str = "BAL0107";
    pub(in crate::rules) const SERVICE_ID: &str = "BAL0108";
    pub(in crate::rules) const MISPLACED_PORTS: &str = "BAL0109";
    pub(in crate::rules) const REFERENCE: &str = "BAL0110";
    pub(in crate::rules) const LIMIT: &str = "BAL0111";
    pub(in crate::rules) const FAMILY: &str = "BAL0112";
    pub(in crate::rules) const SERVICE_CONFLICT: &str = "BAL0201";
    pub(in crate::rules) const ADDRESS_CONFLICT: &str = "BAL0202";
    pub(in crate::rules) const SHADOWED_SERVICE: &str = "BAL0203";
    pub(in crate::rules) const API_SERVER: &str = "BAL0204";
    pub(in crate::rules) const SAME_OBJECT: &str = "BAL0205";
    pub(in crate::rules) const UNFIT_SERVICE: &str = "BAL0301";
    pub(in crate::rules) const SERVICE_PORT: &str = "BAL0302";
    pub(in crate::rules) const NO_POD: &str = "BAL0303";
    pub(in crate::rules) const POD_PORT: &str = "BAL0304";
    pub(in crate::rules) const NODE_PROXY: &str = "BAL0305";
    pub(in crate::rules) const NOT_EVERY_NODE: &str = "BAL0306";
    pub(in crate::rules) const TINY_LIMIT: &str = "BAL0402";
    pub(in crate::rules) const LOOP: &str = "BAL0407";
}

/// The text is no YAML.
pub(super) const SYNTAX: &str = "BAL0001";
/// A plain scalar that other readers take for something else.
pub(super) const AMBIGUOUS: &str = "BAL0004";

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// `BAL0102`
    pub code: &'static str,
    /// How bad a breach usually is; a finding has a severity of its own.
    pub severity: Severity,
    /// One line.
    pub title: &'static str,
    /// Why the rule exists and what happens to a policy that breaks it.
    pub explanation: &'static str,
    /// A manifest that breaks this rule and no other.
    pub bad: Example,
    /// The same, put right.
    pub good: Example,
}

/// A manifest: a base in which some places are changed.
#[derive(Debug)]
pub struct Example {
    base: &'static str,
    changes: &'static [(&'static str, &'static str)],
}

impl Example {
    /// The manifest's text.
    #[must_use]
    pub fn text(&self) -> String {
        self.changes.iter().fold(self.base.to_owned(), |text, (old, new)| {
            debug_assert!(text.contains(old), "{old:?} is not in the example");
            text.replacen(old, new, 1)
        })
    }
}

/// The rule of that code, in any case.
#[must_use]
pub fn rule(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.code.eq_ignore_ascii_case(code))
}

/// The page of a rule, as Markdown.
#[must_use]
pub fn page(rule: &Rule) -> String {
    let Rule { code, severity, title, explanation, bad, good } = rule;
    let (bad, good) = (bad.text(), good.text());
    format!(
        "# {code}: {title}\n\nSeverity: {severity}\n\n{explanation}\n\n## Wrong\n\n```yaml\n{bad}```\n\n## Right\n\n```yaml\n{good}```\n"
    )
}

/// A policy for a VIP, right in every way.
const ADDRESS: &str = "\
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: web
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.90
      toPorts:
        - port: \"80\"
          protocol: TCP
          name: http
  backend:
    endpointSelector:
      matchLabels:
        app: web
    toPorts:
      - port: \"8080\"
        protocol: TCP
        name: http
";

/// A policy for a Service, right in every way.
const SERVICE: &str = "\
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: node-local-dns
spec:
  frontend:
    serviceMatcher:
      serviceName: kube-dns
      namespace: kube-system
      toPorts:
        - port: \"53\"
          protocol: UDP
          name: dns
        - port: \"53\"
          protocol: TCP
          name: dns-tcp
  backend:
    endpointSelector:
      matchLabels:
        k8s-app: node-local-dns
    toPorts:
      - port: \"53\"
        protocol: UDP
        name: dns
      - port: \"53\"
        protocol: TCP
        name: dns-tcp
";

/// A BalancingPolicy, right in every way.
const BALANCING: &str = "\
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata:
  name: registry
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.80
      toPorts:
        - port: \"443\"
          protocol: TCP
  backend:
    addressEndpoint:
      addresses:
        - 10.20.0.5
        - 10.20.0.6
      toPorts:
        - port: \"8443\"
          protocol: TCP
";

/// Two policies for one Service, each with a port of its own.
const TWO_SERVICES: &str = "\
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: cache-a
  creationTimestamp: \"2026-01-01T00:00:00Z\"
spec:
  frontend:
    serviceMatcher:
      serviceName: cache
      namespace: default
      toPorts:
        - {port: \"6379\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: cache-a}
    toPorts:
      - {port: \"6379\", protocol: TCP}
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: cache-b
  creationTimestamp: \"2026-02-01T00:00:00Z\"
spec:
  frontend:
    serviceMatcher:
      serviceName: cache
      namespace: default
      toPorts:
        - {port: \"6380\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: cache-b}
    toPorts:
      - {port: \"6379\", protocol: TCP}
";

/// Two policies of both kinds with VIPs of their own.
const TWO_ADDRESSES: &str = "\
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata:
  name: images
  annotations:
    balancing.elf.io/serviceId: \"20003\"
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.81
      toPorts:
        - {port: \"443\", protocol: TCP}
  backend:
    addressEndpoint:
      addresses: [10.20.0.5]
      toPorts:
        - {port: \"8443\", protocol: TCP}
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: image-cache
  annotations:
    balancing.elf.io/serviceId: \"20004\"
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.82
      toPorts:
        - {port: \"443\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: image-cache}
    toPorts:
      - {port: \"5000\", protocol: TCP}
";

/// A Service and a policy for it.
const SERVICE_AND_POLICY: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  clusterIP: 10.96.0.30
  ports:
    - {name: http, port: 80, targetPort: 8080}
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: web
spec:
  frontend:
    serviceMatcher:
      serviceName: web
      namespace: shop
      toPorts:
        - {port: \"80\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: web-cache}
    toPorts:
      - {port: \"8080\", protocol: TCP}
";

/// A Service and a policy for an address of its own.
const SERVICE_AND_ADDRESS: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  clusterIP: 10.96.0.30
  ports:
    - {name: http, port: 80, targetPort: 8080}
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: web
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.90
      toPorts:
        - {port: \"80\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: web-cache}
    toPorts:
      - {port: \"8080\", protocol: TCP}
";

/// A pod of a manifests folder and a policy that selects it.
const POD_AND_POLICY: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web-cache
  namespace: shop
  labels: {app: web-cache}
spec:
  nodeName: n1
  containers:
    - name: cache
      ports:
        - {containerPort: 8080}
status:
  phase: Running
  podIPs: [{ip: 10.244.1.7}]
  conditions:
    - {type: Ready, status: \"True\"}
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: web
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.90
      toPorts:
        - {port: \"80\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: web-cache}
    toPorts:
      - {port: \"8080\", protocol: TCP}
";

/// A workload and a policy that selects its pods.
const WORKLOAD_AND_POLICY: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: web-cache
  namespace: shop
spec:
  selector:
    matchLabels: {app: web-cache}
  template:
    metadata:
      labels: {app: web-cache}
    spec:
      containers:
        - name: cache
---
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: web
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.90
      toPorts:
        - {port: \"80\", protocol: TCP}
  backend:
    endpointSelector:
      matchLabels: {app: web-cache}
    toPorts:
      - {port: \"8080\", protocol: TCP}
";

/// A node with a proxy, and a policy that leads to the proxies of nodes.
const NODE_AND_POLICY: &str = "\
apiVersion: v1
kind: Node
metadata:
  name: n1
  annotations:
    balancing.elf.io/nodeProxyIpv4: 10.10.1.100
---
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata:
  name: web
spec:
  frontend:
    addressMatcher:
      ip: 169.254.0.90
      toPorts:
        - {port: \"80\", protocol: TCP}
  backend:
    serviceEndpoint:
      redirectMode: nodeProxy
      endpointSelector:
        matchLabels: {app: web}
      toPorts:
        - {port: \"8080\", protocol: TCP}
";

const fn right(base: &'static str) -> Example {
    Example { base, changes: &[] }
}

const fn changed(base: &'static str, changes: &'static [(&'static str, &'static str)]) -> Example {
    Example { base, changes }
}

/// All rules, by code.
pub const RULES: &[Rule] = &[
    Rule {
        code: SYNTAX,
        severity: Severity::Error,
        title: "the text is no YAML",
        explanation: "A file has to be YAML 1.2 (JSON is). A key that stands twice in one mapping, a tab as indentation, \
            a NUL byte, more than 128 levels of nesting and aliases that expand to more than 16 MiB are errors too: \
            readers disagree on what they mean. An agent keeps the last good state of such a file; what stands behind \
            the error in the file is not read.",
        bad: changed(ADDRESS, &[("  name: web\n", "  name: web\n  name: shop\n")]),
        good: right(ADDRESS),
    },
    Rule {
        code: code::UNKNOWN_FIELD,
        severity: Severity::Error,
        title: "a field that the kind does not have",
        explanation: "An API server drops unknown fields without a word, and an agent ignores them, so a misspelt field \
            looks applied and does nothing. The rest of the object applies, unless the misspelt field is one that has to \
            be there or narrows a selector.",
        bad: changed(ADDRESS, &[("spec:\n", "spec:\n  config:\n    onNoBackends: Refuse\n")]),
        good: changed(ADDRESS, &[("spec:\n", "spec:\n  config:\n    onNoBackend: Refuse\n")]),
    },
    Rule {
        code: code::KIND,
        severity: Severity::Error,
        title: "apiVersion and kind name no policy",
        explanation: "The policies are LocalRedirectPolicy and BalancingPolicy of balancing.elf.io/v1beta1. With another \
            apiVersion or kind the object is nobody's: it is not applied. A document without apiVersion and kind that \
            does not look like a policy is only mentioned.",
        bad: changed(ADDRESS, &[("v1beta1", "v1")]),
        good: right(ADDRESS),
    },
    Rule {
        code: AMBIGUOUS,
        severity: Severity::Warning,
        title: "a value without quotes that readers take for different things",
        explanation: "YAML 1.2, which is used here, reads yes, no, on and off as text and 0010 as ten. kubectl reads YAML \
            1.1: booleans, and octal eight. Quotes make it the same everywhere.",
        bad: changed(ADDRESS, &[("        app: web\n", "        app: web\n        canary: yes\n")]),
        good: changed(ADDRESS, &[("        app: web\n", "        app: web\n        canary: \"yes\"\n")]),
    },
    Rule {
        code: code::NAME,
        severity: Severity::Error,
        title: "the policy has no valid name",
        explanation: "A policy is known by metadata.name, a DNS subdomain: at most 253 of a-z, 0-9, - and ., with a \
            letter or digit at each end of every part. Without one it is not applied.",
        bad: changed(ADDRESS, &[("name: web", "name: Web_Cache")]),
        good: changed(ADDRESS, &[("name: web", "name: web-cache")]),
    },
    Rule {
        code: code::TYPE,
        severity: Severity::Error,
        title: "a field is missing, empty, or of the wrong type",
        explanation: "Every policy needs a frontend and a backend, with their ports; lists are lists, and text is text: \
            YAML makes a number or a boolean of some words unless they are in quotes. The policy is not applied.",
        bad: changed(ADDRESS, &[("          protocol: TCP\n", "")]),
        good: right(ADDRESS),
    },
    Rule {
        code: code::CHOICE,
        severity: Severity::Error,
        title: "a word that is not one of the choices",
        explanation: "spec.config.onNoBackend is Fallback (the default) or Refuse; redirectMode of a BalancingPolicy is \
            podEndpoint (the default), nodeProxy or hostPort. Case counts. The policy is not applied.",
        bad: changed(ADDRESS, &[("spec:\n", "spec:\n  config:\n    onNoBackend: refuse\n")]),
        good: changed(ADDRESS, &[("spec:\n", "spec:\n  config:\n    onNoBackend: Refuse\n")]),
    },
    Rule {
        code: code::NAMESPACE,
        severity: Severity::Warning,
        title: "a policy has no namespace",
        explanation: "Policies are cluster-scoped: there is one of a name, whatever namespace is written, and it is for \
            pods of all namespaces. The namespace is ignored. Where backend pods may live is said by namespaces in \
            spec.backend.",
        bad: changed(ADDRESS, &[("  name: web\n", "  name: web\n  namespace: shop\n")]),
        good: changed(
            ADDRESS,
            &[("    endpointSelector:\n", "    namespaces: [shop]\n    endpointSelector:\n")],
        ),
    },
    Rule {
        code: code::SUPPRESSION,
        severity: Severity::Warning,
        title: "a suppression that names no rule",
        explanation: "The annotation balancing.elf.io/suppress lists codes of rules, separated by commas, whose findings \
            about this policy are not reported. A code that does not exist suppresses nothing. What keeps a policy from \
            being applied is reported in spite of any suppression.",
        bad: changed(
            ADDRESS,
            &[("  name: web\n", "  name: web\n  annotations:\n    balancing.elf.io/suppress: BAL9999\n")],
        ),
        good: changed(
            ADDRESS,
            &[(
                "  name: web\n",
                "  name: web\n  annotations:\n    balancing.elf.io/suppress: BAL0203, BAL0306\n",
            )],
        ),
    },
    Rule {
        code: code::ONE_OF,
        severity: Severity::Error,
        title: "exactly one of two fields",
        explanation: "A frontend is one VIP (addressMatcher) or one Service (serviceMatcher); the backend of a \
            BalancingPolicy is fixed addresses (addressEndpoint) or pods (serviceEndpoint). With none or both the policy \
            is not applied. The schema of the CRD does not check this.",
        bad: changed(
            ADDRESS,
            &[(
                "    addressMatcher:\n",
                "    serviceMatcher:\n      serviceName: web\n      namespace: default\n    addressMatcher:\n",
            )],
        ),
        good: right(ADDRESS),
    },
    Rule {
        code: code::PORT,
        severity: Severity::Error,
        title: "a port that is no number from 1 to 65535",
        explanation: "A port is a whole number, as text or as a number, without leading zeros, signs or blanks. Names of \
            ports are not looked up here. The policy is not applied. The schema of the CRD lets 0080 pass.",
        bad: changed(ADDRESS, &[("\"80\"", "\"0080\"")]),
        good: right(ADDRESS),
    },
    Rule {
        code: code::PROTOCOL,
        severity: Severity::Error,
        title: "a protocol that is neither TCP nor UDP",
        explanation: "TCP and UDP are translated, SCTP and everything else is not: the policy is not applied. Lower case \
            is understood by an agent and refused by an API server, so it is a warning.",
        bad: changed(ADDRESS, &[("protocol: TCP", "protocol: SCTP")]),
        good: right(ADDRESS),
    },
    Rule {
        code: code::PAIRING,
        severity: Severity::Error,
        title: "a frontend port without its backend port",
        explanation: "Frontend and backend ports pair by name and protocol; where each list has one port, they pair \
            without names. The order does not matter. A frontend port without a partner is not redirected, the others \
            are; where no port pairs, or where two ports cannot be told apart, the policy is not applied. A backend port \
            that nobody uses is a warning.",
        bad: changed(
            SERVICE,
            &[(
                "        protocol: TCP\n        name: dns-tcp\n",
                "        protocol: TCP\n        name: tcp\n",
            )],
        ),
        good: right(SERVICE),
    },
    Rule {
        code: code::DUPLICATE,
        severity: Severity::Error,
        title: "something that stands twice in one list",
        explanation: "A frontend may list a port and protocol once, and a name may stand once for each protocol: otherwise \
            which port leads where is anybody's guess, and the policy is not applied. Backend ports may repeat a number. \
            A fixed address that is given twice counts once, with a warning.",
        bad: changed(
            ADDRESS,
            &[(
                "          name: http\n",
                "          name: http\n        - port: \"80\"\n          protocol: TCP\n          name: alt\n",
            )],
        ),
        good: right(ADDRESS),
    },
    Rule {
        code: code::ADDRESS,
        severity: Severity::Error,
        title: "an address that cannot be dialled",
        explanation: "A VIP is one IPv4 or IPv6 address, without blanks, zone, prefix length or port. Unspecified, \
            loopback, multicast and broadcast addresses are refused: programs use them for themselves. The policy is not \
            applied. A backend address at loopback is a warning, for it works in the node's own network alone. The \
            schema of the CRD lets blanks and zones pass and does not check backend addresses at all.",
        bad: changed(ADDRESS, &[("169.254.0.90", "127.0.0.1")]),
        good: right(ADDRESS),
    },
    Rule {
        code: code::SELECTOR,
        severity: Severity::Error,
        title: "a label selector that is invalid or selects everything",
        explanation: "The operators are In and NotIn, with values, and Exists and DoesNotExist, without. Keys and values \
            have the syntax of labels. With an invalid selector the policy is not applied. An empty endpointSelector \
            selects every pod (of the node, for a LocalRedirectPolicy), which is rarely meant: a warning.",
        bad: changed(
            ADDRESS,
            &[(
                "      matchLabels:\n        app: web\n",
                "      matchExpressions:\n        - {key: app, operator: Equals, values: [web]}\n",
            )],
        ),
        good: changed(
            ADDRESS,
            &[(
                "      matchLabels:\n        app: web\n",
                "      matchExpressions:\n        - {key: app, operator: In, values: [web]}\n",
            )],
        ),
    },
    Rule {
        code: code::SERVICE_ID,
        severity: Severity::Error,
        title: "a serviceId that is no number or not unique",
        explanation: "The annotation balancing.elf.io/serviceId is a decimal number from 1 to 4294967295, the same for no \
            two policies of either kind. It is a label for people and tools; an invalid one is ignored and the policy \
            applies. Without the annotation an id is assigned.",
        bad: changed(
            ADDRESS,
            &[("  name: web\n", "  name: web\n  annotations:\n    balancing.elf.io/serviceId: \"0\"\n")],
        ),
        good: changed(
            ADDRESS,
            &[("  name: web\n", "  name: web\n  annotations:\n    balancing.elf.io/serviceId: \"10091\"\n")],
        ),
    },
    Rule {
        code: code::MISPLACED_PORTS,
        severity: Severity::Warning,
        title: "toPorts beside a matcher instead of inside",
        explanation: "The ports of a frontend belong into its matcher. Beside serviceMatcher they are read as if they \
            stood inside, because published examples have them there; another reader may ignore them and take all ports \
            of the Service. In both places at once, or beside addressMatcher, the policy is not applied.",
        bad: changed(
            SERVICE,
            &[(
                "      toPorts:\n        - port: \"53\"\n          protocol: UDP\n          name: dns\n",
                "    toPorts:\n        - port: \"53\"\n          protocol: UDP\n          name: dns\n",
            )],
        ),
        good: right(SERVICE),
    },
    Rule {
        code: code::REFERENCE,
        severity: Severity::Error,
        title: "a name that no Service or namespace can have",
        explanation: "Services and namespaces are called by DNS labels: at most 63 of a-z, 0-9 and -, with a letter or \
            digit at each end. A Service is given by its name and its namespace, in two fields, not by a DNS name. The \
            policy is not applied.",
        bad: changed(SERVICE, &[("serviceName: kube-dns", "serviceName: kube-dns.kube-system.svc")]),
        good: right(SERVICE),
    },
    Rule {
        code: code::LIMIT,
        severity: Severity::Error,
        title: "a limit that is no number from 0 to 4294967295",
        explanation: "spec.qos.redirectsPerSecond is a whole number without quotes: redirects a second on each node, all \
            ports and families of the policy together. 0 is no limit, and without the field the agent's default is used. \
            Above the limit connections are not dropped, they go where they would without the policy. With an invalid \
            limit the policy is not applied.",
        bad: changed(ADDRESS, &[("spec:\n", "spec:\n  qos:\n    redirectsPerSecond: -1\n")]),
        good: changed(ADDRESS, &[("spec:\n", "spec:\n  qos:\n    redirectsPerSecond: 100\n")]),
    },
    Rule {
        code: code::FAMILY,
        severity: Severity::Error,
        title: "VIP and backend addresses of different families",
        explanation: "A connection keeps its family: a client of an IPv4 VIP is never sent to an IPv6 address or the other \
            way round. Where no backend address is of the VIP's family the policy does nothing; where some are, the \
            others are never used, which is a warning.",
        bad: changed(BALANCING, &[("169.254.0.80", "fd00::80")]),
        good: right(BALANCING),
    },
    Rule {
        code: code::SERVICE_CONFLICT,
        severity: Severity::Error,
        title: "two policies take the same port of a Service",
        explanation: "A frontend has one policy on each node: the older one by creationTimestamp (none counts as oldest), \
            then a LocalRedirectPolicy before a BalancingPolicy, then the name. The other does nothing for these ports. \
            Policies on different ports of a Service do not conflict, nor do those whose node selectors exclude each \
            other; where the selectors differ and may meet it is a warning.",
        bad: changed(TWO_SERVICES, &[("6380", "6379")]),
        good: right(TWO_SERVICES),
    },
    Rule {
        code: code::ADDRESS_CONFLICT,
        severity: Severity::Error,
        title: "two policies take the same port of a VIP",
        explanation: "As BAL0201, for policies with an addressMatcher of the same address, of either kind.",
        bad: changed(TWO_ADDRESSES, &[("169.254.0.82", "169.254.0.81")]),
        good: right(TWO_ADDRESSES),
    },
    Rule {
        code: code::SHADOWED_SERVICE,
        severity: Severity::Info,
        title: "the VIP is the ClusterIP of a Service",
        explanation: "A policy for an address that a Service has comes before the Service on the ports that it lists; the \
            Service's other ports are left alone, and it serves again where the policy has no backend. serviceMatcher \
            says the same by name, in every family, and follows the Service when its address changes. Only Services that \
            stand in the same files are known to this rule.",
        bad: changed(SERVICE_AND_ADDRESS, &[("169.254.0.90", "10.96.0.30")]),
        good: right(SERVICE_AND_ADDRESS),
    },
    Rule {
        code: code::API_SERVER,
        severity: Severity::Info,
        title: "the policy takes over the address of the API server",
        explanation: "default/kubernetes is how programs in pods reach the API server. Redirecting it to a proxy on the \
            node is a good use of a policy, and one that can lock programs out when the proxy runs and does not work. \
            When no proxy is Ready the normal way is taken, whatever onNoBackend says. A policy with an \
            addressMatcher is known to do the same only where default/kubernetes stands in the same files.",
        bad: changed(SERVICE, &[("kube-dns", "kubernetes"), ("kube-system", "default")]),
        good: right(SERVICE),
    },
    Rule {
        code: code::SAME_OBJECT,
        severity: Severity::Error,
        title: "the same policy is given twice",
        explanation: "A policy is known by kind and name. Of two files with the same one an agent takes the first path in \
            byte order, kubectl the last that is applied; the other is ignored or overwritten.",
        bad: changed(TWO_SERVICES, &[("name: cache-b", "name: cache-a")]),
        good: right(TWO_SERVICES),
    },
    Rule {
        code: code::UNFIT_SERVICE,
        severity: Severity::Error,
        title: "the Service has no address to take over",
        explanation: "serviceMatcher means the ClusterIPs of a Service. A headless Service and an ExternalName have none: \
            clients get other addresses from DNS, and the policy does nothing. Only Services that stand in the same files \
            are known to this rule; where these hold Pods of nodes, as the manifests folder of an agent does, a Service \
            that is not in them does not exist, which is a warning.",
        bad: changed(SERVICE_AND_POLICY, &[("10.96.0.30", "None")]),
        good: right(SERVICE_AND_POLICY),
    },
    Rule {
        code: code::SERVICE_PORT,
        severity: Severity::Error,
        title: "the Service has no such port",
        explanation: "The ports of serviceMatcher are the Service's own, by number and protocol; names only pair frontend \
            with backend. A port that the Service does not have is never dialled. Without a list of ports the backend \
            ports have to be called as the Service's are, unless there is one of each. Only Services that stand in the \
            same files are known to this rule.",
        bad: changed(SERVICE_AND_POLICY, &[("- {port: \"80\"", "- {port: \"8080\"")]),
        good: right(SERVICE_AND_POLICY),
    },
    Rule {
        code: code::NO_POD,
        severity: Severity::Warning,
        title: "no pod can serve",
        explanation: "No pod matches the policy's endpointSelector (and its namespaces), or none of those that do is \
            Ready: connections go where they went before. Where the files hold Pods of nodes, as the manifests folder of \
            an agent does, they are taken for all there are; otherwise this rule says nothing.",
        bad: changed(POD_AND_POLICY, &[("labels: {app: web-cache}", "labels: {app: web}")]),
        good: right(POD_AND_POLICY),
    },
    Rule {
        code: code::POD_PORT,
        severity: Severity::Warning,
        title: "no container declares the backend port",
        explanation: "The pods that the policy selects declare ports, and the backend port is not among them; with \
            redirectMode: hostPort, no hostPort is. Declarations are documentation: an agent does not read them and \
            sends connections to the port that the policy says, which then are refused if nothing listens. Only pods and \
            workloads that stand in the same files are known to this rule.",
        bad: changed(POD_AND_POLICY, &[("containerPort: 8080", "containerPort: 9090")]),
        good: right(POD_AND_POLICY),
    },
    Rule {
        code: code::NODE_PROXY,
        severity: Severity::Warning,
        title: "a node without a proxy address",
        explanation: "With redirectMode: nodeProxy connections go to the proxy on the node of a pod, whose address stands \
            in the annotations balancing.elf.io/nodeProxyIpv4 and nodeProxyIpv6 of the Node. A node without them is no \
            backend. Only Nodes that stand in the same files are known to this rule.",
        bad: changed(
            NODE_AND_POLICY,
            &[("  annotations:\n    balancing.elf.io/nodeProxyIpv4: 10.10.1.100\n", "")],
        ),
        good: right(NODE_AND_POLICY),
    },
    Rule {
        code: code::NOT_EVERY_NODE,
        severity: Severity::Info,
        title: "the backend does not run on every node",
        explanation: "A LocalRedirectPolicy sends connections to a pod of the client's own node. A Deployment or a \
            StatefulSet puts its pods on some nodes; on the others connections go where they went before, which is no \
            fault, and may not be what was meant. A DaemonSet runs on every node. Only workloads that stand in the same \
            files are known to this rule.",
        bad: changed(WORKLOAD_AND_POLICY, &[("DaemonSet", "Deployment")]),
        good: right(WORKLOAD_AND_POLICY),
    },
    Rule {
        code: code::TINY_LIMIT,
        severity: Severity::Warning,
        title: "a limit of one redirect a second",
        explanation: "With spec.qos.redirectsPerSecond: 1 one connection a second is redirected on each node, all ports \
            and families of the policy together; nearly all go where they went before. 0 is no limit.",
        bad: changed(ADDRESS, &[("spec:\n", "spec:\n  qos:\n    redirectsPerSecond: 1\n")]),
        good: changed(ADDRESS, &[("spec:\n", "spec:\n  qos:\n    redirectsPerSecond: 0\n")]),
    },
    Rule {
        code: code::LOOP,
        severity: Severity::Warning,
        title: "connections may run in a circle",
        explanation: "With skipRedirectFromBackend: false the connections of the backend pods themselves are redirected \
            too: a cache that asks the Service it stands in for reaches itself. Leave it at true unless the backends \
            never dial the frontend. The same holds for a BalancingPolicy that names its own VIP and port as a backend.",
        bad: changed(
            ADDRESS,
            &[("    endpointSelector:\n", "    skipRedirectFromBackend: false\n    endpointSelector:\n")],
        ),
        good: right(ADDRESS),
    },
];

/// The page that lists all rules, as Markdown.
#[must_use]
pub fn index() -> String {
    let mut text = String::from(
        "# Rules\n\nWhat `kubectl balancing validate` checks, and an agent before it applies a policy. Codes are permanent.\n\n\
         | code | severity | rule |\n|---|---|---|\n",
    );
    for Rule { code, severity, title, .. } in RULES {
        text.push_str(&format!("| [{code}]({code}.md) | {severity} | {title} |\n"));
    }
    text
}
