-- What gap.lua leaves free is nobody's of ours until the gap is over.
-- Before: the prelude; member, queue_ms.
local gap = queue .. ':gap:counter'
local over_at = redis.call('GET', gap)
local left_ms = over_at and redis.call('PTTL', gap) - over_at or 0
if left_ms > 0 then return answer(stand_back(member, queue_ms, integer(left_ms), 0)) end
