-- guard.lua: run a body only for a writer who is not stale, and raise the fence before it.
-- KEYS: [1] fence: a hash of token and owner   [2..] those of the body
-- ARGV: [1] token, in decimal   [2] owner   [3..] those of the body
-- Returns: {1, what the body returns} | {0, token of the fence} stale
local fence = table.remove(KEYS, 1)
local token, owner = table.remove(ARGV, 1), table.remove(ARGV, 1)

-- A fence that cannot be read lets nobody pass: scripts do not roll back, so it is known before
-- anything is written.
local seen = redis.pcall('HMGET', fence, 'token', 'owner')
if seen.err then return seen end
if seen[1] and not string.match(seen[1], '^%d+$') then
  return redis.error_reply('ERR the token of the fence is not a number')
end

-- Exact, since tokens are below 2^53.
local last, new = seen[1] and tonumber(seen[1]) or -1, tonumber(token)
if new < last or (new == last and seen[2] ~= owner) then return {0, string.format('%.0f', last)} end
redis.call('HSET', fence, 'token', token, 'owner', owner)

local function body()
