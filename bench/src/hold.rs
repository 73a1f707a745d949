//! What has to be exact: events (M9), the limit (M10), and that no connect falls between two sets (M11).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use balancing_agent::kernel::monotonic;

use crate::{
    asked,
    loader::{Counts, Request, Written},
    plan::{self, Plan},
    report::Metric,
    subject::{Kind, Subject},
    worker::{Batch, Done, Operation},
};

const SECOND: u64 = 1_000_000_000;

/// Measures those that are asked for.
pub fn run(quick: bool, ids: &[String]) -> Result<Vec<Metric>> {
    let mut all = Vec::new();
    if asked(ids, &["M9"]) {
        eprintln!("bench: events");
        all.extend(events(if quick { 2 } else { 10 })?);
    }
    if asked(ids, &["M10"]) {
        eprintln!("bench: limits");
        all.push(limits(if quick { 2 } else { 5 })?);
    }
    if asked(ids, &["M11"]) {
        eprintln!("bench: changes under load");
        all.extend(changes(if quick { 500 } else { 2000 })?);
    }
    Ok(all)
}

fn counts(subject: &mut Subject) -> Result<Counts> {
    subject.loader()?.ask(&Request::Counts)
}

/// At a steady 100,000 a second none is lost; beyond what the ring holds each is received or counted as lost.
fn events(seconds: u32) -> Result<Vec<Metric>> {
    const RATE: u32 = 100_000;
    let mut subject = Subject::start("events", Kind::Product(Plan::default()))?;
    subject.loader()?.ask::<()>(&Request::Events { sample_below: u32::MAX, per_second: u32::MAX })?;
    subject.loader()?.ask::<()>(&Request::Consume(true))?;
    let to = subject.service();
    let steady = Batch { operation: Operation::Paced(RATE), to, count: RATE * seconds, for_ms: 0 };
    let steadily = subject.worker.run(&steady)?;
    let after_steady = counts(&mut subject)?;
    let rate = steadily.count as f64 / (steadily.nanoseconds as f64 / 1e9);

    subject.loader()?.ask::<()>(&Request::Consume(false))?;
    let flood =
        subject.worker.run(&Batch { operation: Operation::Reconnect, to, count: 50_000, for_ms: 0 })?;
    subject.loader()?.ask::<()>(&Request::Consume(true))?;
    let produced = steadily.count + flood.count;
    let mut total = counts(&mut subject)?;
    for _ in 0..100 {
        if total.received + total.lost == produced {
            break;
        }
        thread::sleep(Duration::from_millis(5));
        total = counts(&mut subject)?;
    }
    ensure!(total.lost > after_steady.lost, "the flood lost no event: it shows nothing");
    let off = produced.abs_diff(total.received + total.lost);
    Ok(vec![
        Metric::new(
            "M9",
            &format!("events lost at {rate:.0} a second, for {seconds} s"),
            after_steady.lost as f64,
            "events",
        )
        .at_most(0.0),
        Metric::new(
            "M9-exact",
            &format!("of {produced} events, neither received nor counted as lost"),
            off as f64,
            "events",
        )
        .at_most(0.0),
    ])
}

/// Waits for the middle of a second of the kernel's clock, which is this one; gives its number.
fn middle_of_second() -> u64 {
    let now = monotonic();
    let middle = now / SECOND * SECOND + SECOND / 2;
    let next = if now < middle { middle } else { middle + SECOND };
    thread::sleep(Duration::from_nanos(next - now));
    monotonic() / SECOND
}

