-- acquire.lua: take the lock, or queue for it. Idempotent by owner: a waiter polls by the same
-- call. Of a claim that is withdrawn already, because its withdrawal was faster or a younger
-- question was, it does nothing.
-- ARGV: [1] call, [2] owner, [3] ttl_ms, [4] place in the queue, '' if it does not wait,
--       [5] queue_ms: how long the queue outlives the present lease
--       [6] place where it may have been queued before, if there is one: it keeps its ticket
-- Returns: granted last old: tokens above `old` and up to `last`, to which the counter was raised;
--          new ones where it is granted again | queued remaining_ms foreign
--          | taken remaining_ms foreign | again; after `foreign` the process of the holder, if it
--          is known
--          | error BADKEY lock, queue or counter: it holds something else
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

-- Nobody holds the lock, nobody waits for it, and the claim is not withdrawn. The third name is
-- that of `gone_of`.
if redis.call('EXISTS', lock, queue, queue .. ':gone:' .. owner) == 0 then
  -- take
  if is_taken then return call .. ' granted ' .. last .. ' ' .. old end
end

-- prelude

if redis.call('EXISTS', gone_of(owner)) == 1 then return answer('taken', '0', '0') end

local member, queue_ms = member_of(owner, ARGV[4]), ARGV[5]
local holder = read('lock', 'GET', lock)
local earlier = ARGV[6] and owner .. ARGV[6]
-- move

local is_marked = false
if holder and holder ~= owner then
  local process, id = string.match(holder, '/lr%-((%x+)%-%x+)%-%x+$')
  -- The marker of leases that go together is that of no process, and they may have ended before it.
  is_marked = id == '0000000000000000'
  if not is_marked then
    local remaining_ms, foreign = redis.call('PTTL', lock), id and #id == 16 and 0 or 1
    if foreign == 1 or string.sub(process, -2) == '-0' then process = nil end
    return answer(stand_back(member, queue_ms, remaining_ms, foreign, process))
  end
end

-- The last lease ended without a release: those that wait come first. Where nobody waits, a full
-- memory refuses the lock.
if is_marked or not holder and redis.call('EXISTS', queue) == 1 then
  local outcome, grace_ms
  if is_marked then
    outcome, grace_ms = serve_company(member, true)
  else
    -- gap
    outcome, grace_ms = hand_over(member)
  end
  if refusal then return refusal end
  if outcome == 'again' then return answer('again') end
  if outcome == 'handed' then
    if member == '' then announce(grace_ms) end
    return answer(stand_back(member, queue_ms, grace_ms, 0))
  end
end

if holder == owner then
  -- Never less than it has: this may be an old question, and a younger one have asked for more.
  ttl_ms = integer(math.max(redis.call('PTTL', lock), ttl_ms))
  redis.call('PEXPIRE', lock, ttl_ms)
  if member ~= '' then redis.call('ZREM', queue, member) end
end
return answer(make_owner(owner, ttl_ms))
