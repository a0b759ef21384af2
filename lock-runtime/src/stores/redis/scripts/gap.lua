-- gap.lua: end the lease of this owner. Leave the lock free for a while, if others wait and that
-- was not done of late, so that those who stand in no queue can take it; else do as release.lua and
-- hand_over.lua do.
-- ARGV: [1] call, [2] owner, [3] every_ms: no sooner is it left free again, [4] gap_ms: for so long
--       it is; of the next claim, if there is one: [5] to [8] as [2] to [5] of acquire.lua
-- Returns: released, and what acquire.lua returns for the next claim, if there is one
--          | lost: not held | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, every_ms, gap_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local next_owner, ttl_ms, place, queue_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end

local next_gone = next_owner and redis.call('EXISTS', gone_of(next_owner)) == 1
-- It is not queued.
if next_gone then place = '' end
local next_member = next_owner and member_of(next_owner, place)

-- acquire.lua knows it by the same name.
local gap = queue .. ':gap:counter'
local waits = next_member and next_member ~= '' or redis.call('EXISTS', queue) == 1
if holder == owner and waits and redis.call('EXISTS', gap) == 0 then
  local became = {'released'}
  if next_owner then
    became = {'released', stand_back(next_member, queue_ms, gap_ms, 0)}
    if refusal then return refusal end
  end
  -- It lives for `every`, and the gap is over when so much of it is left. A full memory allows
  -- none.
  local marked = redis.pcall('SET', gap, integer(every_ms - gap_ms), 'PX', every_ms)
  if not marked.err then
    redis.call('DEL', lock)
    -- The first who is alive looks when the gap is over, and serves the queue.
    for _, member in ipairs(redis.call('ZRANGE', queue, '0', '15')) do
      -- place
      local heard = channel
        and redis.pcall('PUBLISH', channel, next_word(gap_ms, member, next_waiter))
      if heard and heard ~= 0 then break end
    end
    return answer(unpack(became))
  end
end

local outcome, grace_ms = hand_on(holder)
if refusal then return refusal end
if outcome == 'lost' or outcome == 'again' then return answer(outcome) end
if outcome == 'handed' then
  if not next_member or next_member == '' then announce(grace_ms) end
  if not next_owner then return answer('released') end
  return answer('released', stand_back(next_member, queue_ms, grace_ms, 0))
end
if next_owner and not next_gone then return answer('released', make_owner(next_owner, ttl_ms)) end
redis.call('DEL', lock)
if next_owner then return answer('released', 'taken', '0', '0') end
return answer('released')
