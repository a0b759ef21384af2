-- Frees all locks, if each is held by its owner and nobody waits for one of them, as release.lua
-- frees one.
local locks, queues = {}, {}
for index = 1, count do
  locks[index], queues[index] = KEYS[index * 3 - 2], KEYS[index * 3 - 1]
end
if redis.call('EXISTS', unpack(queues)) == 0 then
  local holders, is_usual = redis.call('MGET', unpack(locks)), true
  for index = 1, count do
    is_usual = is_usual and holders[index] == ARGV[2 + shared + index]
    replies[index + 1] = call .. ' released'
  end
  if is_usual then
    redis.call('DEL', unpack(locks))
    return replies
  end
  replies = {call}
end
