//! The queue in front of a connection that takes less than is offered: flow queueing with CoDel (RFC 8290, RFC 8289).
//!
//! It exists only while its connection is the bottleneck. Packets wait in it as plaintext, so that what goes next is
//! decided when the connection can take it, and not when the packet came: a ping passes a download, several downloads
//! share, and each is told to slow down (ECN mark, or a drop) before the wait becomes long. Super-segments are one
//! packet here; what is marked or dropped is marked or dropped whole.
//!
//! Three parts that know nothing of each other's work:
//! * [`fair`]: which packet is next, and which goes when there is no room;
//! * [`codel`]: whether a flow has waited too long for too long;
//! * [`pace`]: how much may wait behind the queue, in the kernel, so that the queue is where the waiting happens.

pub mod budget;
pub mod codel;
pub mod fair;
pub mod flow;
pub mod pace;

pub use budget::Budget;
pub use fair::{Counters, FairQueue, Packet};
pub use pace::{Pace, Progress};

#[cfg(test)]
mod tests;
