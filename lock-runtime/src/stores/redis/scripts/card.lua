-- card.lua: leave the card of a process, or take it away.
-- KEYS: [1] the card, [2] the processes that leave cards, by the time at which theirs end
-- ARGV: [1] call, [2] process, [3] ttl_ms: 0 takes it away, [4] what it says
-- Returns: left
local card, processes = KEYS[1], KEYS[2]
local call, process, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

if ttl_ms == '0' then
  redis.call('DEL', card)
  redis.call('ZREM', processes, process)
  return call .. ' left'
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
-- Those whose cards have ended come first. They are few: each leaves soon after its process has.
local first = redis.call('ZRANGE', processes, '0', '31', 'WITHSCORES')
for at = 1, #first, 2 do
  if tonumber(first[at + 1]) < now_ms then redis.call('ZREM', processes, first[at]) end
end
redis.call('SET', card, ARGV[4], 'PX', ttl_ms)
redis.call('ZADD', processes, string.format('%.0f', now_ms + ttl_ms), process)
redis.call('PEXPIRE', processes, ttl_ms)
return call .. ' left'
