-- renew.lua: extend the lease if, and only if, this owner still holds it.
-- ARGV: [1] call, [2] owner, [3] ttl_ms, [4] tokens: how many further fencing tokens to reserve
-- Returns: held | granted last count: held, with these tokens | lost | error BADKEY lock or fence
local redis, lock, queue, fence = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner, ttl_ms, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- No tokens are wanted.
if tokens == '0' and redis.pcall('GET', lock) == owner then
  redis.call('PEXPIRE', lock, ttl_ms)
  return call .. ' held'
end

-- prelude

local holder = read('lock', 'GET', lock)
if tokens ~= '0' and holder == owner then read_fence() end
if refusal then return refusal end

if holder ~= owner then return answer('lost') end
redis.call('PEXPIRE', lock, ttl_ms)
if tokens == '0' then return answer('held') end
return answer(make_owner(owner, ttl_ms, block(tokens)))
