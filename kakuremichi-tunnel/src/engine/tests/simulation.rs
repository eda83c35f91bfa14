//! Nodes in virtual time over a virtual network.
//!
//! Each node is the engines of its shards as they are: their turns, batches, WireGuard, the netstack, the probes.
//! Only the sockets are queues ([`udp::wire`](crate::engine::udp::wire)), and the clock stands still until the
//! next event ([`VirtualClock`](crate::virtual_clock::VirtualClock)). One thread, no waiting: a minute takes
//! milliseconds, and a seed always gives the same run.
//!
//! [`World`](world::World) has the clock, the nodes and the network between them; [`Transfer`](transfer::Transfer)
//! is what uses flows and checks every byte, [`Talk`](talk::Talk) the same for sessions and datagrams; a
//! [`Script`](script::Script) makes hosts, faults, transfers and talks out of a seed. `properties` and `sessions` say
//! what holds for every seed, `past` holds those that once did not, `owners` has peers
//! that go from one shard to another, `rotation` nodes that get other keys, and `large` has many nodes and long times, with a model in the place of
//! boringtun.

mod large;
mod nat;
mod network;
mod node;
mod owners;
mod past;
mod properties;
mod rotation;
mod script;
mod sessions;
mod talk;
mod thread;
mod transfer;
mod world;
