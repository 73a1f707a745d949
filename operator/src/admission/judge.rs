//! What is to be said of a policy that is about to be written. Pure: everything is in the stores.

use balancing_api::rules::{self, Severity};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{Review, Verdict};
use crate::{
    ids,
    objects::{Change, Policy},
    reconcile::{dereference, validate},
    world::{Dirty, World},
};

/// Broken rules that a refusal tells.
const RULES_TOLD: usize = 5;
/// Others of whom a frontend is taken that are told.
const TAKEN_TOLD: usize = 3;
/// Said where not all is known.
const TOO_EARLY: &str = "conflicts and references were not checked: the operator has just started";

/// What is asked of whoever knows the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// What would its status say?
    Judgement,
    /// Which number does it get?
    Number,
}

/// A policy that is about to be written.
#[derive(Clone, Debug)]
pub struct Candidate {
    policy: Policy,
    findings: Vec<rules::Finding>,
    /// Its spec is as it was.
    same_spec: bool,
}

impl Candidate {
    /// The candidate of a question; nothing where it is deleted, or has no name yet.
    #[must_use]
    pub fn new(review: &Review, now: Timestamp) -> Option<Self> {
        let mut object = review.object.clone();
        object.get("metadata")?.get("name")?.as_str().filter(|name| !name.is_empty())?;
        let findings = rules::check(&object).findings;
        let same_spec = !review.old.is_null() && object.get("spec") == review.old.get("spec");
        let meta = object.get_mut("metadata").map(Value::take).unwrap_or_default();
        let mut policy = Policy::new(review.kind, serde_json::from_value(meta).ok()?, object);
        // Of one that is created nobody has said when yet; without that it would count as the oldest.
        policy.created = policy.created.or_else(|| Timestamp::from_second(now.as_second()).ok());
        Some(Self { policy, findings, same_spec })
    }
}

/// A question to whoever knows the cluster.
#[derive(Debug)]
pub struct Question {
    asks: Asks,
    candidate: Box<Candidate>,
    answer: oneshot::Sender<Verdict>,
}

/// Where questions are asked.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Question>);

impl Desk {
    /// A desk and where its questions arrive; so many may wait.
    #[must_use]
    pub fn new(waiting: usize) -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(waiting);
        (Self(sender), receiver)
    }

    /// Asks; nothing where nobody answers any longer, or too many wait.
    pub async fn ask(&self, asks: Asks, candidate: Candidate) -> Option<Verdict> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Question { asks, candidate: Box::new(candidate), answer }).ok()?;
        answered.await.ok()
    }
}

/// Answers a question. `synced`: is everything there is known?
pub fn answer(question: Question, world: &mut World, synced: bool) {
    let verdict = match question.asks {
        Asks::Judgement => judge(world, *question.candidate, synced),
        Asks::Number => number(world, *question.candidate, synced),
    };
    // Whoever asked may have gone.
    let _ = question.answer.send(verdict);
}

/// Looks at the world as if the policy were in it.
fn supposing<T>(world: &mut World, policy: Policy, look: impl FnOnce(&World) -> T) -> T {
    let reference = policy.reference.clone();
    let before = world.policy(&reference).cloned();
    let mut nobody = Dirty::default();
    world.apply(Change::Policy(reference.clone(), Some(Box::new(policy))), &mut nobody);
    let seen = look(world);
    world.apply(Change::Policy(reference, before.map(Box::new)), &mut nobody);
    seen
}

