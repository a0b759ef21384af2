-- acquire.lua: take the lock, or queue for it. Idempotent by owner: a waiter polls by the same call.
-- ARGV: [1] call, [2] owner, [3] ttl_ms, [4] tokens, [5] member: its place in the queue, '' if it does not wait,
--       [6] queue_ms: how long the queue outlives the present lease
-- Returns: {call, 1, first, last} granted | {call, 2, remaining_ms, foreign} queued | {call, 3, remaining_ms, foreign} taken
--          | {call, 0} again | error BADKEY lock, queue or fence: it holds something else
local lock, queue, fence = KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms, tokens, member, queue_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])

-- Nobody holds the lock, nobody waits for it, and the counter is behind the time.
if redis.pcall('GET', lock) == false and next(redis.pcall('ZRANGE', queue, '0', '0')) == nil then
  local last, time = redis.pcall('GET', fence), redis.pcall('TIME')
  local first = time[1] and time[1] * 1000000 + time[2]
  local number = type(last) == 'string' and not string.find(last, '%D') and tonumber(last)
  if first and (last == false or number and number < first) then
    last = first + tokens - 1
    redis.call('SET', lock, owner, 'PX', ttl_ms)
    -- For as long as in the prelude.
    redis.call('SET', fence, string.format('%.0f', last), 'PX', '172800000')
    return {call, 1, first, last}
  end
end

-- prelude

local holder = read('lock', 'GET', lock)
if refusal then return refusal end

if holder and holder ~= owner then
  local ours = string.match(holder, '/lr%-(%x+)%-%x+%-%x+$')
  local foreign = (ours and #ours == 16) and 0 or 1
  return {call, stand_back(member, queue_ms, redis.call('PTTL', lock), foreign)}
end

read_fence()
local waiter = not holder and first_waiter()
if refusal then return refusal end

if holder then
  redis.call('PEXPIRE', lock, ttl_ms)
  if member ~= '' then redis.call('ZREM', queue, member) end
  if last_token > 0 then return {call, 1, last_token, last_token} end
  return {call, make_owner(owner, ttl_ms, block(tokens))}
end

-- The last lease ended without a release: those that wait come first.
if waiter and waiter ~= member then
  local outcome, grace_ms = hand_over(waiter, member)
  if outcome == 'again' then return {call, 0} end
  if outcome == 'handed' then return {call, stand_back(member, queue_ms, grace_ms, 0)} end
end
if waiter and member ~= '' then redis.call('ZREM', queue, member) end
return {call, make_owner(owner, ttl_ms, block(tokens))}
