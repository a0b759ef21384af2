-- Moves a claim that is to be told by another channel than before: it keeps its ticket.
-- Before: the prelude; member, where it stands from now on; earlier, where it may stand yet.
local ticket = earlier and read('queue', 'ZSCORE', queue, earlier)
if refusal then return refusal end

if ticket then
  -- This first, since after it the ZADD passes even when the memory is full. If nobody else is
  -- queued, the time to live of the queue is gone; whatever follows gives it one or pops the claim.
  redis.call('ZREM', queue, earlier)
  redis.call('ZADD', queue, 'LT', ticket, member)
end
