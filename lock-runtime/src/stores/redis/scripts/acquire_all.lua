-- acquire_all.lua: take several locks if all are free and nobody waits for one of them; else none.
-- KEYS: lock, queue and counter of each   ARGV: [1] call; of each: owner, ttl_ms
-- Returns: granted, and last old of each, as acquire.lua | taken: not all, and none
--          | error BADKEY counter: it holds something else
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call = ARGV[1]

for at = 1, #KEYS, 3 do
  local owner = ARGV[2 + (at - 1) / 3 * 2]
  -- The third name is that of `gone_of`.
  if redis.call('EXISTS', KEYS[at], KEYS[at + 1], KEYS[at + 1] .. ':gone:' .. owner) > 0 then
    return call .. ' taken'
  end
end

-- prelude

-- All draws come first: one that is refused leaves no lock.
local tokens = {}
for at = 3, #KEYS, 3 do
  counter = KEYS[at]
  local last, old = draw()
  if refusal then return refusal end
  tokens[#tokens + 1] = last .. ' ' .. old
end
for at = 1, #KEYS, 3 do
  local owner = 2 + (at - 1) / 3 * 2
  redis.call('SET', KEYS[at], ARGV[owner], 'PX', ARGV[owner + 1])
end
return answer('granted', table.concat(tokens, ' '))
