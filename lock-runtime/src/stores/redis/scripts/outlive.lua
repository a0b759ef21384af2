-- Makes the queue outlive the present lease by as much as the waiter wants.
-- Before: remaining_ms, queue_ms.
local wanted = math.max(remaining_ms, 0) + queue_ms
if redis.call('PTTL', queue) < wanted then
  redis.call('PEXPIRE', queue, string.format('%.0f', wanted))
end
