//! Which part of a key this process had last.

use std::collections::VecDeque;

use lock_protocol::LockKey;

use crate::clock;

/// Of how many keys without a machine it is remembered.
const MOST: usize = 16;

/// By the hashes of the keys, the latest first: a part that another key had is as good as any.
#[derive(Default)]
pub(super) struct LastShards(VecDeque<(u32, u8)>);

impl LastShards {
    /// The part that is liked best. Processes that have had none begin at different ones.
    pub(super) fn preferred(&self, key: &LockKey) -> u8 {
        let mut last = self.0.iter();
        let last = last.find(|(hash, _)| *hash == key.hash_value());
        last.map_or_else(|| (clock::chance() >> 24) as u8, |(_, shard)| *shard)
    }

    pub(super) fn remember(&mut self, key: &LockKey, shard: u8) {
        self.0.retain(|(hash, _)| *hash != key.hash_value());
        self.0.truncate(MOST - 1);
        self.0.push_front((key.hash_value(), shard));
    }
}
