#!lua flags=allow-oom
-- fire: decide what is due, oldest first, a bounded batch. One worker at a time holds timer leadership; the others
-- are told to come back, so idle workers cost next to nothing.
-- KEYS  1 the partition's prefix
-- ARGV  1 worker  2 how long it holds timer leadership, ms  3 largest batch
-- Returns {timers fired, executions forgotten, ms until the next timer or -1, errands that are due and when: left to
-- the caller, as they concern other partitions or need more than Lua}, or {-1} when another holds timer leadership.
-- #include termination
-- #include event
-- #include forgetting
local P, limit = KEYS[1], tonumber(ARGV[3])
local holder = redis.call('GET', P .. 'timer_leader')
if holder and holder ~= ARGV[1] then return {-1} end
redis.call('SET', P .. 'timer_leader', ARGV[1], 'PX', ARGV[2])

local budget = limit -- of children to cancel
local due = redis.call('ZRANGEBYSCORE', P .. 'timers', '-inf', now, 'LIMIT', 0, limit)
for _, member in ipairs(due) do
  local kind, rest = string.sub(member, 1, 1), string.sub(member, 2)
  if kind == 'p' then
    redis.call('ZREM', P .. 'timers', member)
    local e = redis.call('HMGET', P .. 'exec:' .. rest, 'status', 'entry', 'workflow', 'run', 'queue', 'relations')
    if e[1] == 'queued' and not e[2] then offer(P, rest, e[3], e[4], e[5], read_relations(e[6])) end
  elseif kind == 'c' then
    if budget > 0 then budget = budget - cancel_children(P, rest, budget) end
  elseif kind == 't' then
    redis.call('ZREM', P .. 'timers', member)
    local e = redis.call('HMGET', P .. 'exec:' .. rest, unpack(ENDING_FIELDS))
    if e[1] == 'queued' or e[1] == 'waiting' then
      local text = 'it did not finish within its ' .. read_relations(e[12]).timeout / 1000 .. ' seconds'
      terminate(P, rest, e, 'failed', 'error', cmsgpack.pack({'WorkflowTimeoutError', text, ''}),
        finish_event(P, rest, 'failed', 'error', 'WorkflowTimeoutError: ' .. text))
    end
  else
    local id, key = string.match(rest, '^(%S+) (.*)$')
    local packed = id and redis.call('HGET', P .. 'journal:' .. id, key)
    local record = packed and read_record(packed) or {}
    if kind == 's' and record[STATUS] == 'open' then
      wake(P, id, key, resolve(P, id, key, record, 'expired', now))
    elseif kind == 'b' and record[STATUS] == 'backoff' then
      wake(P, id, key, resolve(P, id, key, record, 'retry', now))
    elseif kind == 'w' and record[STATUS] == 'open' then
      wake(P, id, key, resolve(P, id, key, record, record[6] == '' and 'over' or 'expired', now))
    else
      redis.call('ZREM', P .. 'timers', member)
    end
  end
end

local gone = redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', now, 'LIMIT', 0, limit)
for _, id in ipairs(gone) do
  -- one whose descendants have still to be ended is kept until then
  if not redis.call('ZSCORE', P .. 'timers', 'c' .. id) then forget(P, id) end
end

local errands = redis.call('ZRANGEBYSCORE', P .. 'errands', '-inf', now_us / 1000, 'WITHSCORES', 'LIMIT', 0, limit)
local next_due = redis.call('ZRANGE', P .. 'timers', 0, 0, 'WITHSCORES')
return {#due, #gone, next_due[2] and math.max(0, tonumber(next_due[2]) - now) or -1, errands}
