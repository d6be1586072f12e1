//! Super-segments: many packets of one flow handled as one, by the kernel's own rules (GSO and GRO).

pub mod coalesce;
pub mod pieces;
#[cfg(test)]
pub(crate) mod samples;
pub mod split;
