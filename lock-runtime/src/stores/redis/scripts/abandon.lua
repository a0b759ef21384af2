-- abandon.lua: withdraw a claim: out of the queue and, if it has been granted, on to the first
-- waiter.
-- ARGV: [1] call, [2] owner, [3] place in the queue, '' if it does not wait,
--       [4] gone_ms: how long to remember the withdrawal; 0: not at all,
--       [5] doubt: 1 if a question of the claim may still be on its way. Where the claim is
--           unknown, it is in doubt, too,
--       of a claim that goes together with others, want, as company.lua tells it; then, of any,
--       the place where it may have been queued before, if there is one
-- Returns: withdrawn | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner = ARGV[1], ARGV[2]

-- prelude

local member = member_of(owner, ARGV[3])
local holder = read('lock', 'GET', lock)
if refusal then return refusal end
local want, earlier = ARGV[6], ARGV[7]
-- Places begin like this.
if want and string.sub(want, 1, 1) == '/' then want, earlier = nil, want end
earlier = earlier and owner .. earlier or member
local waited = member ~= '' and read('queue', 'ZREM', queue, member, earlier) ~= 0
if refusal then return refusal end
local gone_ms, known = ARGV[4], waited or holder == owner
local function remember(known)
  if gone_ms ~= '0' and (ARGV[5] == '1' or not known) then
    -- After a write the SET passes even when the memory is full.
    redis.call('DEL', gone_of(owner))
    redis.call('SET', gone_of(owner), '', 'PX', gone_ms)
  end
end

local is_marked = holder and string.sub(holder, -24) == '/lr-0000000000000000-0-0'
if is_marked or not holder and redis.call('GET', gone_of(owner)) == 'left' then
  -- company
  look()
  if refusal then return refusal end
  local is_open, left = has_left(owner), 0
  if want and kind == string.sub(want, 1, 1) then
    local own = kind ~= 'h' and members(owner, want) or {}
    for shard, other in pairs(kind == 'h' and taken() or {}) do
      if other == owner then own[1] = shard .. '/' .. owner end
    end
    for _, entry in ipairs(own) do left = left + redis.call('ZREM', holders, entry) end
    known = known or left > 0
  end
  remember(known or is_open)
  if waited or left > 0 or is_open then
    local outcome = serve_after(owner)
    if refusal then return refusal end
    if outcome == 'again' then return answer('again') end
    if waited and outcome == 'none' then announce_rest() end
  end
  return answer('withdrawn')
end
remember(known)
if holder ~= owner then
  -- The claim does not look after the owner any more.
  local remaining_ms = holder and redis.call('PTTL', lock) or 0
  if member ~= '' and remaining_ms >= 0 then announce(remaining_ms) end
  return answer('withdrawn')
end

if redis.call('EXISTS', queue) == 1 then
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
