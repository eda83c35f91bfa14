//! The work that every system is given.

mod idle;
mod iperf3;
mod wrk;

use std::{process::Stdio, time::Duration};

use kakuremichi_benches::machine::{Process, Trouble, output, print, sibling, wait_for};

use self::{
    iperf3::{Bulk, Way},
    wrk::Shape,
};
use crate::{
    figure::{Figure, Sample},
    system::{Origin, System},
};

/// Idle connections that are held at once.
const IDLE: usize = 8000;
/// Bulk streams beside which requests are timed.
const BESIDE: u16 = 4;

/// Waits until both services are reached, and checks that bytes arrive there and come back as they were sent.
pub(crate) fn wait_until_served(system: &System, origin: &Origin) -> Result<(), Trouble> {
    let mut check = system.visitor(sibling("visitor")?);
    check
        .args(["check", &system.http.to_string()])
        .arg(origin.sample());
    check.arg(
        system
            .name
            .replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
    );
    check.args(&system.trusted);
    let mut last = None;
    let what = format!("{} for the same bytes", system.name);
    let served = wait_for(&what, || {
        last = output(&mut check).err();
        last.is_none()
    });
    served.map_err(|late| last.unwrap_or(late))?;
    iperf3::wait_until_served(system)
}

/// What an idle connection costs. Only a system that has carried nothing yet tells: memory that was used once
/// is used again.
pub(crate) fn measure_idle(system: &System) -> Sample {
    let mut sample = Sample::default();
    note(system, &mut sample, |sample| {
        let kib = idle::kib_per_connection(system, IDLE)?;
        sample.put(Figure::IdleFlow, kib);
        Ok(())
    });
    sample
}

/// One round. What fails is told and left out; the rest is measured.
pub(crate) fn measure(system: &System, seconds: u64) -> Sample {
    let mut sample = Sample::default();
    // Where HTTP is read, bulk goes past it as raw TCP, which is another row.
    if system.trusted.is_none() {
        note(system, &mut sample, |sample| bulk(system, seconds, sample));
    }
    note(system, &mut sample, |sample| requests(system, seconds, sample));
    note(system, &mut sample, |sample| loaded(system, seconds, sample));
    sample.put(Figure::Resident, system.resident_bytes() / f64::from(1 << 20));
    sample
}

fn note(system: &System, sample: &mut Sample, measure: impl FnOnce(&mut Sample) -> Result<(), Trouble>) {
    if let Err(trouble) = measure(sample) {
        print(&format!("{}: {}\n", system.name, trouble.chain()));
    }
}

fn bulk(system: &System, seconds: u64, sample: &mut Sample) -> Result<(), Trouble> {
    let start = system.cpu_seconds();
    let up = iperf3::run(system, Way::Up, 1, seconds)?;
    let down = iperf3::run(system, Way::Down, 1, seconds)?;
    let spent = system.cpu_seconds() - start;
    sample.put(Figure::Up1, up.rate);
    sample.put(Figure::Down1, down.rate);
    sample.put(Figure::CpuPerGb, spent / ((up.bytes + down.bytes) / 1e9));
    for (figure, way) in [(Figure::Up8, Way::Up), (Figure::Down8, Way::Down)] {
        let Bulk { rate, .. } = iperf3::run(system, way, 8, seconds)?;
        sample.put(figure, rate);
    }
    Ok(())
}

fn requests(system: &System, seconds: u64, sample: &mut Sample) -> Result<(), Trouble> {
    let shape = |connections| Shape {
        connections,
        closing: false,
        seconds,
    };
    let one = wrk::run(system, shape(1))?;
    sample.put(Figure::OneP50, one.p50);
    sample.put(Figure::OneP99, one.p99);
    let start = system.cpu_seconds();
    let many = wrk::run(system, shape(32))?;
    let spent = system.cpu_seconds() - start;
    sample.put(Figure::Rate32, many.rate);
    sample.put(Figure::P99Of32, many.p99);
    sample.put(Figure::CpuPerRequest, spent * 1e6 / many.count);
    sample.put(Figure::Rate256, wrk::run(system, shape(256))?.rate);
    let closing = Shape {
        closing: true,
        ..shape(32)
    };
    sample.put(Figure::Closing, wrk::run(system, closing)?.rate);
    Ok(())
}

/// Requests while bulk goes toward the visitor, which is where pages and downloads meet.
fn loaded(system: &System, seconds: u64, sample: &mut Sample) -> Result<(), Trouble> {
    // Its server may still be busy with the run before.
    iperf3::wait_until_served(system)?;
    let mut bulk = iperf3::command(system, Way::Down, BESIDE, seconds + 2);
    let bulk = Process::start(bulk.stdout(Stdio::null()), None)?;
    // Its windows open meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    let shape = Shape {
        connections: 4,
        closing: false,
        seconds,
    };
    let requests = wrk::run(system, shape)?;
    sample.put(Figure::LoadedP50, requests.p50);
    sample.put(Figure::LoadedP99, requests.p99);
    bulk.finish("iperf3")
}
