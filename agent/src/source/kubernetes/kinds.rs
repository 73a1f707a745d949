//! What an agent watches in a cluster, and nothing else.

use balancing_api::{
    names::{GROUP, VERSION},
    policy::PolicyKind,
};
use kube::core::{ApiResource, GroupVersionKind};

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// The agent's own Node.
    Node,
    /// All Services.
    Services,
    /// All EndpointSlices.
    Slices,
    /// The Pods of the agent's node.
    Pods,
    /// All policies of a kind.
    Policies(PolicyKind),
}

impl Kind {
    /// All that are watched.
    pub(super) const ALL: [Self; 6] = [
        Self::Node,
        Self::Services,
        Self::Slices,
        Self::Pods,
        Self::Policies(PolicyKind::LocalRedirectPolicy),
        Self::Policies(PolicyKind::BalancingPolicy),
    ];

    /// The name of the resource, as `kubectl get` takes it.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Pods => "pods",
            Self::Policies(PolicyKind::LocalRedirectPolicy) => "localredirectpolicies",
            Self::Policies(PolicyKind::BalancingPolicy) => "balancingpolicies",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Node => ("", "v1", "Node"),
            Self::Services => ("", "v1", "Service"),
            Self::Slices => ("discovery.k8s.io", "v1", "EndpointSlice"),
            Self::Pods => ("", "v1", "Pod"),
            Self::Policies(kind) => (GROUP, VERSION, kind.as_str()),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), self.plural())
    }

    /// Which of its objects, where not all.
    pub(super) fn fields(self, node: &str) -> Option<String> {
        match self {
            Self::Node => Some(format!("metadata.name={node}")),
            Self::Pods => Some(format!("spec.nodeName={node}")),
            Self::Services | Self::Slices | Self::Policies(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_the_node() {
        let watched: Vec<_> =
            Kind::ALL.iter().map(|k| (k.resource().api_version, k.plural(), k.fields("n1"))).collect();
        let all = |version: &str, plural| (version.to_owned(), plural, None);
        let some = |plural, fields: &str| ("v1".to_owned(), plural, Some(fields.to_owned()));
        assert_eq!(
            watched,
            [
                some("nodes", "metadata.name=n1"),
                all("v1", "services"),
                all("discovery.k8s.io/v1", "endpointslices"),
                some("pods", "spec.nodeName=n1"),
                all("balancing.elf.io/v1beta1", "localredirectpolicies"),
                all("balancing.elf.io/v1beta1", "balancingpolicies"),
            ]
        );
    }
}
