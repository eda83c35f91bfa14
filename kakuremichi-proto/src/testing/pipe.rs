//! A model of a transport: two directions, in order, that end together.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the node to Control.
    Up,
    /// From Control to the node.
    Down,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    queue: VecDeque<(Instant, Item)>,
    /// Everything that was put in, for tests that send it again.
    pub(super) history: Vec<Vec<u8>>,
    pub(super) latency: Duration,
    /// The byte at which the connection breaks.
    pub(super) cut_at: Option<u64>,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) enum Item {
    Frame(Vec<u8>),
    End,
}

/// The connection broke within the frame.
#[derive(Debug)]
pub(super) struct Cut;

impl Pipe {
    pub(super) const fn new(latency: Duration) -> Self {
        Self {
            queue: VecDeque::new(),
            history: Vec::new(),
            latency,
            cut_at: None,
            bytes: 0,
        }
    }

    pub(super) fn send(&mut self, frame: Vec<u8>, now: Instant) -> Result<(), Cut> {
        let end = self.bytes + frame.len() as u64;
        if self.cut_at.is_some_and(|cut| cut < end) {
            return Err(Cut);
        }
        self.bytes = end;
        self.history.push(frame.clone());
        self.queue.push_back((now + self.latency, Item::Frame(frame)));
        Ok(())
    }

    /// What is under way arrives later.
    pub(super) fn delay(&mut self, delay: Duration) {
        self.latency += delay;
        self.queue.iter_mut().for_each(|(due, _)| *due += delay);
    }

    pub(super) fn end(&mut self, now: Instant) {
        self.queue.push_back((now + self.latency, Item::End));
    }

    pub(super) fn receive(&mut self, now: Instant) -> Option<Item> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            return None;
        }
        self.queue.pop_front().map(|(_, item)| item)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }
}
