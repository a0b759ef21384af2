-- release.lua: end the lease of this owner, hand the lock over to the first waiter, and queue the next claim of the same process.
-- ARGV: [1] call, [2] owner; if there is a next claim: [3] to [7] as [2] to [6] of acquire.lua
-- Returns: {call, 1} released | {call, 1, what acquire.lua returns for the next claim} | {call, 2} not held | {call, 0} again
--          | error BADKEY
local lock, queue, fence = KEYS[1], KEYS[2], KEYS[3]
local call, owner, next_owner = ARGV[1], ARGV[2], ARGV[3]
local ttl_ms, tokens, member, queue_ms = ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])

-- Nobody waits.
if not next_owner and redis.pcall('GET', lock) == owner and next(redis.pcall('ZRANGE', queue, '0', '0')) == nil then
  redis.call('DEL', lock)
  return {call, 1}
end

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if holder ~= owner then return {call, 2} end

local waiter = first_waiter()
if waiter or next_owner then read_fence() end
if refusal then return refusal end

if waiter then
  local outcome, grace_ms = hand_over(waiter)
  if outcome == 'again' then return {call, 0} end
  if outcome == 'handed' then
    if not next_owner then return {call, 1} end
    return {call, 1, stand_back(member, queue_ms, grace_ms, 0)}
  end
end
redis.call('DEL', lock)
if not next_owner then return {call, 1} end
return {call, 1, make_owner(next_owner, ttl_ms, block(tokens))}
