-- What the scripts share; it stands in each of them where they say `-- prelude`, as other files
-- stand where a line names them.
-- KEYS: [1] lock: the owner token   [2] queue: the waiters, as `place` reads them, by ticket
--       [3] counter: what fencing tokens and tickets are drawn from; of which locks, the scripts need not know
-- ARGV: [1] call: the number of this call
-- Every reply but an error is a line of words, the first of them `call`: by this the client knows
-- it for the answer. To make these functions takes a third of the time of a script, so the usual
-- question is answered ahead of them.

-- For a queue whose time to live was lost. Waiters that ask less often queue again when they ask.
local QUEUE_MS = '60000'
-- No script may take longer the more dead waiters there are.
local DEAD_AT_ONCE = 16

-- Scripts do not roll back. So from here on everything is read before anything is written that
-- could not stay, and the first read that fails is kept here for the script to return.
local refusal

local function refuse(name)
  refusal = refusal or redis.error_reply('BADKEY ' .. name)
end

local function check(name, reply)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then refuse(name) else refusal = refusal or reply end
    return nil
  end
  return reply
end

local function read(name, ...)
  return check(name, redis.pcall(...))
end

local function answer(...)
  return refusal or table.concat({call, ...}, ' ')
end

local function integer(number)
  return string.format('%.0f', number)
end

-- The member of the queue that a claim is, '' if it does not wait.
local function member_of(owner, place)
  return place == '' and place or owner .. place
end

-- Tells that a claim is withdrawn. In the slot of KEYS[2], whose name it begins with; given as a
-- key it would lengthen every call.
local function gone_of(owner)
  return queue .. ':gone:' .. owner
end

-- Draws from the counter, whatever it is.
-- Returns: last, old: the fencing tokens are above `old` and up to `last`
local function draw()
  -- draw
  if drawn then return last, old end
  if old then
    if not check('counter', old) then return end
    if #old >= #last or not string.find(old, '^%d+$') then
      refuse('counter')
      return
    end
    redis.call('SET', counter, last, 'PX', counter_ms)
  end
  -- One token: the counter was lost, and those below may have been given before. A number of fewer
  -- digits is what INCRBY made of one that was lost.
  return last, integer(last - 1)
end

-- Returns: 'granted', last, old | nothing, if it is refused
local function make_owner(owner, ttl_ms)
  local last, old = draw()
  if refusal then return end
  redis.call('SET', lock, owner, 'PX', ttl_ms)
  return 'granted', last, old
end

-- Gives whoever was popped the place back.
local function put_back(popped)
  redis.pcall('ZADD', queue, popped[2], popped[1])
  if redis.call('PTTL', queue) < 0 then redis.pcall('PEXPIRE', queue, QUEUE_MS) end
end

-- What tells a waiter when to look. What goes together with others has what it wants behind its
-- owner token.
local function next_word(remaining_ms, member, next_waiter)
  local owner = string.sub(member, -1) == 'c' and string.match(next_waiter, '^(.*)/') or next_waiter
  return table.concat({'next', integer(remaining_ms), owner}, '/')
end

-- Whether the first waiter knows when to look.
local is_told = false

-- Serves the queue of a lock that nobody has, where a claim stands first that goes together with
-- others; or, if it is `marked`, of one that leases have which go together. Who is not the asker,
-- whose place is `own`, goes on with its release, if that was made.
-- Returns: as `hand_over` | 'lost': there was no such release
local function serve_company(own, marked)
  -- company
  if marked then
    if not own and not has_left(owner) then return 'lost' end
    look()
    if refusal then return end
  end
  is_told = true
  if kind == 'x' then return 'handed', redis.call('PTTL', lock) end
  local outcome, grace_ms, served = serve(own)
  if refusal then return end
  if outcome == 'handed' then
    is_told = false
    return 'handed', grace_ms
  end
  if not kind then
    if outcome == 'again' then return 'again' end
    if marked then redis.call('DEL', holders) end
    if own then redis.call('ZREM', queue, own) end
    return 'free'
  end
  if outcome == 'again' then
    local is_done = tell_next(own)
    if refusal then return end
    if not is_done then return own and 'again' or leave_open(owner) end
  elseif outcome == 'waits' and served > 0 then
    announce_rest()
  end
  return 'handed', redis.call('PTTL', lock)
end

-- Makes the first of the queue the owner for its grace; if its process is gone, which the count of
-- receivers tells, the second one, and so on as far as `own`, the place of the asker.
-- Returns: 'handed', grace_ms | 'free': nobody else waits | 'again': there were too many dead for
-- one call
local function hand_over(own)
  local last, old
  for _ = 1, DEAD_AT_ONCE do
    -- The pop comes first: after it, the SETs pass even when the memory is full. So they do where
    -- there is nothing to pop.
    local popped = read('queue', 'ZPOPMIN', queue)
    if refusal then return end
    local member = popped[1]
    if not member or member == own then return 'free' end
    if string.sub(member, -1) == 'c' then
      put_back(popped)
      return serve_company(own)
    end
    if not last then
      last, old = draw()
      if refusal then return put_back(popped) end
    end
    -- offer
    if type(heard) == 'table' then
      -- PUBLISH is refused, or renamed.
      refusal = heard
      return put_back(popped)
    end
    if heard > 0 then
      redis.call('SET', lock, next_waiter, 'PX', grace_ms)
      return 'handed', grace_ms
    end
  end
  return 'again'
end

-- Ends the lease of the owner and hands the lock over, or goes on with that.
-- Returns: as `hand_over` | 'lost': another has it
local function hand_on(holder)
  if holder == owner then return hand_over() end
  return serve_company(nil, true)
end

-- Tells the first waiter when to look whether the owner is alive: one that died as it was handed
-- the lock tells nobody. For a caller that is not in the queue itself, or leaves it, and so does
-- not look.
local function announce(remaining_ms)
  if is_told then return end
  local members = read('queue', 'ZRANGE', queue, '0', '0')
  local member = members and members[1] or ''
  -- place
  if not channel then return end
  redis.call('PUBLISH', channel, next_word(remaining_ms, member, next_waiter))
end

-- Answers a claim that cannot have the lock: queues it with a ticket, if it waits (`member` is not
-- empty) and is not queued yet. Returns: 'queued' | 'taken', remaining_ms: -1 if the lease never
-- ends, foreign, process: of the holder, nil if it is not known
local function stand_back(member, queue_ms, remaining_ms, foreign, process)
  if member == '' then return 'taken', remaining_ms, foreign, process end
  -- Whether there is one, and of what kind.
  local ticket = read('queue', 'ZSCORE', queue, member) or not refusal and draw()
  if refusal then return end
  redis.call('ZADD', queue, 'NX', ticket, member)
  -- outlive
  return 'queued', remaining_ms, foreign, process
end
