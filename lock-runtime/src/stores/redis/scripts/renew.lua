-- renew.lua: extend the lease if, and only if, this owner still holds it.
-- KEYS: [1] lock   It is the only key, so that a lease is renewed while its slot moves.
-- ARGV: [1] call, [2] owner, [3] ttl_ms
-- Returns: held | lost gone: nobody holds it | lost taken: another does | error WRONGTYPE
local lock, call = KEYS[1], ARGV[1]
local holder = redis.call('GET', lock)
if holder ~= ARGV[2] then return call .. (holder and ' lost taken' or ' lost gone') end
redis.call('PEXPIRE', lock, ARGV[3])
return call .. ' held'
