-- Takes all locks, if each is free, as acquire.lua takes one. From the first on that is not to be
-- had, it leaves them to that.
local names, ttl_ms = {}, ARGV[3]
for index = 1, count do
  local at, queue = (index - 1) * 3, KEYS[index * 3 - 1]
  names[at + 1], names[at + 2] = KEYS[at + 1], queue
  names[at + 3] = queue .. ':gone:' .. ARGV[2 + shared + index]
end
if redis.call('EXISTS', unpack(names)) == 0 then
  for index = 1, count do
    local lock, counter, owner = names[index * 3 - 2], KEYS[index * 3], ARGV[2 + shared + index]
    -- take
    if not is_taken then break end
    replies[index + 1] = call .. ' granted ' .. last .. ' ' .. old
  end
end
