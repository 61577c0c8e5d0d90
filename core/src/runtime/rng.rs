//! Randomness, from the system or from a seed.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

/// A source of random numbers, good for identities and jitter. Not for keys.
#[derive(Clone, Debug)]
pub struct Rng(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Seeded(Arc<Mutex<u64>>),
}

impl Rng {
    /// The system's random numbers.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same numbers for the same seed; clones share the sequence.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(seed))))
    }

    /// The next 64 bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        match &self.0 {
            // A machine without a random source cannot name a cluster, nor a session: nothing can go on.
            Source::System => getrandom::u64().unwrap_or_else(|error| panic!("no random numbers: {error}")),
            Source::Seeded(state) => split_mix(&mut state.lock()),
        }
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// A random UUID (version 4).
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let high = u128::from(self.next_u64()) << 64;
        uuid::Builder::from_u128(high | u128::from(self.next_u64()))
            .with_version(uuid::Version::Random)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
