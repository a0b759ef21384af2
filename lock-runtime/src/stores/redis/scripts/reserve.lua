-- reserve.lua: extend the lease as renew.lua does, and draw further fencing tokens.
-- ARGV: [1] call, [2] owner, [3] ttl_ms
-- Returns: granted last old: held, with the tokens above `old` and up to `last`
--          | lost gone or taken, as renew.lua
--          | error BADKEY lock or counter
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if holder ~= owner then return answer('lost', holder and 'taken' or 'gone') end
-- After it, the SETs pass even when the memory is full.
redis.call('PEXPIRE', lock, ttl_ms)
return answer(make_owner(owner, ttl_ms))
