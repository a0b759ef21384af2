-- Tells a waiter that it is the owner, by `mode/old/last/lock, member`: any mode is granted as
-- exclusive.
-- Before: member, old, last. After: what `place` gives; heard: how many were told, or an error.
-- place
local heard = channel
  and redis.pcall('PUBLISH', channel, 'x/' .. old .. '/' .. last .. '/' .. lock .. member)
  or 0
