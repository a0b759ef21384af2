-- evict.lua: end the lease of an owner that goes together with others, whatever it has of the lock,
-- and serve those who wait.
-- ARGV: [1] call, [2] owner
-- Returns: released | lost: not held | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner = ARGV[1], ARGV[2]

-- prelude

-- company

look()
if refusal then return refusal end
local own = {}
if kind == 'h' then
  for shard, other in pairs(taken()) do
    if other == owner then own[1] = shard .. '/' .. owner end
  end
elseif kind == 's' or kind == 'p' then
  own = members(owner, kind == 'p' and 'p:64' or 's')
end
local ended = 0
for _, member in ipairs(own) do
  local ends = tonumber(read('holders', 'ZSCORE', holders, member) or 0)
  if refusal then return refusal end
  if ends > now_ms then ended = ended + redis.call('ZREM', holders, member) end
end
if ended == 0 and not has_left(owner) then return answer('lost') end

return answer(serve_after(owner) == 'again' and 'again' or 'released')
