-- Takes a lock that is free.
-- Before: lock, owner, ttl_ms; what `draw` needs. After: what `draw` gives; is_taken: not if
-- `drawn` is not, the server refuses, or an earlier call of the same command took it.
-- draw
local is_taken = drawn and redis.pcall('SET', lock, owner, 'PX', ttl_ms, 'NX')
is_taken = is_taken and is_taken.ok
