-- release.lua: end the lease of this owner, and hand the lock over to the first waiter. Whoever has
-- a next claim calls hand_over.lua.
-- ARGV: [1] call, [2] owner
-- Returns: released | lost: not held | again | error BADKEY
local redis, lock, queue, counter = redis, KEYS[1], KEYS[2], KEYS[3]
local call, owner = ARGV[1], ARGV[2]

-- For how long the first waiter was made the owner, if that is done.
local given_ms
if redis.pcall('GET', lock) == owner then
  -- The pop comes first: after it, all else passes even when the memory is full.
  local popped = redis.pcall('ZPOPMIN', queue)
  local member = popped[1]
  if not member and not popped.err then
    redis.call('DEL', lock)
    return call .. ' released'
  end
  if member then
    -- What goes together with others is served below.
    if string.sub(member, -1) ~= 'c' then
      -- draw
      if drawn then
        -- offer
        if heard ~= 0 and type(heard) == 'number' then
          redis.call('SET', lock, next_waiter, 'PX', grace_ms)
          if redis.call('EXISTS', queue) == 0 then return call .. ' released' end
          given_ms = grace_ms
        end
      end
    end
    -- Dead, or not to be told: it is begun anew, and told below what is wrong.
    if not given_ms then redis.call('ZADD', queue, popped[2], member) end
  end
end

-- prelude

if given_ms then
  announce(given_ms)
  return answer('released')
end

local holder = read('lock', 'GET', lock)
if refusal then return refusal end

local outcome, grace_ms = hand_on(holder)
if refusal then return refusal end
if outcome == 'lost' or outcome == 'again' then return answer(outcome) end
if outcome == 'handed' then
  announce(grace_ms)
else
  redis.call('DEL', lock)
end
return answer('released')
