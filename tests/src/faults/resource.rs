//! What a lock protects: a value in Redis that accepts no write of an earlier holder once it has seen a later one.

use lock_runtime::FencingToken;
use redis::Script;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The resource took it.
    Accepted,
    /// A later holder has been here.
    Refused,
}

/// Compares before it writes; the owner tells whether an equal token is that of the same holder.
const GUARD: &str = "
local seen = redis.call('HMGET', KEYS[1], 'fence', 'owner')
local fence = tonumber(seen[1] or 0)
local token = tonumber(ARGV[1])
if token < fence or (token == fence and seen[2] ~= ARGV[2]) then
  redis.call('HINCRBY', KEYS[1], 'refused', 1)
  return 0
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'owner', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'accepted', 1)
redis.call('PEXPIRE', KEYS[1], 600000)
return 1";

/// Writes to the resource called `name` on the server at `url`.
pub fn write(url: &str, name: &str, token: FencingToken, owner: &str) -> Write {
    let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
    let accepted: bool = Script::new(GUARD)
        .key(name)
        .arg(token.as_u64())
        .arg(owner)
        .invoke(&mut client)
        .unwrap();
    if accepted {
        Write::Accepted
    } else {
        Write::Refused
    }
}
