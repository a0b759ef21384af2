-- What leases of one lock that go together need; the functions are made where there are some. The
-- lock is then a marker, `kind:phase/lr-0000000000000000-0-0`, which ends like the owner tokens of
-- ours and is that of no claim: kind is s (shared), p (permits) or h (shards), phase the fencing
-- token of all who share. Its time to live is that of the lease that ends last. A set in the slot
-- of KEYS[2] has each lease with the time of its end in milliseconds, as `owner` (shared),
-- `i/owner` for each of the permits it takes (i from 0), or `shard/owner`. What has ended counts no
-- more, whether it is still there or not; and without its marker the set counts for nothing. What a
-- claim wants is told by a text without slashes, its want: `s`, `p:take:of`, or
-- `h:of:prefer:except`, the last in 16 hexadecimal digits.
-- Before: the prelude.
local MARK = '/lr-0000000000000000-0-0'
-- What stands in place of a withdrawal where an owner has ended its lease and its call is made
-- again, and for how long.
local LEFT, LEFT_MS = 'left', '30000'
local holders = string.sub(queue, 1, -9) .. ':holders'
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- nil where nobody has the lock; x where it is an owner's alone.
local kind, phase

local function entries(...)
  return read('holders', 'ZRANGE', holders, ...)
end

-- When the lease ends that ends last, or first; nil if there is none.
local function last_end()
  local found = entries('0', '0', 'REV', 'WITHSCORES')
  local ends = found and tonumber(found[2])
  return ends and ends > now_ms and ends or nil
end

