-- Before: process, words, texts, before, behind, ttl_ms. After: its card is told, if it is there.
local name = before .. process .. behind
local text = redis.call('GET', name)
if text then
  local age_ms = math.max(0, ttl_ms - redis.call('PTTL', name))
  table.insert(words, string.format('card %.0f %d %d', age_ms, #process, #text))
  table.insert(texts, process)
  table.insert(texts, text)
end
