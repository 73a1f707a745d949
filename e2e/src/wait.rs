//! Waiting for a condition with a deadline: the only way these fixtures wait.

use std::{
    fmt::Debug,
    mem, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The variable that says how many times longer every deadline is: an emulated machine is that much slower.
const SLOWER: &str = "BALANCING_E2E_SLOWER";

/// How many times longer a deadline is on this machine than where it was chosen.
#[must_use]
pub fn slower() -> u32 {
    std::env::var(SLOWER).ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Tries until `attempt` gives a value; `what` completes "not reached: ...".
///
/// # Errors
/// The attempt's own error, at once; or the deadline has passed.
pub fn until<T>(
    deadline: Duration,
    what: impl Fn() -> String,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let deadline = deadline * slower();
    let mut pause = PAUSES.0;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            bail!("not reached within {} s: {}", deadline.as_secs_f32(), what());
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(PAUSES.1);
    }
}

/// Reads until nothing has changed for `quiet`: what it is then. `what` names what has to come to rest.
///
/// # Errors
/// That of `read`, at once; or it still changes at the deadline: the last change is told.
pub fn rest<T: PartialEq + Debug>(
    deadline: Duration,
    quiet: Duration,
    what: &str,
    read: impl Fn() -> Result<T>,
) -> Result<T> {
    let (mut since, mut before, mut now) = (Instant::now(), None, read()?);
    let reached = until(
        deadline,
        || format!("{what} rests"),
        || {
            let next = read()?;
            if next != now {
                since = Instant::now();
                before = Some(mem::replace(&mut now, next));
            }
            Ok((since.elapsed() > quiet).then_some(()))
        },
    );
    reached.with_context(|| format!("last it went from {before:?} to {now:?}"))?;
    Ok(now)
}
