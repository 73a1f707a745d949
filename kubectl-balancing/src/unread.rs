//! What to do about an object or a file that an agent cannot read. Pure.

use balancing_api::{
    agent::{NodeStatus, PolicyStatus, SourceError},
    policy::PolicyKind,
};

/// Sources of an agent whose objects come from files.
pub(crate) const FOLDER: &str = "manifests";

/// Is this object, `Kind/name`, a policy?
pub(crate) fn is_policy(object: &str) -> bool {
    let kind = object.split('/').next();
    [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy].iter().any(|k| kind == Some(k.as_str()))
}

/// What to do about an error. `validate` is named only where it finds the same: it reads policies, and YAML itself.
pub(crate) fn next(status: &NodeStatus, e: &SourceError) -> String {
    let SourceError { file, object, line, .. } = e;
    if status.node.source != FOLDER {
        return match object.split('/').collect::<Vec<_>>()[..] {
            [kind, name] if is_policy(object) => {
                format!(
                    "kubectl get {} {name} -o yaml | kubectl balancing validate -f -",
                    kind.to_lowercase()
                )
            }
            [kind, namespace, name] => {
                format!("correct it: kubectl get {} -n {namespace} {name} -o yaml", kind.to_lowercase())
            }
            [kind, name] => format!("correct it: kubectl get {} {name} -o yaml", kind.to_lowercase()),
            _ => "see the agent's log".to_owned(),
        };
    }
    match file.as_str() {
        "" | "." => "can the agent read the folder of --manifests? see its log".to_owned(),
        _ if object.is_empty() || is_policy(object) => {
            format!("correct it: kubectl balancing validate -f {file}")
        }
        _ if *line == 0 => format!("correct {object} in {file}"),
        _ => format!("correct {object} in {file}, line {line}"),
    }
}

/// The error of the Service that a policy matches: there is one, but it cannot be read.
pub(crate) fn service<'a>(policy: &PolicyStatus, status: &'a NodeStatus) -> Option<&'a SourceError> {
    let object = format!("Service/{}", policy.wanted.service.as_deref()?);
    status.source_errors.iter().find(|e| e.object == object)
}

#[cfg(test)]
mod tests {
    use balancing_api::cli::CheckStatus;

    use super::*;
    use crate::{
        explain,
        fixture::world,
        sample::{Board, NodeSample, Sample},
    };

    fn next_of(source: &str, file: &str, line: u32, object: &str) -> String {
        let mut world = world();
        source.clone_into(&mut world.status.node.source);
        world.source_error(file, line, object, "no");
        next(&world.status, world.status.source_errors.last().unwrap())
    }

    /// `validate` finds nothing in a Service: to name it there would send people in a circle.
    #[test]
    fn validate_is_named_only_where_it_finds_the_same() {
        let folder = |file, line, object| next_of("manifests", file, line, object);
        assert_eq!(
            folder("a.yaml", 3, "LocalRedirectPolicy/x"),
            "correct it: kubectl balancing validate -f a.yaml"
        );
        assert_eq!(folder("a.yaml", 3, ""), "correct it: kubectl balancing validate -f a.yaml");
        assert_eq!(
            folder("a.yaml", 9, "Service/default/web"),
            "correct Service/default/web in a.yaml, line 9"
        );
        assert_eq!(folder("a.yaml", 0, "Node/n1"), "correct Node/n1 in a.yaml");
        assert!(folder(".", 0, "").contains("--manifests"));
    }

    /// In a cluster there is no file.
    #[test]
    fn objects_of_a_cluster_are_named_as_kubectl_gets_them() {
        let cluster = |object| next_of("kubernetes", "API server", 0, object);
        assert_eq!(
            cluster("LocalRedirectPolicy/x"),
            "kubectl get localredirectpolicy x -o yaml | kubectl balancing validate -f -"
        );
        assert_eq!(cluster("Service/default/web"), "correct it: kubectl get service -n default web -o yaml");
        assert_eq!(cluster("Node/n1"), "correct it: kubectl get node n1 -o yaml");
    }

    /// Nobody is told to create a Service that is there.
    #[test]
    fn a_service_that_cannot_be_read_is_not_to_be_created() {
        let mut world = world();
        let policy = world.status.policies.iter().find(|p| p.reason == "ServiceNotFound").unwrap().clone();
        let object = format!("Service/{}", policy.wanted.service.as_deref().unwrap());
        world.source_error("30.yaml", 9, &object, "spec.clusterIPs[0]: 127.0.0.1 is a loopback address");
        let facts = explain::policy::Facts {
            status: &world.status,
            programmed: &world.programmed,
            desired: &world.desired,
            counters: &world.counters,
            qos: None,
        };
        let e = explain::policy::explain(&policy, facts);
        let failed = e.checks.iter().find(|c| c.status == CheckStatus::Failed).unwrap();
        assert_eq!(failed.code, "FrontendResolved");
        assert!(failed.observed.contains("is a loopback address"), "{failed:?}");
        assert_eq!(failed.next, format!("correct {object} in 30.yaml, line 9"));
        let node = NodeSample {
            status: world.status.clone(),
            frontends: world.programmed.clone(),
            counters: world.counters.clone(),
        };
        let board = Board::new(Sample::of_one(node), None);
        let problem = board.problems.iter().find(|p| p.reason == "ServiceNotFound").unwrap();
        assert!(problem.message.contains("is a loopback address"), "{problem:?}");
        assert_eq!(problem.next, failed.next);
    }
}