/// Redirects in each second of the kernel's clock under two clients that never stop: the budget is spent long before
/// the middle of a second, so between two middles lies exactly one window.
fn limits(windows: u64) -> Result<Metric> {
    let plan = |limit| Plan { policy: true, limit, ..Plan::default() };
    let mut subject = Subject::start("limits", Kind::Product(plan(10)))?;
    let mut other = subject.another_worker(0)?;
    let to = subject.service();
    let (mut seen, mut off) = (0, 0);
    for limit in [10, 100, 1000, 10_000] {
        subject.loader()?.ask::<Written>(&Request::Fill(plan(limit)))?;
        let hammer =
            Batch { operation: Operation::Reconnect, to, count: 100, for_ms: (windows + 2) * 1000 + 200 };
        subject.worker.begin(&hammer)?;
        other.begin(&hammer)?;
        // The first window may have begun without them.
        middle_of_second();
        let mut last = (middle_of_second(), counts(&mut subject)?.taken);
        for _ in 0..windows {
            let second = middle_of_second();
            let taken = counts(&mut subject)?.taken;
            // A look that came late, in another second than meant, is of no use.
            if second == last.0 + 1 && monotonic() / SECOND == second {
                seen += 1;
                off += u64::from(taken - last.1 != u64::from(limit));
            }
            last = (second, taken);
        }
        subject.worker.finish()?;
        other.finish()?;
    }
    ensure!(seen > 0, "no window could be looked at in time");
    Ok(Metric::new(
        "M10",
        &format!("of {seen} windows at limits 10 to 10,000, not exactly at the limit"),
        off as f64,
        "windows",
    )
    .at_most(0.0))
}

/// Sets that have no backend in common replace one another while clients connect.
fn changes(times: u32) -> Result<Vec<Metric>> {
    const BURST: u32 = 1000;
    let one = [Plan::default(), Plan { first: 10, backends: 5, ..Plan::default() }];
    let many = one.clone().map(|plan| Plan { services: BURST, both: false, ..plan });
    let mut done = Done::default();
    {
        let mut subject = Subject::start("change", Kind::Product(one[0].clone()))?;
        subject.show_backends()?;
        for pause_us in [0, 100, 1000] {
            let share = if pause_us == 1000 { times / 2 } else { times };
            churn(
                &mut subject,
                &Request::Churn { plans: one.to_vec(), times: share, pause_us },
                1,
                &mut done,
            )?;
        }
    }
    let single = done;
    let mut done = Done::default();
    // A set is there until the last reader of the one before has gone.
    let need = many.iter().map(Plan::need).fold((0, 0), |sum, need| (sum.0.max(need.0), sum.1 + need.1));
    let mut subject = Subject::start_sized("bursts", Kind::Product(many[0].clone()), need)?;
    subject.show_backends()?;
    churn(
        &mut subject,
        &Request::Churn { plans: many.to_vec(), times: times / 50, pause_us: 2000 },
        BURST,
        &mut done,
    )?;
    let metric = |id, what, done: Done| {
        ensure!(done.count > 10_000, "only {} connects during the changes", done.count);
        let name = format!("of {} connects during changes of {what}, failed or astray", done.count);
        Ok(Metric::new(id, &name, (done.failed + done.astray) as f64, "connects").at_most(0.0))
    };
    Ok(vec![
        metric("M11", "one frontend", single)?,
        metric("M11-bursts", &format!("{BURST} frontends at a time"), done)?,
    ])
}

fn churn(subject: &mut Subject, request: &Request, services: u32, done: &mut Done) -> Result<()> {
    let over = AtomicBool::new(false);
    let loader = subject.loader.as_mut().context("no data path")?;
    let load = &mut subject.worker;
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let written = loader.ask::<Written>(request);
            over.store(true, Ordering::Relaxed);
            written
        });
        while !over.load(Ordering::Relaxed) {
            let batch = Batch {
                operation: Operation::Check(services),
                to: plan::service(),
                count: services * 4,
                for_ms: 20,
            };
            let part = load.run(&batch)?;
            done.count += part.count;
            done.failed += part.failed;
            done.astray += part.astray;
        }
        let written = changing.join().map_err(|_| anyhow::anyhow!("the changes panicked"))??;
        ensure!(written.failures == 0, "{} frontends could not be programmed", written.failures);
        Ok(())
    })
}
