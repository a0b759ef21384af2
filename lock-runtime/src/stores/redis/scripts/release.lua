-- release.lua: end the lease of this owner, and hand the lock over to the first waiter. Whoever has
-- a next claim calls hand_over.lua.
-- ARGV: [1] call, [2] owner
-- Returns: released | lost: not held | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner = ARGV[1], ARGV[2]

-- Nobody waits.
if redis.pcall('GET', lock) == owner and redis.call('EXISTS', queue) == 0 then
  redis.call('DEL', lock)
  return call .. ' released'
end

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if holder ~= owner then return answer('lost') end

local outcome, grace_ms = hand_over()
if refusal then return refusal end
if outcome == 'again' then return answer('again') end
if outcome == 'handed' then
  announce(grace_ms)
else
  redis.call('DEL', lock)
end
return answer('released')
