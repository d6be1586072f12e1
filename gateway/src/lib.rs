//! The packet path of Portico: IP-HTTPS, NAT64 and DNS64.
//!
//! Three rooms, one direction of dependency (`io` -> `core` -> `wire`):
//! * [`wire`]: one file per format, views and emitters, no I/O and no state;
//! * [`core`]: sans-IO state machines; they take bytes and [`core::time::Now`] and return events and bytes;
//! * [`io`]: TUN devices, listeners, TLS, worker threads. The only room that knows sockets and clocks.
//!
//! The gateway is told what to do and reports counters and events; it holds no policy of its own.

pub mod core;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod io;
#[cfg(feature = "python")]
mod python;
pub mod wire;
