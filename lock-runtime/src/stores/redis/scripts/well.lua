-- well.lua: try whether a lock could be granted. It has no effect: the counter is that of no lock,
-- and is not there.
-- KEYS: [1] the counter
-- ARGV: [1] call
-- Returns: well | the error by which a grant would be refused
redis.call('TIME')
redis.call('SET', KEYS[1], '0', 'PX', '1', 'XX')
return ARGV[1] .. ' well'
