//! When which certificate is renewed. Pure: what there is and the time in, the next step out.
//!
//! A reader (API server, agent) trusts the *bundle*, which reaches it a moment after it was written; a replica serves the
//! certificate that it read a moment ago. So a new authority is announced first, signs only once everybody knows it, and
//! the old one is trusted until nobody serves what it signed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::issue::{self, IssueError};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority lasts.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long before its end the next one is announced.
pub const AUTHORITY_LEAD: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a serving certificate lasts.
pub const SERVING_LIFE: Duration = Duration::from_secs(60 * 24 * 3600);
/// How long before its end it is made anew.
pub const SERVING_LEAD: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an authority is only announced, before it signs.
pub const SPREAD: Duration = Duration::from_secs(3600);
/// How long the one before it is trusted on.
pub const OVERLAP: Duration = DAY;
/// How much earlier than now a certificate begins: clocks differ.
pub const EARLY: Duration = Duration::from_secs(3600);

/// A certificate and its key, in PEM, and when it is valid.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key; empty where nothing is signed with it any longer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// When it was made.
    pub made: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
}

impl std::fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("made", &self.made).field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// All that the replicas share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// Names that the serving certificate is made out to.
    pub names: Vec<String>,
    /// The authority that signs.
    pub authority: Issued,
    /// The one that will sign next, and is trusted already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Issued>,
    /// The one that signed before, and is trusted until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// What the ports serve.
    pub serving: Issued,
}

/// An authority that signs nothing any longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Until when it is trusted.
    pub until: Timestamp,
}

impl Certificates {
    /// Whom readers are to trust, in PEM: the signing authority first.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|n| n.certificate.as_str());
        let previous = self.previous.iter().map(|p| p.certificate.as_str());
        std::iter::once(self.authority.certificate.as_str()).chain(next).chain(previous).collect()
    }
}

/// What is to be done about the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There are none that could be used: begin with new ones, which readers do not trust before they have read them.
    Begin,
    /// Make the next authority; it signs nothing yet.
    Announce,
    /// Everybody knows the next authority: it signs from now on.
    Switch,
    /// Make the serving certificate anew.
    Renew,
    /// Nobody serves any longer what the previous authority signed.
    Forget,
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.saturating_add(SignedDuration::try_from(duration).unwrap_or_default()).unwrap_or(Timestamp::MAX)
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.saturating_sub(SignedDuration::try_from(duration).unwrap_or_default()).unwrap_or(Timestamp::MIN)
}

/// The next step, if one is due. After it the next may be due at once.
#[must_use]
pub fn due(there: Option<&Certificates>, names: &[String], now: Timestamp) -> Option<Step> {
    let Some(there) = there else { return Some(Step::Begin) };
    let known = |next: &Issued| now >= after(next.made, SPREAD);
    if there.authority.ends <= now {
        // Nobody was here for months.
        let usable = there.next.as_ref().is_some_and(|next| known(next) && next.ends > now);
        return Some(if usable { Step::Switch } else { Step::Begin });
    }
    if there.next.as_ref().is_some_and(known) {
        return Some(Step::Switch);
    }
    if there.next.is_none() && now >= before(there.authority.ends, AUTHORITY_LEAD) {
        return Some(Step::Announce);
    }
    if there.names != names || now >= before(there.serving.ends, SERVING_LEAD) {
        return Some(Step::Renew);
    }
    there.previous.as_ref().is_some_and(|previous| previous.until <= now).then_some(Step::Forget)
}

/// Takes a step.
///
/// # Errors
/// A certificate cannot be made.
pub fn take(
    there: Option<Certificates>,
    step: Step,
    names: &[String],
    now: Timestamp,
) -> Result<Certificates, IssueError> {
    let Some(mut there) = there.filter(|_| step != Step::Begin) else {
        let authority = authority(now)?;
        let serving = serving(&authority, names, now)?;
        return Ok(Certificates { names: names.to_vec(), authority, next: None, previous: None, serving });
    };
    match step {
        Step::Announce => there.next = Some(authority(now)?),
        Step::Switch => {
            if let Some(next) = there.next.take() {
                let old = std::mem::replace(&mut there.authority, next);
                there.previous = Some(Previous { certificate: old.certificate, until: after(now, OVERLAP) });
            }
            renew(&mut there, names, now)?;
        }
        Step::Renew => renew(&mut there, names, now)?,
        Step::Forget => there.previous = None,
        Step::Begin => {}
    }
    Ok(there)
}

fn renew(there: &mut Certificates, names: &[String], now: Timestamp) -> Result<(), IssueError> {
    there.serving = serving(&there.authority, names, now)?;
    there.names = names.to_vec();
    Ok(())
}

fn authority(now: Timestamp) -> Result<Issued, IssueError> {
    issue::authority(before(now, EARLY), now, after(now, AUTHORITY_LIFE))
}

