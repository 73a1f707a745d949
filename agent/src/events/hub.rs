//! Hands events to listeners. A listener that is slow loses events, is told how many, and harms nobody else.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use balancing_api::agent::Event;
use tokio::sync::Notify;

use super::Filter;

/// Events that a listener may be behind.
const QUEUE: usize = 4096;
/// Events that are kept for listeners that come later.
const HISTORY: usize = 1024;
/// Length of the window of a rate.
const SECOND: Duration = Duration::from_secs(1);

/// What a listener gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Arc<Event>),
    /// So many events were lost here: by the kernel, by the rate, or because the listener was slow.
    Lost(u64),
}

/// A cap on events a second.
#[derive(Debug)]
struct Rate {
    limit: u32,
    used: u32,
    window: Option<Instant>,
}

impl Rate {
    /// Is the window over at this time?
    fn over(&self, now: Instant) -> bool {
        self.window.is_none_or(|start| now.duration_since(start) >= SECOND)
    }

    fn admit(&mut self, now: Instant) -> bool {
        if self.over(now) {
            self.window = Some(now);
            self.used = 0;
        }
        let admitted = self.used < self.limit;
        self.used += u32::from(admitted);
        admitted
    }
}

/// What waits for a listener. Losses are told before the next event that is not lost.
#[derive(Debug)]
struct Queue {
    items: VecDeque<Item>,
    lost: u64,
    rate: Option<Rate>,
}

impl Queue {
    fn new(rate: Option<u32>) -> Self {
        let rate = rate.map(|limit| Rate { limit, used: 0, window: None });
        Self { items: VecDeque::new(), lost: 0, rate }
    }

    fn offer(&mut self, event: &Arc<Event>, now: Instant) {
        let room = self.items.len() < QUEUE;
        if !room || !self.rate.as_mut().is_none_or(|rate| rate.admit(now)) {
            self.lost += 1;
            return;
        }
        if self.lost != 0 {
            self.items.push_back(Item::Lost(std::mem::take(&mut self.lost)));
        }
        self.items.push_back(Item::Event(Arc::clone(event)));
    }

    /// The next item. What a rate has cut off is told once a second, not once an event.
    fn take(&mut self, now: Instant) -> Option<Item> {
        self.items.pop_front().or_else(|| {
            let due = self.lost != 0 && self.rate.as_ref().is_none_or(|rate| rate.over(now));
            due.then(|| Item::Lost(std::mem::take(&mut self.lost)))
        })
    }
}

#[derive(Debug)]
struct Listener {
    filter: Filter,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    listeners: Vec<Weak<Listener>>,
    history: VecDeque<Arc<Event>>,
}

/// Hands every event to every listener.
#[derive(Debug, Default)]
pub struct EventHub {
    inner: Mutex<Inner>,
}

/// The values stay whole where a holder of the lock panics: nothing under it is left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventHub {
    /// Hands out an event.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        if inner.history.len() == HISTORY {
            inner.history.pop_front();
        }
        inner.history.push_back(Arc::clone(&event));
        inner.listeners.retain(|listener| {
            let Some(listener) = listener.upgrade() else { return false };
            if listener.filter.wants(&event) {
                lock(&listener.queue).offer(&event, now);
                listener.wake.notify_one();
            }
            true
        });
    }

    /// Tells every listener that the kernel lost events. Whether one had wanted them is not known.
    pub fn publish_lost(&self, lost: u64) {
        if lost == 0 {
            return;
        }
        for listener in lock(&self.inner).listeners.iter().filter_map(Weak::upgrade) {
            lock(&listener.queue).lost += lost;
            listener.wake.notify_one();
        }
    }

    /// The last events that the filter wants, oldest first; at most `limit` of them.
    #[must_use]
    pub fn recent(&self, filter: &Filter, limit: Option<u64>) -> Vec<Arc<Event>> {
        let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let inner = lock(&self.inner);
        let mut events: Vec<_> =
            inner.history.iter().rev().filter(|e| filter.wants(e)).take(limit).cloned().collect();
        events.reverse();
        events
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self, filter: Filter, rate: Option<u32>) -> Subscription {
        let listener =
            Arc::new(Listener { filter, queue: Mutex::new(Queue::new(rate)), wake: Notify::new() });
        let mut inner = lock(&self.inner);
        inner.listeners.retain(|l| l.strong_count() != 0);
        inner.listeners.push(Arc::downgrade(&listener));
        Subscription { listener }
    }

    /// How many are listening: without any, successes need not be sampled.
    #[must_use]
    pub fn listeners(&self) -> usize {
        lock(&self.inner).listeners.iter().filter(|l| l.strong_count() != 0).count()
    }
}

/// A listener's end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    listener: Arc<Listener>,
}