local function first_end()
  local found = entries('(' .. integer(now_ms), '+inf', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')
  return found and tonumber(found[2])
end

-- Reads who has the lock.
-- Returns: the value of the lock
local function look()
  local holder = read('lock', 'GET', lock)
  if refusal or not holder then return holder end
  if string.sub(holder, -#MARK) ~= MARK then
    kind = 'x'
    return holder
  end
  kind, phase = string.match(holder, '^(%a):(%d+)/')
  if not last_end() then kind = nil end
  return holder
end

-- The members of the set that a lease is.
local function members(owner, want, at)
  local which = string.sub(want, 1, 1)
  if which == 's' then return {owner} end
  if which == 'h' then return {at .. '/' .. owner} end
  local all = {}
  for index = 1, tonumber(string.match(want, '^p:(%d+)')) do all[index] = index - 1 .. '/' .. owner end
  return all
end

-- The shards that are taken, each with who has it.
local function taken()
  local owners = {}
  for _, member in ipairs(entries('(' .. integer(now_ms), '+inf', 'BYSCORE') or {}) do
    local shard, owner = string.match(member, '^(%d+)/(.*)$')
    if shard then owners[tonumber(shard)] = owner end
  end
  return owners
end

-- Which shard there is for a claim, 0 if it wants none; nil if there is nothing for it.
local function place_for(want)
  local which = string.sub(want, 1, 1)
  if kind and kind ~= which then return nil end
  if which == 's' then return 0 end
  if which == 'p' then
    local take, of = string.match(want, '^p:(%d+):(%d+)$')
    -- So many may be there beside it. Those that have ended come last.
    local beside = of - take
    if beside < 0 then return nil end
    if not kind then return 0 end
    beside = integer(beside)
    local found = entries(beside, beside, 'REV', 'WITHSCORES')
    local ends = found and tonumber(found[2])
    if ends and ends > now_ms then return nil end
    return 0
  end
  local of, prefer, except = string.match(want, '^h:(%d+):(%d+):(%x+)$')
  local owners = kind and taken() or {}
  local function is_free(shard)
    local digit = tonumber(string.sub(except, -1 - math.floor(shard / 4), -1 - math.floor(shard / 4)), 16)
    return not owners[shard] and math.floor(digit / 2 ^ (shard % 4)) % 2 == 0
  end
  prefer, of = tonumber(prefer), tonumber(of)
  if prefer < of and is_free(prefer) then return prefer end
  for shard = 0, of - 1 do
    if is_free(shard) then return shard end
  end
  return nil
end

-- What the new owner of a lease gets: all who share have the same.
-- Returns: last, old, as of `draw`
local function tokens_for(want)
  if want == 's' and kind == 's' then return phase, integer(phase - 1) end
  local last, old = draw()
  if not refusal and want == 's' then old = integer(last - 1) end
  return last, old
end

local function outlive_all(ttl_ms)
  if redis.call('PTTL', lock) < tonumber(ttl_ms) then
    redis.call('PEXPIRE', lock, ttl_ms)
    redis.call('PEXPIRE', holders, ttl_ms)
  end
end

-- Adds a lease.
local function admit(owner, want, at, ttl_ms, last)
  local own = members(owner, want, at)
  if kind then
    -- Two leave for each that comes.
    local dead = entries('0', integer(2 * #own - 1), 'WITHSCORES')
    for index = 1, #dead, 2 do
      if tonumber(dead[index + 1]) <= now_ms then redis.call('ZREM', holders, dead[index]) end
    end
  else
    -- What is there has no marker.
    redis.call('DEL', holders)
  end
  for _, member in ipairs(own) do redis.call('ZADD', holders, integer(now_ms + ttl_ms), member) end
  if kind then
    outlive_all(ttl_ms)
    return
  end
  kind = string.sub(want, 1, 1)
  phase = kind == 's' and last or '0'
  redis.call('SET', lock, kind .. ':' .. phase .. MARK, 'PX', ttl_ms)
  redis.call('PEXPIRE', holders, ttl_ms)
end

-- When a claim should look, if nobody tells it before: one lease less may be enough for it.
local function rest_for(want)
  local one_is_enough = kind ~= 's' and kind == string.sub(want, 1, 1)
  local ends = one_is_enough and first_end()
  return ends and ends - now_ms or math.max(redis.call('PTTL', lock), 0)
end

-- What a member of the queue wants: x if that is the lock alone; and whose it is.
local function want_of(member, next_waiter)
  if string.sub(member, -1) ~= 'c' then return 'x', next_waiter end
  local owner, want = string.match(next_waiter or '', '^(.*)/([^/]+)$')
  return want or 'x', owner
end

-- Tells the first waiter when to look.
local function announce_rest()
  local found = read('queue', 'ZRANGE', queue, '0', '0')
  local member = found and found[1] or ''
  -- place
  if not channel then return end
  local rest_ms = rest_for((want_of(member, next_waiter)))
  redis.call('PUBLISH', channel, next_word(rest_ms, member, next_waiter))
end

-- Serves those who have waited longest, as long as there is something for them: nobody passes the
-- first, and whose process is gone is passed over.
-- Returns: 'mine': the asker, whose place is `own`, is the first, or nobody waits | 'waits': there
-- is nothing for the first
--          | 'handed', ms: the first has the lock, alone, for so long | 'again': there were too many for one call;
--          and as the last, how many were served
local function serve(own)
  local served = 0
  for _ = 1, DEAD_AT_ONCE do
    local head = read('queue', 'ZRANGE', queue, '0', '0', 'WITHSCORES')
    if refusal then return end
    local member, ticket = head[1], head[2]
    if not member or member == own then return 'mine', nil, served end
    -- place
    local want, owner = want_of(member, next_waiter)
    local at
    if want ~= 'x' then
      at = place_for(want)
    elseif not kind then
      at = 0
    end
    if refusal then return end
    local is_alive = channel ~= nil
    if is_alive and not at then
      -- It is told when to look, and whether anybody hears it shows whether it is there.
      local word = next_word(rest_for(want), member, next_waiter)
      if redis.pcall('PUBLISH', channel, word) ~= 0 then return 'waits', nil, served end
      is_alive = false
    end
    local last, old
    if is_alive then last, old = tokens_for(want) end
    if refusal then return end
    -- The first write, which a full memory does not refuse; nor does it what follows.
    redis.call('ZREM', queue, member)
    local heard = 0
    if is_alive then
      local word = want == 'x' and {'x', old, last, lock .. member} or {'c', old, last, at, lock .. member}
      heard = redis.pcall('PUBLISH', channel, table.concat(word, '/'))
    end
    if type(heard) == 'table' then
      -- PUBLISH is refused, or renamed.
      refusal = heard
      return put_back({member, ticket})
    end
    if heard > 0 then
      served = served + 1
      if want == 'x' then
        redis.call('SET', lock, owner, 'PX', grace_ms)
        redis.call('DEL', holders)
        kind = 'x'
        return 'handed', grace_ms, served
      end
      admit(owner, want, at, grace_ms, last)
    end
  end
  return 'again', nil, served
end

-- Tells the first of those who are left to look at once. Whose process is gone is passed over.
-- `own` is the place of the asker, which looks anyway.
-- Returns: whether nobody is left who has to be told; if not, too many were dead for one call
local function tell_next(own)
  for _ = 1, DEAD_AT_ONCE do
    local found = read('queue', 'ZRANGE', queue, '0', '0')
    if refusal then return end
    local member = found[1]
    if not member or member == own then return true end
    -- place
    local heard = channel and redis.pcall('PUBLISH', channel, next_word(0, member, next_waiter)) or 0
    if type(heard) == 'table' then
      refusal = heard
      return
    end
    if heard > 0 then return true end
    redis.call('ZREM', queue, member)
  end
  return false
end

-- Remembers that this owner has ended its lease: the call that did it is made again, since too many
-- were dead for one.
-- Returns: again
local function leave_open(owner)
  redis.call('SET', gone_of(owner), LEFT, 'PX', LEFT_MS)
  return 'again'
end

local function has_left(owner)
  return redis.call('GET', gone_of(owner)) == LEFT
end

-- The lock is taken for as long as the lease that ends last, and no longer.
local function end_with(ends)
  redis.call('PEXPIRE', lock, integer(ends - now_ms))
  redis.call('PEXPIRE', holders, integer(ends - now_ms))
end

-- Serves those who wait after a lease of this owner has ended, or its claim has left the queue, and
-- tells who is first then when to look.
-- Returns: served | none: nobody was served | again
local function serve_after(owner)
  -- Another has it by now, and looks after those who wait.
  if kind == 'x' then return 'none' end
  local last = last_end()
  if not last then kind = nil end
  local outcome, _, served = serve()
  if refusal then return end
  if not kind then
    redis.call('DEL', lock, holders)
  elseif kind ~= 'x' then
    end_with(served == 0 and last or last_end())
  end
  if outcome == 'again' then
    local is_done = tell_next()
    if refusal then return end
    return is_done and 'served' or leave_open(owner)
  end
  if served == 0 then return 'none' end
  announce_rest()
  return 'served'
end
