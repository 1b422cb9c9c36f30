#!lua flags=allow-oom
-- fire_timers: decide what is due, oldest first, in a bounded batch. One worker at a time is the timer leader; the
-- others get a reply to come back later, so idle workers cost next to nothing.
-- KEYS  1 the partition's prefix
-- ARGV  1 worker  2 how long it is the timer leader, ms  3 largest batch  4 due errands that the worker runs already
-- Returns {timers fired, executions forgotten, ms until the next timer or -1, flat list of errands that are due and
-- their times: the caller runs these, as they concern other partitions or need more than Lua, flat list of executions
-- that have failed, their workflows and errors}, or {-1} when another worker is the timer leader.
-- #include cancelling
-- #include event
-- #include deletion
-- #include reserved
local P, worker, hold, batch, running = KEYS[1], unpack(ARGV)
local SWEPT <const> = 10 -- workflows in one pass
local SWEEP_MS <const> = 1000
local limit, failed = tonumber(batch), {}
local holder = redis.call('GET', P .. 'timer_leader')
if holder and holder ~= worker then return {-1} end
redis.call('SET', P .. 'timer_leader', worker, 'PX', hold)

-- time_out: its run has reached its deadline.
local function time_out(id)
  local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
  if not is_live(e[EXEC_STATUS]) then return end
  local text = 'it did not finish within its ' .. read_relations(e[EXEC_RELATIONS]).timeout / 1000 .. ' seconds'
  local shown = 'WorkflowTimeoutError: ' .. text
  terminate(P, id, e, 'failed', 'error', cmsgpack.pack({1, 'WorkflowTimeoutError', text, ''}),
    finish_event(P, id, 'failed', 'error', shown))
  for _, fact in ipairs({id, e[EXEC_WORKFLOW], shown}) do failed[#failed + 1] = fact end
end

-- decide_due: the timer of a wait: 's' of a suspension, 'b' of a step's retry, 'w' of a wait for a time or an event.
local function decide_due(kind, member, row)
  local id, key = string.match(row, '^(%S+) (.*)$')
  local record = id and record_of(P, id, key) or {}
  local status = record[STATUS]
  if kind == 's' and status == 'open' then
    wake(P, id, key, record, 'expired')
  elseif kind == 'b' and status == 'backoff' then
    wake(P, id, key, record, 'retry')
  elseif kind == 'w' and status == 'open' then
    wake(P, id, key, record, record[WAIT_TOPIC] == '' and 'over' or 'expired')
  else
    redis.call('ZREM', P .. 'timers', member)
  end
end

local budget = limit -- of children to cancel
local due = redis.call('ZRANGEBYSCORE', P .. 'timers', '-inf', now, 'LIMIT', 0, limit)
for _, member in ipairs(due) do
  local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
  if kind == 'p' then
    make_runnable(P, id)
    redis.call('ZREM', P .. 'timers', member)
  elseif kind == 'c' then
    if budget > 0 then budget = budget - cancel_children(P, id, budget) end
  elseif kind == 't' then
    time_out(id)
    redis.call('ZREM', P .. 'timers', member)
  else
    decide_due(kind, member, id)
  end
end

-- sweep: forget executions of a workflow whose retention is over. Returns how many were looked at. Executions that end
-- later may be due before those that are there now, so it comes again after a second.
local function sweep(name, most)
  local ended, gone = index_of(P, 'ended', name), {}
  local over = redis.call('ZRANGEBYSCORE', ended, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(over) do
    -- an execution is kept until its descendants have been ended
    if not redis.call('ZSCORE', P .. 'timers', 'c' .. id) and not forget(P, id, name) then gone[#gone + 1] = id end
  end
  if #gone > 0 then unlist_gone(P, gone, name) end
  local _, due = unpack(redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES'))
  redis.call('ZADD', P .. 'workflows', 'XX', math.min(now + SWEEP_MS, tonumber(due or math.huge)), name)
  return #over
end

local swept = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workflows', '-inf', now, 'LIMIT', 0, SWEPT)) do
  if swept < limit then swept = swept + sweep(name, limit - swept) end
end

local errands = redis.call('ZRANGEBYSCORE', P .. 'errands', '-inf', now_us / 1000, 'WITHSCORES', 'LIMIT', 0,
  limit + tonumber(running))
local _, next_due = unpack(redis.call('ZRANGE', P .. 'timers', 0, 0, 'WITHSCORES'))
return {#due, swept, next_due and math.max(0, tonumber(next_due) - now) or -1, errands, failed}
