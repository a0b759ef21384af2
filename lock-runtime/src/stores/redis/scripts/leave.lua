-- leave.lua: end a lease that goes together with others, and serve those who wait: release.lua and
-- keep.lua of shares, permits and shards. It leaves no gap as gap.lua does: a lock that is always
-- shared is never free.
-- ARGV: [1] call, [2] owner, [3] want, as company.lua tells it, [4] shard,
--       [5] keep_ms: for how long it stays taken by nobody; 0: not at all
-- Returns: released | lost: not held | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, want, at, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

-- prelude

-- company

look()
if refusal then return refusal end
local own, ends = members(owner, want, at), 0
if kind == string.sub(want, 1, 1) then
  ends = tonumber(read('holders', 'ZSCORE', holders, own[1]) or 0)
  if refusal then return refusal end
end
if ends <= now_ms then
  if not has_left(owner) then return answer('lost') end
  return answer(serve_after(owner) == 'again' and 'again' or 'released')
end

for _, member in ipairs(own) do redis.call('ZREM', holders, member) end
if keep_ms > 0 then
  -- What the owner asked for before may come yet, and must not find it. No longer than it was: this
  -- may be an old question.
  local until_ms = integer(math.min(ends, now_ms + keep_ms))
  for _, member in ipairs(members('kept:' .. owner, want, at)) do
    redis.call('ZADD', holders, until_ms, member)
  end
  end_with(last_end() or now_ms)
  announce_rest()
  return answer('released')
end

return answer(serve_after(owner) == 'again' and 'again' or 'released')
