-- Draws from the counter: raises it to the time. Fencing tokens are what lies between, a ticket is
-- what it is then.
-- Before: counter. After: drawn; last: what the counter is, old: what it was, as texts; time;
-- counter_ms. If not `drawn`, the counter has been absent and is now the time, or is as it was; `draw`
-- of the prelude goes on then.
local time = redis.call('TIME')
local micros = #time[2] == 6 and time[2] or string.format('%06d', time[2])
local last = time[1] .. micros
-- To read it as it is written saves a call.
local old = redis.pcall('SET', counter, last, 'KEEPTTL', 'GET')
-- The usual case alone: of the same length, texts are in the order of their numbers.
local drawn = old and #old == #last and old < last and not string.find(old, '%D')
-- Two days outlive every lease, so that the counter is there when the next grant comes; TIME covers
-- what is later. The first draw of a second sees to it.
local counter_ms = '172800000'
if not old or drawn and string.sub(old, 1, 10) ~= time[1] then
  redis.call('PEXPIRE', counter, counter_ms)
elseif not drawn and type(old) == 'string' then
  redis.call('SET', counter, old, 'KEEPTTL')
end
