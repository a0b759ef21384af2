-- voting.lua: a verb of a server that is one of several which vote for owners. It does what the
-- verb does, and stores the fencing token that is proposed, if that is larger than all before.
-- KEYS: those of the verb, then fence: the largest token stored; marker: since when, by its own
--       clock and by that of the askers, the server has been known to vote
-- ARGV: those of the verb, then proposal; delay_ms: for how long a server without a marker votes
--       for nobody, 0: not at all; proven: 1 if the owner has a majority without this server, which
--       gives the vote back that was lost
-- Returns: granted last old, or held, and: before: the largest token known, now: the time, in
--          microseconds | queued or taken remaining_ms foreign, and: now, whose token holds the
--          lock | lost | away ms: for so long it votes for nobody | again
--          | error BADKEY: the verb's, or counter, which is fence here
local fence, marker = KEYS[#KEYS - 1], KEYS[#KEYS]
local proposal, delay_ms, proven = ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]
local MARKER_MS, FENCE_MS = '2592000000', '172800000'

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- A clock that was set back tells nothing of when the data were lost.
local since, proposed = string.match(redis.call('GET', marker) or '', '^(%d+) ?(%d*)$')
since, proposed = tonumber(since), tonumber(proposed)
if not since or since > now then
  since, proposed = now, tonumber(proposal)
  redis.call('SET', marker, string.format('%.0f %.0f', now, proposed), 'PX', MARKER_MS)
elseif redis.call('PTTL', marker) < MARKER_MS / 2 then
  redis.call('PEXPIRE', marker, MARKER_MS)
end
local age = now - since
-- The clock of a machine that has just started may be set forward: the proposal, which is the time
-- of most servers, has to say the same. One that was far ahead says nothing.
if proposed and proposed > 0 and proposed < proposal + delay_ms * 1000 then
  age = math.min(age, proposal - proposed)
end
local away_ms = delay_ms - math.floor(age / 1000)
if away_ms > 0 and proven ~= '1' then
  return ARGV[1] .. ' away ' .. string.format('%.0f', away_ms)
end

local before = redis.call('GET', fence) or '0'
if #before > 16 or string.find(before, '%D') then return redis.error_reply('BADKEY counter') end

local function verb()
-- verb
end

local reply = verb()
if type(reply) ~= 'string' then return reply end
local word = string.match(reply, '^%d+ (%a+)')
now = string.format('%.0f', now)
if word == 'granted' or word == 'held' then
  if tonumber(proposal) > tonumber(before) then
    redis.call('SET', fence, proposal, 'PX', FENCE_MS)
  end
  return table.concat({reply, before, now}, ' ')
end
if word == 'queued' or word == 'taken' then
  return table.concat({reply, now, redis.call('GET', KEYS[1]) or ''}, ' ')
end
return reply
