-- keep.lua: end the lease of this owner, and leave the lock taken by nobody for a while.
-- ARGV: [1] call, [2] owner, [3] keep_ms
-- Returns: released | lost: not held | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, keep_ms = ARGV[1], ARGV[2], ARGV[3]

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if holder ~= owner then return answer('lost') end

-- No longer than it was: this may be an old question.
local rest_ms = math.min(redis.call('PTTL', lock), tonumber(keep_ms))
if rest_ms < 1 then rest_ms = tonumber(keep_ms) end
-- After it, the SET passes even when the memory is full.
redis.call('PEXPIRE', lock, keep_ms)
-- What the owner asked for before may come yet, and must not find it.
redis.call('SET', lock, 'kept:' .. owner, 'PX', integer(rest_ms))
announce(rest_ms)
return answer('released')
