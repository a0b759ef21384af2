-- abandon.lua: withdraw a claim: out of the queue and, if it has been granted, on to the first waiter.
-- ARGV: [1] call, [2] owner, [3] tokens, [4] way: how to tell it, '' if it does not wait
-- Returns: withdrawn | again | error BADKEY
local redis, lock, queue, fence = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner = ARGV[1], ARGV[2]

-- prelude

local member = member_of(owner, ARGV[3], ARGV[4])
local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if member ~= '' then read('queue', 'ZREM', queue, member) end
if refusal then return refusal end
if holder ~= owner then
  -- The claim does not look after the owner any more.
  local remaining_ms = holder and redis.call('PTTL', lock) or 0
  if member ~= '' and remaining_ms >= 0 then announce(remaining_ms) end
  return answer('withdrawn')
end

if redis.call('EXISTS', queue) == 1 then
  read_fence()
  if refusal then return refusal end
  local outcome, grace_ms = hand_over()
  if refusal then return refusal end
  if outcome == 'again' then return answer('again') end
  if outcome == 'handed' then
    announce(grace_ms)
    return answer('withdrawn')
  end
end
redis.call('DEL', lock)
return answer('withdrawn')
