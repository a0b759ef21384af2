-- abandon.lua: withdraw a claim: out of the queue and, if it has been granted, on to the first waiter.
-- ARGV: [1] owner, [2] member: its place in the queue, '' if it has none
-- Returns: {1} withdrawn | {0} again | error BADKEY
local lock, queue, fence = KEYS[1], KEYS[2], KEYS[3]
local owner, member = ARGV[1], ARGV[2]

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if member ~= '' then read('queue', 'ZREM', queue, member) end
if refusal then return refusal end
if holder ~= owner then return {1} end

local waiter = first_waiter()
if waiter then read_fence() end
if refusal then return refusal end

if waiter then
  local outcome = hand_over(waiter)
  if outcome == 'again' then return {0} end
  if outcome == 'handed' then return {1} end
end
redis.call('DEL', lock)
return {1}
