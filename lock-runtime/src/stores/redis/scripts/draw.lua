-- Draws from the counter: raises it to the time, or by one where it is not behind that. Fencing
-- tokens are what lies between, a ticket is what it is then.
-- Before: counter; instant, second: nil, or the time as the first draw of many.lua read it.
-- After: these two; drawn; last: what the counter is, old: what it was, as texts; counter_ms. If
-- not `drawn`, the counter has been absent and is now the time, or is as it was; `draw` of the
-- prelude goes on then.
if not instant then
  local time = redis.call('TIME')
  second = time[1]
  instant = second .. (#time[2] == 6 and time[2] or string.format('%06d', time[2]))
end
local last = instant
-- To read it as it is written saves a call.
local old = redis.pcall('SET', counter, last, 'KEEPTTL', 'GET')
-- The usual case alone: of the same length, texts are in the order of their numbers. Sums of what
-- is no larger than this stay exact.
local drawn = old and #old == #last and old <= '9000000000000000' and not string.find(old, '%D')
if drawn and old >= last then
  -- One token: the counter must not outrun what has to save it.
  last = string.format('%.0f', old + 1)
  redis.call('SET', counter, last, 'KEEPTTL')
end
-- Two days outlive every lease, so that the counter is there when the next grant comes; TIME covers
-- what is later. The first draw of a second sees to it, and each that finds the counter ahead of
-- the time. What is shorter and begins alike comes first.
local counter_ms = '172800000'
if not old or drawn and (old < second or old > instant) then
  redis.call('PEXPIRE', counter, counter_ms)
elseif not drawn and type(old) == 'string' then
  redis.call('SET', counter, old, 'KEEPTTL')
end
