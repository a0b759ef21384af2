-- Draws from the counter: raises it to the time. Fencing tokens are what lies between, a ticket is
-- what it is then.
-- Before: counter. After: drawn; last: what the counter is, old: what it was, as texts; time.
-- If not `drawn`, the counter has been absent and is now the time, or is as it was; `draw` of the
-- prelude goes on then.
local time = redis.call('TIME')
local micros = #time[2] == 6 and time[2] or string.format('%06d', time[2])
local last = time[1] .. micros
-- Two days outlive every lease, so that the counter is there when the next grant comes; TIME covers
-- what is later. To read it as it is written saves a call.
local old = redis.pcall('SET', counter, last, 'PX', '172800000', 'GET')
-- The usual case alone: of the same length, texts are in the order of their numbers.
local drawn = old and #old == #last and old < last and not string.find(old, '%D')
if not drawn and type(old) == 'string' then redis.call('SET', counter, old, 'KEEPTTL') end
