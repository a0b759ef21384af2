-- What the scripts share; it stands in each of them where they say `-- prelude`.
-- KEYS: [1] lock: the owner token   [2] queue: the waiters   [3] fence: the last fencing token
-- ARGV: [1] call: the number of this call
-- Every reply but an error is a line of words, the first of them `call`: by this the client knows it for the answer.
-- A waiter is a member `channel/grace_ms/tokens/owner` of the queue; its `way` is the first two, '' if it does not wait.
-- To make these functions takes a third of the time of a script, so the usual question is answered ahead of them.

-- Enough to outlive every lease, so that the counter is there when the next grant comes; TIME covers what is later.
local FENCE_MS = '172800000'
-- Below 2^53 by more than any block, so that sums stay exact.
local LARGEST_TOKEN = 9000000000000000
-- For a queue whose time to live was lost. Waiters that ask less often queue again when they ask.
local QUEUE_MS = '60000'
-- No script may take longer the more dead waiters there are.
local DEAD_AT_ONCE = 16

-- Scripts do not roll back. So from here on everything is read before anything is written, and the first read that fails is kept here
-- for the script to return.
local refusal

local function refuse(name)
  refusal = refusal or redis.error_reply('BADKEY ' .. name)
end

local function read(name, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then refuse(name) else refusal = refusal or reply end
    return nil
  end
  return reply
end

local function answer(...)
  return refusal or table.concat({call, ...}, ' ')
end

local function integer(number)
  return string.format('%.0f', number)
end

-- The member of the queue that a claim is, '' if it does not wait.
local function member_of(owner, tokens, way)
  return way == '' and way or way .. '/' .. tokens .. '/' .. owner
end

-- Tells that a claim is withdrawn. In the slot of KEYS[2], whose name it begins with; given as a
-- key it would lengthen every call.
local function gone_of(owner)
  return queue .. ':gone:' .. owner
end

-- The last fencing token and the time; `block` needs both.
local last_token, now = 0, 0

local function read_fence()
  local text = read('fence', 'GET', fence)
  local time = read('fence', 'TIME')
  if refusal then return end
  if text then
    last_token = string.find(text, '^%d+$') and #text <= 16 and tonumber(text) or -1
    if last_token < 0 or last_token > LARGEST_TOKEN then refuse('fence') end
  end
  now = time[1] * 1000000 + time[2]
end

-- The next block of fencing tokens: larger than all before, and not below the time, which saves the order when the counter is lost.
-- Where the counter runs ahead of the time the block is one token, lest it outrun what has to save it.
-- Returns: last, count
local function block(tokens)
  local first, count = last_token + 1, tonumber(tokens)
  if first <= now then first = now else count = 1 end
  return integer(first + count - 1), count
end

-- Returns: 'granted', last, count
local function make_owner(owner, ttl_ms, last, count)
  redis.call('SET', lock, owner, 'PX', ttl_ms)
  redis.call('SET', fence, last, 'PX', FENCE_MS)
  return 'granted', last, count
end

-- Makes the first of the queue the owner for its grace; if its process is gone, which the count of receivers tells, the second one, and so
-- on as far as `own`, the place of the asker. Needs `read_fence`.
-- Returns: 'handed', grace_ms | 'free': nobody else waits | 'again': there were too many dead for one call
local function hand_over(own)
  for _ = 1, DEAD_AT_ONCE do
    -- The pop comes first: after it, the SET passes even when the memory is full. So it does where there is nothing to pop.
    local popped = read('queue', 'ZPOPMIN', queue)
    if refusal then return end
    local member = popped[1]
    if not member or member == own then return 'free' end
    local channel, grace_ms, tokens, owner = string.match(member, '^([^/]*)/(%d+)/(%d+)/(.+)$')
    if channel then
      local last, count = block(tokens)
      local message = table.concat({last, count, grace_ms, #owner, owner .. lock}, '/')
      local heard = redis.pcall('PUBLISH', channel, message)
      if type(heard) == 'table' then
        -- Refused, renamed: whoever was popped gets the place back.
        redis.pcall('ZADD', queue, popped[2], member)
        if redis.call('PTTL', queue) < 0 then redis.pcall('PEXPIRE', queue, QUEUE_MS) end
        refusal = heard
        return
      end
      if heard > 0 then
        make_owner(owner, grace_ms, last, count)
        return 'handed', grace_ms
      end
    end
  end
  return 'again'
end

-- Tells the first waiter when to look whether the owner is alive: one that died as it was handed the lock tells nobody. For a caller that is
-- not in the queue itself, or leaves it, and so does not look.
local function announce(remaining_ms)
  local members = read('queue', 'ZRANGE', queue, '0', '0')
  local channel, owner = string.match(members and members[1] or '', '^([^/]*)/%d+/%d+/(.+)$')
  if channel then redis.call('PUBLISH', channel, table.concat({'next', integer(remaining_ms), owner}, '/')) end
end

-- Answers a claim that cannot have the lock: queues it, if it waits (`member` is not empty) and is not queued yet.
-- Returns: 'queued' | 'taken', remaining_ms: -1 if the lease never ends, foreign
local function stand_back(member, queue_ms, remaining_ms, foreign)
  if member == '' then return 'taken', remaining_ms, foreign end
  local newest = read('queue', 'ZRANGE', queue, '-1', '-1', 'WITHSCORES')
  if refusal then return end
  -- Not the time: a clock set back would let newcomers pass.
  redis.call('ZADD', queue, 'NX', (newest[2] or 0) + 1, member)
  local wanted = math.max(remaining_ms, 0) + queue_ms
  if redis.call('PTTL', queue) < wanted then redis.call('PEXPIRE', queue, integer(wanted)) end
  return 'queued', remaining_ms, foreign
end
