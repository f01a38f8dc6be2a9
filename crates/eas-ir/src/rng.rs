//! Randomness as an argument: a counter-based generator.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The n-th
//! number of a stream is a function of the key and n alone, and a stream's key is derived from its
//! parent's key and a name, never from how far the parent has been read. So a trial, an epoch or an
//! image has the same randomness whatever ran before it, and on however many threads.

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    key: u64,
    counter: u64,
    buffer: [u32; 4],
    /// Numbers of `buffer` that were given out.
    used: usize,
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Rng { key: seed, counter: 0, buffer: [0; 4], used: 4 }
    }

    /// The stream of this name beneath this one, the same however far this one has been read.
    pub fn split(&self, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.key.to_le_bytes()).update(b"name").update(name.as_bytes());
        Self::new(first_word(hasher.finalize()))
    }

    /// The stream of this number beneath this one: a trial's, an epoch's, a step's.
    pub fn split_index(&self, index: u64) -> Self {
        // In one piece, without a hasher's state.
        let mut bytes = *b"........index........";
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[13..].copy_from_slice(&index.to_le_bytes());
        Self::new(first_word(blake3::hash(&bytes)))
    }

    /// The numbers of this stream from a part on. Parts have 2^18 numbers each, and, other than streams beneath this one,
    /// cost nothing to come to: for the few numbers of each of many, an image's of a training.
    ///
    /// # Panics
    /// Where the part is beyond the 2^48 that there are.
    pub fn part(&self, index: u64) -> Self {
        assert!(index < 1 << 48, "a stream has 2^48 parts");
        Rng { counter: index << 16, ..Self::new(self.key) }
    }

    /// This stream's key: a seed that makes the same stream again, from its beginning.
    pub fn seed(&self) -> u64 {
        self.key
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter = [self.counter as u32, (self.counter >> 32) as u32, 0, 0];
            self.buffer = philox(counter, [self.key as u32, (self.key >> 32) as u32]);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// A number below `bound`, each equally likely.
    ///
    /// # Panics
    /// Where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "a bound above 0");
        let bound = bound as u64;
        // Lemire 2019: the high half of a product is uniform once the biased low part is rejected. What is
        // rejected lies below the bound, so the division is rarely needed.
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as usize;
            }
        }
    }

    /// A number in [0, 1), with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A normal number of mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts a list into random order, each equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

fn first_word(hash: blake3::Hash) -> u64 {
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_numbers() {
        // Known answers of the Random123 distribution, `kat_vectors`, philox4x32 10.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected, "counter {counter:x?}, key {key:x?}");
        }
    }

    #[test]
    fn a_part_has_the_numbers_that_the_stream_comes_to() {
        let stream = Rng::new(7);
        let mut read = stream.clone();
        for part in 0..3 {
            let mut found = stream.part(part);
            for number in 0..1 << 18 {
                assert_eq!(found.next_u32(), read.next_u32(), "part {part}, number {number}");
            }
        }
        assert_eq!(read.part(5).next_u64(), stream.part(5).next_u64());
        let beyond = std::panic::catch_unwind(|| Rng::new(7).part(1 << 48));
        assert!(beyond.is_err(), "there is no such part");
    }

    #[test]
    fn a_split_does_not_depend_on_how_far_the_parent_was_read() {
        let fresh = Rng::new(7);
        let mut read = fresh.clone();
        read.next_u32();
        assert_eq!(fresh.split("widen"), read.split("widen"));
        assert_eq!(fresh.split_index(3), read.split_index(3));
        assert_ne!(fresh.split("widen"), fresh.split("deepen"));
        assert_ne!(fresh.split_index(1), fresh.split_index(2));
    }

    #[test]
    fn below_rejects_what_would_come_too_often() {
        // Half of all draws are rejected.
        let bound = (1u64 << 63) + 1;
        let (mut rng, mut plain) = (Rng::new(3), Rng::new(3));
        for _ in 0..1000 {
            let expected =
                std::iter::from_fn(|| Some(u128::from(plain.next_u64()) * u128::from(bound)))
                    .find(|product| *product as u64 >= bound.wrapping_neg() % bound)
                    .map(|product| (product >> 64) as usize);
            assert_eq!(Some(rng.below(bound as usize)), expected);
        }
        assert_eq!(rng, plain);
    }

    #[test]
    fn below_is_uniform_and_normal_has_mean_0_and_deviation_1() {
        let mut rng = Rng::new(1);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        let draws: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_shuffle_keeps_every_entry() {
        let mut list: Vec<usize> = (0..100).collect();
        Rng::new(5).shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }
}
