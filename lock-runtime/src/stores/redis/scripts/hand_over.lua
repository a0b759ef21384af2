-- hand_over.lua: end the lease of this owner, hand the lock over to the first waiter, and queue the
-- next claim of the same process, unless that is withdrawn already.
-- ARGV: [1] call, [2] owner; of the next claim: [3] to [6] as [2] to [5] of acquire.lua
-- Returns: released, and what acquire.lua returns for the next claim | lost: not held | again
--          | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, next_owner = ARGV[1], ARGV[2], ARGV[3]
local ttl_ms, place, queue_ms = ARGV[4], ARGV[5], ARGV[6]

-- The next claim waits. The second name is that of `gone_of`.
local here = redis.call('MGET', lock, queue .. ':gone:' .. next_owner)
if here[1] == owner and not here[2] and place ~= '' then
  -- draw
  local next_member = next_owner .. place
  -- It is queued before the first is popped, so that there is a queue, with its time to live, all
  -- the while. That a full memory refuses, and what pops first is below.
  local added = drawn and redis.pcall('ZADD', queue, 'NX', last, next_member)
  local popped = added == 1 and redis.call('ZPOPMIN', queue)
  local member = popped and popped[1]
  if member == next_member then
    redis.call('SET', lock, next_owner, 'PX', ttl_ms)
    return call .. ' released granted ' .. last .. ' ' .. old
  end
  if member and string.sub(member, -1) == 'c' then
    -- It goes together with others, and is served below.
    redis.call('ZADD', queue, popped[2], member)
    redis.call('ZREM', queue, next_member)
  elseif member then
    -- offer
    if heard ~= 0 and type(heard) == 'number' then
      redis.call('SET', lock, next_waiter, 'PX', grace_ms)
      -- Somebody was queued in an earlier second: so it is at least once in each.
      if string.sub(popped[2], 1, 10) ~= second then
        local remaining_ms = grace_ms
        -- outlive
      end
      return call .. ' released queued ' .. grace_ms .. ' 0'
    end
    -- Dead, or not to be told: it is begun anew, and told below what is wrong.
    if heard ~= 0 then redis.call('ZADD', queue, popped[2], member) end
    redis.call('ZREM', queue, next_member)
  end
end

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end

local next_gone = redis.call('EXISTS', gone_of(next_owner)) == 1
-- It is not queued.
if next_gone then place = '' end

local outcome, grace_ms = hand_on(holder)
if refusal then return refusal end
if outcome == 'lost' or outcome == 'again' then return answer(outcome) end
if outcome == 'handed' then
  if place == '' then announce(grace_ms) end
  return answer('released', stand_back(member_of(next_owner, place), queue_ms, grace_ms, 0))
end
if not next_gone then return answer('released', make_owner(next_owner, ttl_ms)) end
redis.call('DEL', lock)
return answer('released', 'taken', '0', '0')
