-- abandon.lua: withdraw a claim: out of the queue and, if it has been granted, on to the first waiter.
-- ARGV: [1] call, [2] owner, [3] member: its place in the queue, '' if it has none
-- Returns: withdrawn | again | error BADKEY
local redis, lock, queue, fence = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, member = ARGV[1], ARGV[2], ARGV[3]

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if member ~= '' then read('queue', 'ZREM', queue, member) end
if refusal then return refusal end
if holder ~= owner then return answer('withdrawn') end

local waiter, second = first_waiters()
if waiter then read_fence() end
if refusal then return refusal end

if waiter then
  local outcome = hand_over(waiter, second)
  if outcome == 'again' then return answer('again') end
  if outcome == 'handed' then return answer('withdrawn') end
end
redis.call('DEL', lock)
return answer('withdrawn')
