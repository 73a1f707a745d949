//! Grace periods: when is nobody in the kernel still looking at what was taken away?

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::sys::{MAP_TYPE_ARRAY, MAP_TYPE_ARRAY_OF_MAPS, MapShape, map_create, update_array_of_maps};

/// How long after a failure it is tried again: out of memory is the one that could be.
const RETRY: Duration = Duration::from_secs(1);

/// Number of a grace period.
pub type Epoch = u64;

#[derive(Default)]
struct State {
    started: Epoch,
    completed: Epoch,
    wanted: Epoch,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs grace periods on a thread of its own: one takes 4 to 90 ms, and nothing but reuse waits for it.
pub struct Grace {
    shared: Arc<Shared>,
}

impl Grace {
    /// Starts the thread. `passed` is called after each grace period, on that thread.
    pub fn start(passed: impl Fn() + Send + 'static) -> io::Result<Self> {
        let waiter = Waiter::new()?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("grace".to_owned()).spawn(move || run(&theirs, &waiter, &passed))?;
        Ok(Self { shared })
    }

    /// The epoch after which what is unreachable now may be used again.
    #[must_use]
    pub fn next(&self) -> Epoch {
        self.shared.lock().started + 1
    }

    /// The last epoch that is over.
    #[must_use]
    pub fn completed(&self) -> Epoch {
        self.shared.lock().completed
    }

    /// Asks for `epoch` to pass.
    pub fn request(&self, epoch: Epoch) {
        let mut state = self.shared.lock();
        state.wanted = state.wanted.max(epoch);
        self.shared.changed.notify_all();
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

fn run(shared: &Shared, waiter: &Waiter, passed: &dyn Fn()) {
    loop {
        let mut state = shared.lock();
        while !state.closed && state.wanted <= state.completed {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        state.started += 1;
        let epoch = state.started;
        drop(state);
        if let Err(error) = waiter.wait() {
            // Nothing is used again before one has passed, and changes wait for it: so it is tried until it does.
            tracing::error!(%error, "failed to wait for a grace period; trying again");
            thread::sleep(RETRY);
            continue;
        }
        shared.lock().completed = epoch;
        passed();
    }
}

/// Waits for a grace period by changing an element of an array of maps that no program uses.
struct Waiter {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Waiter {
    fn new() -> io::Result<Self> {
        let array = |map_type| MapShape { map_type, key: 4, value: 4, entries: 1 };
        let inner = map_create(array(MAP_TYPE_ARRAY), 0, None)?;
        let outer = map_create(array(MAP_TYPE_ARRAY_OF_MAPS), 0, Some(inner.as_fd()))?;
        Ok(Self { outer, inner })
    }

    fn wait(&self) -> io::Result<()> {
        update_array_of_maps(self.outer.as_fd(), self.inner.as_fd())
    }
}
