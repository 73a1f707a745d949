//! The agent's own DaemonSet: whether an end of this pod is the end of the agent on this node.

use balancing_api::placement::Placement;
use serde_json::Value;

use super::{item::Item, watch::News};

/// What the watch knows of the DaemonSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It was never seen: it may be another one's name.
    #[default]
    Never,
    /// It is there.
    Present,
    /// It is being deleted.
    Deleting,
    /// It was there and is so no more.
    Gone,
}

/// The DaemonSet at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DaemonSet {
    /// Has it a deletion timestamp?
    pub deleting: bool,
    /// Does its nodeSelector or its affinity leave the agent's node out?
    pub elsewhere: bool,
}

impl DaemonSet {
    /// `labels` are those of the agent's Node, called `node`, null where they are not known.
    pub(super) fn new(item: &Item, node: &str, labels: &Value) -> Self {
        let placement = Placement::of(&item.value["spec"]["template"]["spec"]);
        Self {
            deleting: !item.value["metadata"]["deletionTimestamp"].is_null(),
            elsewhere: labels.is_object() && !placement.selects(node, |key| labels[key].as_str()),
        }
    }

    const fn seen(self) -> Seen {
        if self.deleting { Seen::Deleting } else { Seen::Present }
    }
}

/// What the API server says when the pod is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is there.
    Found(DaemonSet),
    /// There is none.
    NotFound,
    /// Nothing could be told: no answer in time, or no right to ask (any more).
    Unknown,
}

impl Seen {
    /// What is known after a piece of news.
    pub(super) fn after(self, news: &News<DaemonSet>) -> Self {
        let lost = if self == Self::Never { Self::Never } else { Self::Gone };
        match news {
            News::Listed(found) => found.first().map_or(lost, |d| d.seen()),
            News::Set(found) => found.seen(),
            News::Gone(_) => Self::Gone,
            News::Absent => lost,
            News::EmptyOnce | News::Alive | News::Failing(_) => self,
        }
    }

    /// Is the agent to leave this node, with all that it attached? Asked once, at SIGTERM.
    ///
    /// A pod that is replaced (an update, a drain, a restart) has a DaemonSet: its data path stays and works. One whose
    /// DaemonSet is deleted, in whatever order its pods go, or selects this node no more, has no successor: what it left
    /// would never follow a change again. Where the API server does not answer, or refuses since the rights were deleted first, the watch knows; a
    /// watch outlives the rights it was begun with. A DaemonSet that was never seen says nothing: the name may be wrong.
    ///
    /// With its `namespace` everything in it goes, and the pods perhaps before the DaemonSet.
    pub(super) const fn leaves(self, answer: Answer, namespace: Self) -> bool {
        if matches!(namespace, Self::Deleting | Self::Gone) {
            return true;
        }
        match (answer, self) {
            (Answer::Found(found), _) => found.deleting || found.elsewhere,
            (Answer::NotFound, Self::Never) => false,
            (Answer::NotFound, _) => true,
            (Answer::Unknown, Self::Deleting | Self::Gone) => true,
            (Answer::Unknown, Self::Never | Self::Present) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HERE: DaemonSet = DaemonSet { deleting: false, elsewhere: false };
    const LEAVING: DaemonSet = DaemonSet { deleting: true, elsewhere: false };
    const ELSEWHERE: DaemonSet = DaemonSet { deleting: false, elsewhere: true };

    #[test]
    fn a_deletion_is_seen_in_the_object() {
        let set =
            |metadata: Value| DaemonSet::new(&Item::new(json!({ "metadata": metadata })), "n1", &Value::Null);
        assert_eq!(set(json!({"name": "balancing-agent"})), HERE);
        let foreground =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]});
        assert_eq!(set(foreground), LEAVING);
    }

    #[test]
    fn a_node_may_be_selected_no_more() {
        let set = |selector: Value, labels: Value| {
            DaemonSet::new(
                &Item::new(json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}})),
                "n1",
                &labels,
            )
        };
        let edge = || json!({"kubernetes.io/os": "linux", "place": "edge"});
        assert_eq!(set(json!({"place": "edge"}), edge()), HERE);
        assert_eq!(set(json!({"kubernetes.io/os": "linux", "place": "core"}), edge()), ELSEWHERE);
        assert_eq!(set(json!({"tier": "1"}), edge()), ELSEWHERE);
        assert_eq!(set(json!({"tier": "1"}), Value::Null), HERE, "the node's labels are not known");
        assert_eq!(set(Value::Null, edge()), HERE);
    }

    #[test]
    fn what_the_watch_knows() {
        let known = |news: &[News<DaemonSet>]| news.iter().fold(Seen::default(), Seen::after);
        assert_eq!(known(&[]), Seen::Never);
        assert_eq!(known(&[News::EmptyOnce, News::Listed(vec![])]), Seen::Never);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::Alive]), Seen::Present);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::Failing("x".to_owned())]), Seen::Present);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::Set(LEAVING)]), Seen::Deleting);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::Gone(LEAVING)]), Seen::Gone);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::EmptyOnce]), Seen::Present, "not confirmed");
        assert_eq!(known(&[News::Listed(vec![HERE]), News::EmptyOnce, News::Listed(vec![])]), Seen::Gone);
        assert_eq!(known(&[News::Listed(vec![HERE]), News::Gone(HERE), News::Set(HERE)]), Seen::Present);
    }

    #[test]
    fn who_leaves() {
        let found = [Answer::Found(HERE), Answer::Found(LEAVING), Answer::Found(ELSEWHERE)];
        for seen in [Seen::Never, Seen::Present, Seen::Deleting, Seen::Gone] {
            // Now is truer than before: it may have been made again.
            assert_eq!(
                found.map(|answer| seen.leaves(answer, Seen::Present)),
                [false, true, true],
                "{seen:?}"
            );
            for namespace in [Seen::Deleting, Seen::Gone] {
                assert!(found.iter().all(|answer| seen.leaves(*answer, namespace)), "{seen:?}");
                assert!(seen.leaves(Answer::Unknown, namespace), "{seen:?}");
            }
        }
        for (seen, not_found, unknown) in [
            (Seen::Never, false, false),
            (Seen::Present, true, false),
            (Seen::Deleting, true, true),
            (Seen::Gone, true, true),
        ] {
            // A namespace that was never seen says nothing: the right to look at it may be missing.
            assert_eq!(seen.leaves(Answer::NotFound, Seen::Never), not_found, "{seen:?}");
            assert_eq!(seen.leaves(Answer::Unknown, Seen::Never), unknown, "{seen:?}");
        }
    }
}
