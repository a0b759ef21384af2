-- many.lua: run a script for many calls, one after the other: what it does for one of them stands
-- where the line `-- one` is. What fails for one fails for that alone. What is quicker for all at
-- once stands where the line `-- ahead` is: it gives the first calls, or none, their replies.
-- KEYS: those of the calls, one call after the other
-- ARGV: [1] call: the number of all, [2] shared: how many arguments all calls have in common,
--       these, and the owner of each call
-- Returns: call, and what the script returns for each, an error included
local redis, KEYS, ARGV = redis, KEYS, ARGV
-- The time, and its first ten digits: all draw from their counters at the same one, so that it is
-- read once.
local instant, second

local function one(KEYS, ARGV)
-- one
end

local call, shared = ARGV[1], tonumber(ARGV[2])
local count = #ARGV - 2 - shared
local each = #KEYS / count
local replies, again = {call}, call .. ' again'
-- ahead
local its_keys, its_arguments = {}, {call}
for at = 3, 2 + shared do its_arguments[at] = ARGV[at] end
for index = #replies, count do
  local at = (index - 1) * each
  -- No script has more.
  its_keys[1], its_keys[2], its_keys[3] = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3]
  its_arguments[2] = ARGV[2 + shared + index]
  local is_done, reply = pcall(one, its_keys, its_arguments)
  -- Servers before 7.0 tell an error by its text.
  if not is_done and type(reply) ~= 'table' then reply = {err = 'ERR ' .. reply} end
  replies[index + 1] = reply
  if reply == again then
    -- It has used up the time of all.
    for rest = index + 2, count + 1 do replies[rest] = again end
    break
  end
end
return replies