impl Subscription {
    /// Waits for the next item. May be dropped and called again without losing one.
    pub async fn next(&mut self) -> Item {
        loop {
            let (item, due) = {
                let mut queue = lock(&self.listener.queue);
                let item = queue.take(Instant::now());
                // Losses that a rate holds back are due when its window is over, also where no event follows.
                let held = queue.rate.as_ref().filter(|_| queue.lost != 0).and_then(|rate| rate.window);
                (item, held.map(|start| start + SECOND))
            };
            if let Some(item) = item {
                return item;
            }
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due.into(), self.listener.wake.notified()).await;
                }
                None => self.listener.wake.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::{
        agent::{EventOutcome, EventSource, Process},
        net::{Frontend, Protocol},
    };

    use super::*;

    fn event(pid: u32) -> Event {
        Event {
            time: jiff::Timestamp::UNIX_EPOCH,
            outcome: EventOutcome::Service,
            hook: "connect4".to_owned(),
            process: Process { pid, comm: String::new() },
            cgroup_id: 1,
            pod: None,
            container: None,
            from: EventSource { netns: 1 },
            to: Frontend::new([10, 0, 0, 1].into(), 80, Protocol::Tcp),
            chosen: None,
            policy: None,
            service: None,
            failure: None,
        }
    }

    fn pids(items: &[Item]) -> Vec<String> {
        let one = |item: &Item| match item {
            Item::Event(e) => e.process.pid.to_string(),
            Item::Lost(n) => format!("lost {n}"),
        };
        items.iter().map(one).collect()
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<String> {
        pids(&std::iter::from_fn(|| queue.take(now)).collect::<Vec<_>>())
    }

    #[test]
    fn a_full_queue_loses_the_newest_and_says_so_in_place() {
        let now = Instant::now();
        let mut queue = Queue::new(None);
        let total = u32::try_from(QUEUE).unwrap() + 3;
        for pid in 0..total {
            queue.offer(&Arc::new(event(pid)), now);
        }
        assert_eq!(pids(&[queue.take(now).unwrap(), queue.take(now).unwrap()]), ["0", "1"]);
        queue.offer(&Arc::new(event(9999)), now);
        let rest = drain(&mut queue, now);
        assert_eq!(rest.len(), QUEUE - 2 + 2);
        assert_eq!(rest[rest.len() - 3..], [(QUEUE - 1).to_string(), "lost 3".to_owned(), "9999".to_owned()]);
        queue.lost = 5;
        assert_eq!(drain(&mut queue, now), ["lost 5"], "a loss is told where nothing follows");
    }

    #[test]
    fn a_rate_lets_through_so_many_a_second_and_tells_the_rest_once() {
        let start = Instant::now();
        let mut queue = Queue::new(Some(2));
        for pid in 0..5 {
            queue.offer(&Arc::new(event(pid)), start);
        }
        assert_eq!(drain(&mut queue, start), ["0", "1"]);
        let later = start + Duration::from_millis(999);
        queue.offer(&Arc::new(event(5)), later);
        assert_eq!(drain(&mut queue, later), [""; 0]);
        let next = start + SECOND;
        queue.offer(&Arc::new(event(6)), next);
        queue.offer(&Arc::new(event(7)), next);
        queue.offer(&Arc::new(event(8)), next);
        assert_eq!(drain(&mut queue, next), ["lost 4", "6", "7"]);
        assert_eq!(drain(&mut queue, next + SECOND), ["lost 1"]);
    }

    #[tokio::test]
    async fn every_listener_gets_what_it_wants() {
        let hub = EventHub::default();
        let mut all = hub.subscribe(Filter::default(), None);
        let mut failures =
            hub.subscribe(Filter { outcome: Some(EventOutcome::Failure), ..Filter::default() }, None);
        hub.publish(event(1));
        hub.publish(Event { outcome: EventOutcome::Failure, ..event(2) });
        hub.publish_lost(7);
        hub.publish_lost(0);
        assert_eq!(pids(&[all.next().await, all.next().await, all.next().await]), ["1", "2", "lost 7"]);
        assert_eq!(pids(&[failures.next().await, failures.next().await]), ["2", "lost 7"]);
        drop(all);
        assert_eq!(hub.listeners(), 1);
    }

    #[tokio::test]
    async fn a_waiting_listener_wakes_up() {
        let hub = Arc::new(EventHub::default());
        let mut subscription = hub.subscribe(Filter::default(), Some(10));
        let waiting =
            tokio::spawn(async move { pids(&[subscription.next().await, subscription.next().await]) });
        tokio::task::yield_now().await;
        hub.publish(event(1));
        hub.publish(event(2));
        assert_eq!(waiting.await.unwrap(), ["1", "2"]);
        assert_eq!(hub.listeners(), 0);
    }

    #[test]
    fn the_last_events_are_kept() {
        let hub = EventHub::default();
        let total = u32::try_from(HISTORY).unwrap() + 10;
        for pid in 0..total {
            hub.publish(event(pid));
        }
        let all = hub.recent(&Filter::default(), None);
        assert_eq!((all.len(), all[0].process.pid), (HISTORY, 10));
        let last = hub.recent(&Filter::default(), Some(2));
        assert_eq!(last.iter().map(|e| e.process.pid).collect::<Vec<_>>(), [total - 2, total - 1]);
        assert!(hub.recent(&Filter { policy: Some("x".to_owned()), ..Filter::default() }, None).is_empty());
    }
}