fn serving(authority: &Issued, names: &[String], now: Timestamp) -> Result<Issued, IssueError> {
    let ends = after(now, SERVING_LIFE).min(authority.ends);
    issue::serving(authority, names, before(now, EARLY), now, ends)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn names() -> Vec<String> {
        vec!["balancing-operator.elf.svc".to_owned(), "localhost".to_owned()]
    }

    /// Does a reader with this bundle accept this serving certificate at that time?
    fn accepts(bundle: &str, serving: &str, name: &str, now: Timestamp) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(serving.as_bytes()).collect::<Result<_, _>>().unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).map(drop)
    }

    /// All steps that are due.
    fn turn(there: Option<Certificates>, now: Timestamp, steps: &mut Vec<Step>) -> Certificates {
        let mut there = there;
        while let Some(step) = due(there.as_ref(), &names(), now) {
            there = Some(take(there, step, &names(), now).unwrap());
            steps.push(step);
            assert!(steps.len() < 1000, "it does not come to rest: {:?}", &steps[990..]);
        }
        there.unwrap()
    }

    #[test]
    fn for_years_every_reader_accepts_every_replica() {
        let start: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
        let mut steps = Vec::new();
        let mut now = start;
        let mut there = turn(None, now, &mut steps);
        let mut history = vec![there.clone()];
        while now < after(start, DAY * 3 * 365) {
            now = after(now, HOUR * 6);
            there = turn(Some(there), now, &mut steps);
            if history.last() == Some(&there) {
                continue;
            }
            let last = history.last().unwrap();
            // Readers and replicas that have not heard of this step yet, with those that have.
            for (bundle, serving) in [(last, &there), (&there, last), (&there, &there)] {
                for name in names() {
                    accepts(&bundle.bundle(), &serving.serving.certificate, &name, now).unwrap();
                }
            }
            // To the second before its end nothing expires.
            let soonest = there.serving.ends.min(there.authority.ends);
            assert!(soonest > after(now, DAY * 29), "{now}: {there:?}");
            history.push(there.clone());
        }
        let count = |step| steps.iter().filter(|s| **s == step).count();
        assert_eq!((count(Step::Begin), count(Step::Announce)), (1, count(Step::Switch)));
        assert!((3..=4).contains(&count(Step::Switch)), "{steps:?}");
        assert_eq!(count(Step::Forget), count(Step::Switch));
        assert!(count(Step::Renew) >= 30, "{}", count(Step::Renew));
    }

    #[test]
    fn an_authority_signs_only_when_it_is_known_and_goes_only_when_nobody_serves_it() {
        let start: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
        let there = take(None, Step::Begin, &names(), start).unwrap();
        let late = before(there.authority.ends, AUTHORITY_LEAD);
        let mut steps = Vec::new();
        let announced = turn(Some(there.clone()), late, &mut steps);
        assert_eq!(steps, [Step::Announce, Step::Renew]);
        let old = &there.authority.certificate;
        accepts(old, &announced.serving.certificate, "localhost", late).expect("signed by the old one");
        assert_eq!(due(Some(&announced), &names(), after(late, SPREAD - Duration::from_secs(1))), None);
        let then = after(late, SPREAD);
        let switched = turn(Some(announced.clone()), then, &mut steps);
        accepts(old, &switched.serving.certificate, "localhost", then).expect_err("signed by the new one");
        accepts(&announced.bundle(), &switched.serving.certificate, "localhost", then).unwrap();
        assert!(switched.bundle().contains(old.trim()), "still trusted");
        let over = turn(Some(switched), after(then, OVERLAP), &mut steps);
        assert!(!over.bundle().contains(old.trim()));
        assert_eq!(steps[2..], [Step::Switch, Step::Forget]);
    }

    #[test]
    fn after_a_long_sleep_it_begins_or_goes_on() {
        let start: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
        let there = take(None, Step::Begin, &names(), start).unwrap();
        let years = after(start, DAY * 800);
        assert_eq!(due(Some(&there), &names(), years), Some(Step::Begin));
        let late = after(start, AUTHORITY_LIFE - DAY);
        let announced = take(Some(there.clone()), Step::Announce, &names(), late).unwrap();
        let slept = after(start, AUTHORITY_LIFE + DAY);
        let mut steps = Vec::new();
        let woken = turn(Some(announced.clone()), slept, &mut steps);
        assert_eq!(steps, [Step::Switch]);
        accepts(&announced.bundle(), &woken.serving.certificate, "localhost", slept).unwrap();
        // Only the serving certificate ran out.
        let slept = after(start, SERVING_LIFE + DAY);
        assert_eq!(due(Some(&there), &names(), slept), Some(Step::Renew));
        // Another namespace.
        let other = vec!["balancing-operator.other.svc".to_owned()];
        assert_eq!(due(Some(&there), &other, start), Some(Step::Renew));
        let moved = take(Some(there), Step::Renew, &other, start).unwrap();
        assert_eq!(due(Some(&moved), &other, start), None);
        accepts(&moved.bundle(), &moved.serving.certificate, &other[0], start).unwrap();
        accepts(&moved.bundle(), &moved.serving.certificate, "localhost", start).unwrap_err();
    }

    #[test]
    fn keys_are_not_printed() {
        let there = take(None, Step::Begin, &names(), Timestamp::UNIX_EPOCH).unwrap();
        let text = format!("{there:?}");
        assert!(!text.contains("PRIVATE") && text.contains("serving"), "{text}");
    }
}
