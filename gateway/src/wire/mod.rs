//! One file per wire format: views and emitters, no I/O and no state.
