-- inspect.lua: tell who holds a lock, and who waits for it. It writes nothing.
-- KEYS: [1] lock, [2] queue, [3] the processes that leave cards
-- ARGV: [1] call, [2] the last waiter to name, from 0 on, what a card is called [3] before and
--       [4] behind the name of its process, [5] ttl_ms of cards
-- Returns: free | held remaining_ms waiting, and of each text that follows what it is: of the
--          holder `owner length`, of a waiter `hears length` or `deaf length`, `card age_ms
--          length length`: of the name of the process and of the card; then a newline, and the
--          texts one after the other
--          | error BADKEY queue: it holds something else
local lock, queue, processes = KEYS[1], KEYS[2], KEYS[3]
local call, before, behind, ttl_ms = ARGV[1], ARGV[3], ARGV[4], ARGV[5]

local owner = redis.call('GET', lock)
if not owner then return call .. ' free' end
local waiting = redis.pcall('ZCARD', queue)
if type(waiting) == 'table' then
  if string.find(waiting.err, 'WRONGTYPE', 1, true) then return redis.error_reply('BADKEY queue') end
  return waiting
end
local remaining_ms = redis.call('PTTL', lock)
-- Of leases that go together, the one that ends last stands for all.
if string.sub(owner, -24) == '/lr-0000000000000000-0-0' then
  local last = redis.pcall('ZRANGE', string.sub(queue, 1, -9) .. ':holders', '-1', '-1')[1]
  if last and string.sub(owner, 1, 1) ~= 's' then last = string.match(last, '^%d+/(.*)$') end
  owner = last or owner
end
local words = {call, string.format('held %d %d owner %d', remaining_ms, waiting, #owner)}
local texts = {owner}
for _, member in ipairs(redis.call('ZRANGE', queue, '0', ARGV[2])) do
  -- place
  if channel then
    local heard = redis.call('PUBSUB', 'NUMSUB', channel)[2]
    -- What it wants stands behind its owner token.
    if string.sub(member, -1) == 'c' then next_waiter = string.match(next_waiter, '^(.*)/') or next_waiter end
    table.insert(words, (heard == 0 and 'deaf ' or 'hears ') .. #next_waiter)
    table.insert(texts, next_waiter)
  end
end
local holder = string.match(owner, '/lr%-(%x+%-%x+)%-%x+$')
if holder then
  for _, process in ipairs(redis.call('ZRANGE', processes, '0', '-1')) do
    if string.sub(process, 1, #holder) == holder then
      -- tell card
    end
  end
end
return table.concat(words, ' ') .. '\n' .. table.concat(texts)
