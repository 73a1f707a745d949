//! Waiting for a condition with a deadline: the only way these fixtures wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

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
