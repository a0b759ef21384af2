-- Moves a claim that is to be told by another channel than before: it keeps its ticket.
-- Before: the prelude; member, where it stands from now on; earlier, where it may stand yet.
local ticket = earlier and read('queue', 'ZSCORE', queue, earlier)
if refusal then return refusal end

if ticket then
  -- This first, since after it the ZADD passes even when the memory is full. If nobody else is
  -- queued, the time to live of the queue is gone, and the claim may not come to the end of its
  -- question, which sets it.
  redis.call('ZREM', queue, earlier)
  redis.call('ZADD', queue, 'LT', ticket, member)
  if redis.call('PTTL', queue) < 0 then redis.call('PEXPIRE', queue, QUEUE_MS) end
end
