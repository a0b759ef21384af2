-- leave.lua: end a lease that goes together with others, and serve those who wait: release.lua and
-- keep.lua of shares, permits and shards.
-- ARGV: [1] call, [2] owner, [3] want, as company.lua tells it, [4] shard,
--       [5] keep_ms: for how long it stays taken by nobody; 0: not at all
-- Returns: released | lost: not held | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, want, at, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

-- prelude

-- company

look()
if refusal then return refusal end
if kind ~= string.sub(want, 1, 1) then return answer('lost') end
local own = members(owner, want, at)
local ends = tonumber(read('holders', 'ZSCORE', holders, own[1]) or 0)
if refusal then return refusal end
if ends <= now_ms then return answer('lost') end

for _, member in ipairs(own) do redis.call('ZREM', holders, member) end
if keep_ms > 0 then
  -- What the owner asked for before may come yet, and must not find it. No longer than it was: this
  -- may be an old question.
  local until_ms = integer(math.min(ends, now_ms + keep_ms))
  for _, member in ipairs(members('kept:' .. owner, want, at)) do redis.call('ZADD', holders, until_ms, member) end
  announce_rest()
  return answer('released')
end

serve_after()
if refusal then return refusal end
return answer('released')