fn judge(world: &mut World, candidate: Candidate, synced: bool) -> Verdict {
    let Candidate { policy, findings, same_spec } = candidate;
    let mut verdict = Verdict::default();
    let blocking: Vec<_> = findings.iter().filter(|f| f.blocks).map(ToString::to_string).collect();
    if !blocking.is_empty() && !same_spec {
        let more = match blocking.len().saturating_sub(RULES_TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let told = &blocking[..blocking.len().min(RULES_TOLD)];
        verdict.refused = Some(format!("{}: {}{more}", policy.reference, told.join("; ")));
        return verdict;
    }
    let told = findings.iter().filter(|f| f.blocks || f.severity >= Severity::Warning);
    verdict.warnings.extend(told.map(ToString::to_string));
    if !synced {
        verdict.warnings.push(TOO_EARLY.to_owned());
        return verdict;
    }
    verdict.warnings.extend(id_clash(world, &policy));
    let (reference, rank) = (policy.reference.clone(), dereference::rank_of(&policy));
    let seen = supposing(world, policy, |world| {
        let of = dereference::dereference(world, &reference, &rank)?;
        let judged = validate::validate(&of);
        let mut told = Vec::new();
        let unmet = [Some(&judged.accepted), judged.references.as_ref()].into_iter().flatten();
        told.extend(unmet.filter(|v| !v.met).map(|v| format!("{}: {}", v.reason, v.message)));
        told.extend(judged.conflicted.iter().map(|v| format!("{}: {}", v.reason, v.message)));
        told.extend(taken(world, &of));
        Some(told)
    });
    // Broken rules are told already.
    if blocking.is_empty() {
        verdict.warnings.extend(seen.into_iter().flatten());
    }
    verdict
}

/// Whom the policy takes frontends from: the other way round from a conflict that it loses.
fn taken(world: &World, of: &dereference::Dereferenced<'_>) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let frontends = of.claims.iter().flat_map(|claims| claims.frontends.keys());
    for frontend in frontends {
        for (rank, selected) in world.behind(&of.rank, frontend) {
            let mut shared = selected.clone();
            shared.intersect(of.selected);
            let already = told.iter().any(|t| t.contains(&format!(" {}:", rank.policy)));
            if !shared.is_empty() && !already && told.len() < TAKEN_TOLD {
                told.push(format!(
                    "FrontendConflict: it holds {frontend} instead of {}: {}",
                    rank.policy,
                    of.rank.why_before(rank)
                ));
            }
        }
    }
    told
}

fn id_clash(world: &World, policy: &Policy) -> Option<String> {
    let id = policy.id.as_deref().and_then(ids::parse)?;
    let has = |other: &&Policy| {
        other.reference != policy.reference && other.id.as_deref().and_then(ids::parse) == Some(id)
    };
    let other = world.policies().find(has)?;
    let (ours, theirs) = (dereference::rank_of(policy), dereference::rank_of(other));
    let loser = if theirs < ours { &ours.policy } else { &theirs.policy };
    Some(format!("serviceId {id} is also that of {}: {loser} will get another", other.reference))
}

fn number(world: &mut World, candidate: Candidate, synced: bool) -> Verdict {
    let mut verdict = Verdict::default();
    if synced && candidate.policy.id.is_none() {
        let reference = candidate.policy.reference.clone();
        let all = supposing(world, candidate.policy, World::unnumbered_policies);
        verdict.number = all.into_iter().find(|(policy, _)| *policy == reference).map(|(_, id)| id);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::PolicyKind;
    use serde_json::json;

    use super::*;
    use crate::testing::{
        balance, bl, lr, on_pool, policy_at, redirect, service_matcher, set_node, set_policy, set_service,
    };

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    fn world() -> World {
        let mut world = World::default();
        for change in [
            set_node("n1", "a", "192.0.2.1"),
            set_node("n2", "b", "192.0.2.2"),
            set_service("dns", "10.96.0.10"),
            set_policy(policy_at(&lr("old"), 1, &redirect(&service_matcher("dns")))),
        ] {
            world.apply(change, &mut Dirty::default());
        }
        world
    }

    fn review(kind: PolicyKind, name: &str, spec: &Value) -> Review {
        let object = json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": kind.as_str(),
            "metadata": {"name": name}, "spec": spec,
        });
        Review { uid: "u".into(), kind, object, old: Value::Null }
    }

    /// The verdict, which leaves the world as it was.
    fn ask(world: &mut World, asks: Asks, review: &Review) -> Verdict {
        let before = format!("{world:?}");
        let candidate = Candidate::new(review, now()).unwrap();
        let verdict = match asks {
            Asks::Judgement => judge(world, candidate, true),
            Asks::Number => number(world, candidate, true),
        };
        assert_eq!(format!("{world:?}"), before, "it only supposed something");
        verdict
    }

    const LR: PolicyKind = PolicyKind::LocalRedirectPolicy;

    #[test]
    fn a_policy_in_nobodys_way_is_welcome() {
        let mut world = world();
        world.apply(set_service("web", "10.96.0.11"), &mut Dirty::default());
        let verdict =
            ask(&mut world, Asks::Judgement, &review(LR, "new", &redirect(&service_matcher("web"))));
        assert_eq!(verdict, Verdict::default());
    }

    #[test]
    fn who_holds_the_frontend_is_told() {
        let mut world = world();
        let spec = redirect(&service_matcher("dns"));
        let verdict = ask(&mut world, Asks::Judgement, &review(LR, "new", &spec));
        assert_eq!(verdict.refused, None);
        let [warning] = &verdict.warnings[..] else { panic!("{verdict:?}") };
        assert_eq!(
            warning,
            "FrontendConflict: 10.96.0.10:53/UDP is held by LocalRedirectPolicy/old: it is older"
        );
        let there = ask(&mut world, Asks::Judgement, &review(LR, "new", &on_pool(spec.clone(), "b")));
        assert!(there.warnings[0].starts_with("FrontendConflict: "), "{there:?}");
        // The one that is there is judged against the others, not against itself.
        let mut same = review(LR, "old", &spec);
        same.object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:01Z");
        assert_eq!(ask(&mut world, Asks::Judgement, &same), Verdict::default());
    }

    #[test]
    fn whom_it_takes_a_frontend_from_is_told() {
        let mut world = world();
        world.apply(set_service("web", "10.96.0.11"), &mut Dirty::default());
        world.apply(
            set_policy(policy_at(&bl("later"), 9, &balance(&service_matcher("web"), "podEndpoint"))),
            &mut Dirty::default(),
        );
        let mut edited = review(LR, "old", &redirect(&service_matcher("web")));
        edited.object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:01Z");
        let verdict = ask(&mut world, Asks::Judgement, &edited);
        assert_eq!(
            verdict.warnings,
            ["FrontendConflict: it holds 10.96.0.11:53/UDP instead of BalancingPolicy/later: it is older"]
        );
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_told() {
        let verdict =
            ask(&mut world(), Asks::Judgement, &review(LR, "new", &redirect(&service_matcher("nowhere"))));
        assert_eq!(verdict.refused, None);
        assert_eq!(verdict.warnings, ["ServiceNotFound: Service ns/nowhere does not exist"]);
    }

    #[test]
    fn what_is_no_policy_is_refused_unless_it_was_so_before() {
        let mut spec = redirect(&service_matcher("dns"));
        spec["backend"]["toPorts"] = json!([{"port": "0", "protocol": "UDP"}]);
        let mut broken = review(LR, "new", &spec);
        let refused = ask(&mut world(), Asks::Judgement, &broken).refused.unwrap();
        assert!(
            refused.starts_with("LocalRedirectPolicy/new: BAL") && refused.contains("toPorts[0]"),
            "{refused}"
        );
        broken.old = broken.object.clone();
        broken.object["metadata"]["labels"] = json!({"a": "b"});
        let edited = ask(&mut world(), Asks::Judgement, &broken);
        assert_eq!(edited.refused, None);
        assert_eq!(edited.warnings.len(), 1, "{edited:?}");
    }

    #[test]
    fn a_number_of_another_is_told_with_who_gets_a_new_one() {
        let mut world = world();
        world.apply(set_service("web", "10.96.0.11"), &mut Dirty::default());
        let mut held = policy_at(&lr("old"), 1, &redirect(&service_matcher("dns")));
        held.id = Some("7".to_owned());
        world.apply(set_policy(held), &mut Dirty::default());
        let mut clashing = review(LR, "new", &redirect(&service_matcher("web")));
        clashing.object["metadata"]["annotations"] = json!({"balancing.elf.io/serviceId": "7"});
        assert_eq!(
            ask(&mut world, Asks::Judgement, &clashing).warnings,
            ["serviceId 7 is also that of LocalRedirectPolicy/old: LocalRedirectPolicy/new will get another"]
        );
    }

    #[test]
    fn a_number_is_the_one_that_the_reconciler_would_assign() {
        let mut world = world();
        let new = review(LR, "new", &redirect(&service_matcher("dns")));
        let number = ask(&mut world, Asks::Number, &new).number.unwrap();
        world.apply(
            set_policy(policy_at(&lr("new"), 5, &redirect(&service_matcher("dns")))),
            &mut Dirty::default(),
        );
        assert!(world.unnumbered_policies().contains(&(lr("new"), number)));
        let mut numbered = new;
        numbered.object["metadata"]["annotations"] = json!({"balancing.elf.io/serviceId": "7"});
        assert_eq!(ask(&mut world, Asks::Number, &numbered).number, None);
    }

    #[test]
    fn before_everything_is_known_nothing_is_claimed() {
        let candidate =
            |name| Candidate::new(&review(LR, name, &redirect(&service_matcher("dns"))), now()).unwrap();
        let verdict = judge(&mut World::default(), candidate("new"), false);
        assert_eq!((verdict.refused, verdict.warnings), (None, vec![TOO_EARLY.to_owned()]));
        assert_eq!(number(&mut World::default(), candidate("new"), false), Verdict::default());
        let mut nameless = review(LR, "", &json!({}));
        assert!(Candidate::new(&nameless, now()).is_none());
        nameless.object = Value::Null;
        assert!(Candidate::new(&nameless, now()).is_none());
    }
}
