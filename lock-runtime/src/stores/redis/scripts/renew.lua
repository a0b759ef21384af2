-- renew.lua: extend the lease if, and only if, this owner still holds it.
-- KEYS: [1] lock   It is the only key, so that a lease is renewed while its slot moves.
-- ARGV: [1] call, [2] owner, [3] ttl_ms
-- Returns: held | lost | error WRONGTYPE
local lock, call = KEYS[1], ARGV[1]
if redis.call('GET', lock) ~= ARGV[2] then return call .. ' lost' end
redis.call('PEXPIRE', lock, ARGV[3])
return call .. ' held'
