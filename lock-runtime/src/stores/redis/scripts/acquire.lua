-- acquire.lua: take the lock, or queue for it. Idempotent by owner: a waiter polls by the same
-- call. Of a claim that is withdrawn already, because its withdrawal was faster or a younger
-- question was, it does nothing.
-- ARGV: [1] call, [2] owner, [3] ttl_ms, [4] tokens, [5] way: how to tell it, '' if it does not wait,
--       [6] queue_ms: how long the queue outlives the present lease
-- Returns: granted last count | queued remaining_ms foreign | taken remaining_ms foreign | again
--          | error BADKEY lock, queue or fence: it holds something else
local redis, lock, queue, fence = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Nobody holds the lock, nobody waits for it, the claim is not withdrawn, and the counter is behind
-- the time. To write the counter as it is read saves a call. The third name is that of `gone_of`.
if redis.call('EXISTS', lock, queue, queue .. ':gone:' .. owner) == 0 then
  local time = redis.pcall('TIME')
  local first = time[1] and time[1] * 1000000 + time[2]
  -- Quicker than `integer`, and too short where the server has but 32 bits for it.
  local last = first and string.format('%d', first + tokens - 1)
  if last and #last == 16 then
    -- As in the prelude.
    local fence_ms = '172800000'
    local old = redis.pcall('SET', fence, last, 'PX', fence_ms, 'GET')
    local number = type(old) == 'string' and string.find(old, '^%d+$') and tonumber(old)
    if old == false or number and number < first then
      redis.call('SET', lock, owner, 'PX', ttl_ms)
      return call .. ' granted ' .. last .. ' ' .. tokens
    end
    -- What it is, is looked into below.
    if type(old) == 'string' then redis.call('SET', fence, old, 'PX', fence_ms) end
  end
end

-- prelude

if redis.call('EXISTS', gone_of(owner)) == 1 then return answer('taken', '0', '0') end

local member, queue_ms = member_of(owner, tokens, ARGV[5]), ARGV[6]
local holder = read('lock', 'GET', lock)
if refusal then return refusal end

if holder and holder ~= owner then
  local ours = string.match(holder, '/lr%-(%x+)%-%x+%-%x+$')
  local foreign = (ours and #ours == 16) and 0 or 1
  return answer(stand_back(member, queue_ms, integer(redis.call('PTTL', lock)), foreign))
end

read_fence()
if refusal then return refusal end

if holder then
  -- Never less than it has: this may be an old question, and a younger one have asked for more.
  ttl_ms = integer(math.max(redis.call('PTTL', lock), ttl_ms))
  redis.call('PEXPIRE', lock, ttl_ms)
  if member ~= '' then redis.call('ZREM', queue, member) end
  if last_token > 0 then return answer('granted', integer(last_token), 1) end
  return answer(make_owner(owner, ttl_ms, block(tokens)))
end

-- The last lease ended without a release: those that wait come first. Where nobody waits, a full memory refuses the lock.
if redis.call('EXISTS', queue) == 1 then
  local outcome, grace_ms = hand_over(member)
  if refusal then return refusal end
  if outcome == 'again' then return answer('again') end
  if outcome == 'handed' then
    if member == '' then announce(grace_ms) end
    return answer(stand_back(member, queue_ms, grace_ms, 0))
  end
end
return answer(make_owner(owner, ttl_ms, block(tokens)))
