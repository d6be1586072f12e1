//! Sans-IO state: no sockets, no clock, no random source of its own.

pub mod dns64;
pub mod frame;
pub mod impossible;
pub mod iphttps;
pub mod nat64;
pub mod queue;
pub mod segments;
pub mod time;
