-- enter.lua: take a lease that goes together with others, or queue for it: acquire.lua of shares,
-- permits and shards.
-- ARGV: [1] to [5] as those of acquire.lua, [6] want, as company.lua tells it,
--       [7] place where it may have been queued before, if there is one: it keeps its ticket
-- Returns: granted last old shard contended: tokens as of acquire.lua; contended: 1 if others wait
--          | queued remaining_ms foreign | taken remaining_ms foreign | again
--          | error BADKEY lock, queue, holders or counter: it holds something else
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

-- prelude

if redis.call('EXISTS', gone_of(owner)) == 1 then return answer('taken', '0', '0') end

-- company

local member, queue_ms, want = member_of(owner, ARGV[4]), ARGV[5], ARGV[6]
local which = string.sub(want, 1, 1)
local holder = look()
local earlier = ARGV[7] and owner .. ARGV[7]
-- move

-- Others may fit beside it, and who is first after it has to know when to look.
local function granted(last, old, at)
  if member ~= '' then redis.call('ZREM', queue, member) end
  local waits = redis.call('EXISTS', queue)
  if waits == 1 then
    local outcome = serve()
    if refusal then return refusal end
    if outcome == 'again' then
      local is_done = tell_next()
      if refusal then return refusal end
      if not is_done then return answer('again') end
    elseif outcome == 'handed' then
      announce_rest()
    end
    waits = redis.call('EXISTS', queue)
  end
  return answer('granted', last, old, at, tostring(waits))
end

if kind == which then
  -- It may have the lease already.
  local at = 0
  if which == 'h' then
    at = nil
    for shard, other in pairs(taken()) do
      if other == owner then at = shard end
    end
  end
  local own = at and members(owner, want, at)
  local ends = own and tonumber(read('holders', 'ZSCORE', holders, own[1]) or 0)
  if refusal then return refusal end
  if ends and ends > now_ms then
    local last, old = tokens_for(want)
    if refusal then return refusal end
    -- Never less than it has: this may be an old question.
    ends = math.max(ends, now_ms + ttl_ms)
    for _, entry in ipairs(own) do redis.call('ZADD', holders, integer(ends), entry) end
    outlive_all(integer(ends - now_ms))
    return granted(last, old, at)
  end
end

if not holder and redis.call('EXISTS', queue) == 1 then
  -- gap
end

local served = 0
if kind ~= 'x' then
  local outcome, grace_ms
  outcome, grace_ms, served = serve(member)
  if refusal then return refusal end
  if outcome == 'again' then return answer('again') end
  local at = outcome == 'mine' and place_for(want)
  if refusal then return refusal end
  if at then
    local last, old = tokens_for(want)
    if refusal then return refusal end
    admit(owner, want, at, ttl_ms, last)
    return granted(last, old, at)
  end
end

local remaining_ms = redis.call('PTTL', lock)
local rest_ms, foreign = remaining_ms, 0
if kind == 'x' then
  local ours = not holder or served > 0 or string.match(holder, '/lr%-(%x+)%-%x+%-%x+$')
  foreign = (ours and (ours == true or #ours == 16)) and 0 or 1
  if served > 0 and member == '' then announce(remaining_ms) end
else
  -- Who is not the first need not look before the first is gone.
  local found = read('queue', 'ZRANGE', queue, '0', '0')
  if refusal then return refusal end
  if not found[1] or found[1] == member then rest_ms = rest_for(want) end
  if served > 0 and found[1] ~= member then announce_rest() end
end
local word = stand_back(member, queue_ms, remaining_ms, foreign)
return answer(word, integer(rest_ms), tostring(foreign))
