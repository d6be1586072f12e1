//! A keyed hash: what clients send cannot be chosen so that it falls into one place.

use std::hash::{BuildHasher, DefaultHasher, Hasher};

use super::resolver::Entropy;

/// The key, which never leaves this server.
#[derive(Clone, Copy)]
pub struct Secret(u128);

impl Secret {
    pub fn new(entropy: &mut Entropy) -> Self {
        Self(u128::from(entropy()) << 64 | u128::from(entropy()))
    }

    #[cfg(test)]
    pub const fn fixed() -> Self {
        Self(7)
    }
}

impl BuildHasher for Secret {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u128(self.0);
        hasher
    }
}
