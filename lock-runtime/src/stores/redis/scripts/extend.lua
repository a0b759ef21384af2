-- extend.lua: extend a lease that goes together with others if, and only if, this owner still holds
-- it: renew.lua and reserve.lua of shares, permits and shards.
-- ARGV: [1] call, [2] owner, [3] want, as company.lua tells it, [4] shard, [5] ttl_ms, [6] tokens:
-- 1 if some are wanted
-- Returns: held contended | granted last old contended: held, with further tokens
--          | lost gone: it has ended | lost taken: the lock is that of others | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, want, at, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- prelude

-- company

look()
if refusal then return refusal end
if kind ~= string.sub(want, 1, 1) then return answer('lost', kind and 'taken' or 'gone') end
local own = members(owner, want, at)
-- One that has ended may be in the set still, and must not come back beside its successor.
local ends = tonumber(read('holders', 'ZSCORE', holders, own[1]) or 0)
if refusal then return refusal end
if ends <= now_ms then return answer('lost', 'gone') end
-- After it, the rest passes even when the memory is full.
redis.call('PEXPIRE', holders, integer(math.max(redis.call('PTTL', holders), ttl_ms)))
local last, old
if ARGV[6] == '1' then
  last, old = draw()
  if refusal then return refusal end
end
for _, member in ipairs(own) do redis.call('ZADD', holders, integer(now_ms + ttl_ms), member) end
outlive_all(ttl_ms)
-- A lease for a minimum hold was longer than its ttl.
if now_ms + ttl_ms < ends then end_with(last_end()) end
local contended = tostring(redis.call('EXISTS', queue))
if last then return answer('granted', last, old, contended) end
return answer('held', contended)
