-- probe.lua: try every command that the scripts need. None has an effect, since the keys are of no
-- lock and are not there, and nobody listens to the channel yet.
-- KEYS: as those of the scripts
-- ARGV: [1] channel: that of the connection
-- Returns: '' | the command that the server does not know | error: the user lacks a permission
local lock, queue, counter = KEYS[1], KEYS[2], KEYS[3]
local unknown, refusal = '', nil

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  local text = type(reply) == 'table' and reply.err
  if not text then return end
  -- What else may be wrong is wrong for now: a full memory, a replica.
  if string.find(text, 'nknown.*command') then unknown = command end
  -- Servers tell in their own words.
  for _, missing in ipairs({'The user executing the script', 'ACL failure in script', 'NOPERM'}) do
    if string.find(text, missing, 1, true) then refusal = refusal or reply end
  end
end

try('TIME')
try('EXISTS', lock, queue)
try('GET', lock)
try('MGET', lock)
try('SET', counter, '0', 'PX', '1', 'XX', 'GET')
try('DEL', lock)
try('PTTL', lock)
try('PEXPIRE', lock, '1')
try('ZADD', queue, 'XX', '0', 'member')
try('ZRANGE', queue, '0', '0')
try('ZREM', queue, 'member')
try('ZSCORE', queue, 'member')
try('ZPOPMIN', queue)
try('PUBLISH', ARGV[1], '')
return refusal or unknown
