-- release.lua: end the lease of this owner, hand the lock over to the first waiter, and queue the
-- next claim of the same process, unless that is withdrawn already.
-- ARGV: [1] call, [2] owner; if there is a next claim: [3] to [7] as [2] to [6] of acquire.lua
-- Returns: released | released, and what acquire.lua returns for the next claim | lost: not held | again | error BADKEY
local redis, lock, queue, fence = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, next_owner = ARGV[1], ARGV[2], ARGV[3]

-- Nobody waits.
if not next_owner and redis.pcall('GET', lock) == owner and redis.call('EXISTS', queue) == 0 then
  redis.call('DEL', lock)
  return call .. ' released'
end

-- prelude

local ttl_ms, tokens, way, queue_ms = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local holder = read('lock', 'GET', lock)
if refusal then return refusal end
if holder ~= owner then return answer('lost') end

read_fence()
if refusal then return refusal end
local next_gone = next_owner and redis.call('EXISTS', gone_of(next_owner)) == 1
-- It is not queued.
if next_gone then way = '' end

local outcome, grace_ms = hand_over()
if refusal then return refusal end
if outcome == 'again' then return answer('again') end
if outcome == 'handed' then
  if not next_owner or way == '' then announce(grace_ms) end
  if not next_owner then return answer('released') end
  return answer('released', stand_back(member_of(next_owner, tokens, way), queue_ms, grace_ms, 0))
end
redis.call('DEL', lock)
if not next_owner then return answer('released') end
if next_gone then return answer('released', 'taken', '0', '0') end
return answer('released', make_owner(next_owner, ttl_ms, block(tokens)))
