//! Lanes of TLS streams in virtual time.
//!
//! Connections, flows, pumps, their ends and the probes are those that are shipped; only what is below TLS is a
//! [pipe](pipe) that delays, gives and takes in pieces, stalls and breaks at any byte. The tasks of both ends run
//! on one thread, whose clocks stand still until the next event ([`hours`]). A seed always gives the same run,
//! which is why nothing in here chooses at random between what is ready, as the tasks of agents and gateways do
//! (`tokio::select`).
//!
//! [`flows`] has one flow after the other on one connection, and [`lane`] the two ends of a lane with a pool and
//! probes: an [agent](agent)'s and a [gateway](gateway)'s.

mod agent;
mod flows;
mod gateway;
mod hours;
mod lane;
mod past;
mod pipe;
mod user;
