-- cards.lua: tell the cards of all processes. It writes nothing.
-- KEYS: [1] the processes that leave cards
-- ARGV: [1] call, what a card is called [2] before and [3] behind the name of its process,
--       [4] ttl_ms
-- Returns: cards, and as inspect.lua tells them
local call, before, behind, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local words, texts = {call, 'cards'}, {}
for _, process in ipairs(redis.call('ZRANGE', KEYS[1], '0', '-1')) do
  -- tell card
end
return table.concat(words, ' ') .. '\n' .. table.concat(texts)
