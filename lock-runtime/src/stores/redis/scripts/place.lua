-- Reads a member of the queue,
-- `owner/tokens/prefix/name/channel/grace_ms/width/digits/mode`: the owner token, which may contain
-- slashes, and its place. Of fixed length are tokens (10), prefix and name (4 each: how much of the
-- lock's name is the prefix, and how long it is), which the client reads, width (4) and digits (2),
-- the lengths of channel and grace, and the mode (1): `x` is exclusive; `c` goes together with
-- others, and what it wants (company.lua) stands behind its owner token: `owner/want/tokens/…`.
-- Before: member. After: next_waiter: the owner token, channel, grace_ms; channel is nil if it is
-- none.
local width, digits = tonumber(string.sub(member, -9, -6)), tonumber(string.sub(member, -4, -3))
local next_waiter, channel, grace_ms
if width and digits then
  local grace_at = -10 - digits
  local channel_at = grace_at - 1 - width
  grace_ms = string.sub(member, grace_at, -11)
  channel = string.sub(member, channel_at, grace_at - 2)
  next_waiter = string.sub(member, 1, channel_at - 23)
end
