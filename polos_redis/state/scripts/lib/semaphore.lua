-- #include clock
-- #include errands
-- #include queue
-- #include relations
-- A semaphore is a queue with a limit (or one concurrency key of it): so many of its executions may be on the
-- queue or at work at a time. `slots:<semaphore>` holds execution -> version for those that have a place or stand
-- in line, `line:<semaphore>` is the line. Both live in the semaphore's home partition; an execution whose own partition
-- is another one (not `near`) gets there by errands. A version is counted up by the execution at every change
-- of mind, so that what was delayed on the way can't undo what is newer.

-- limit_of: what workers have made known of the semaphore's queue, else what the execution was begun with, if anything.
local function limit_of(P, semaphore, started_with)
  return tonumber(redis.call('HGET', P .. 'limits', string.match(semaphore, '^[^%z]*'))) or started_with
end

-- admit: an execution that has a place becomes runnable, if it still wants to be.
local function admit(P, id)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'workflow', 'run', 'queue', 'input', 'origin', 'started')
  if e[1] ~= 'queued' or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return false end
  if not e[2] then put_on(P, id, e[3], e[4], e[5], inlined_payload(P, id, e[6], e[7], e[8])) end
  return true
end

-- move_up: those at the head of the line take the slots that are free, a hundred at the most in one go.
-- Returns how many slots are free for others.
local function move_up(P, semaphore, limit)
  local slots, waiters = P .. 'slots:' .. semaphore, P .. 'waiters:' .. semaphore
  local waiting = redis.call('ZCARD', waiters)
  local free = limit_of(P, semaphore, limit) - redis.call('HLEN', slots) + waiting
  local moving = math.min(free, waiting, 100)
  for _ = 1, moving do
    local id = redis.call('ZPOPMIN', waiters)[1]
    if redis.call('EXISTS', P .. 'exec:' .. id) == 1 then
      admit(P, id)
    else
      note_errand(P, 'a' .. id .. ' ' .. redis.call('HGET', slots, id) .. ' ' .. limit .. ' ' .. semaphore)
    end
  end
  return moving == waiting and free - moving or 0
end

-- acquire_slot: does the execution hold a place now? Otherwise it stands in line.
local function acquire_slot(P, semaphore, limit, id, version)
  local slots, waiters = P .. 'slots:' .. semaphore, P .. 'waiters:' .. semaphore
  local free = move_up(P, semaphore, limit)
  local seen = redis.call('HGET', slots, id)
  if not seen or tonumber(seen) < version then redis.call('HSET', slots, id, version) end
  if seen then return not redis.call('ZSCORE', waiters, id) end
  if free > 0 then return true end
  local last = redis.call('ZRANGE', waiters, -1, -1, 'WITHSCORES')[2]
  redis.call('ZADD', waiters, math.max(now_us, (last or 0) + 1), id)
  return false
end

-- release_slot: give up a place, or the turn in line.
local function release_slot(P, semaphore, limit, id, version)
  local slots = P .. 'slots:' .. semaphore
  local seen = redis.call('HGET', slots, id)
  if seen and tonumber(seen) > version then return end
  redis.call('HDEL', slots, id)
  redis.call('ZREM', P .. 'waiters:' .. semaphore, id)
  move_up(P, semaphore, limit)
  if redis.call('EXISTS', slots) == 0 then redis.call('ZREM', P .. 'errands', 'h' .. limit .. ' ' .. semaphore) end
end

-- offer: an execution becomes runnable: at once, or when it gets a place in its semaphore.
local function offer(P, id, workflow, run, queue, relations, more)
  if not relations.semaphore then return put_on(P, id, workflow, run, queue, more) end
  relations.slot = (relations.slot or 0) + 1
  redis.call('HSET', P .. 'exec:' .. id, 'status', 'queued', 'relations', cmsgpack.pack(relations))
  if not relations.near then
    note_errand(P, 'l' .. id)
  elseif acquire_slot(P, relations.semaphore, relations.limit, id, relations.slot) then
    put_on(P, id, workflow, run, queue, more)
  end
end

-- leave: an execution is no longer runnable: its place is for the next.
local function leave(P, id, relations)
  if not relations.semaphore then return end
  relations.slot = (relations.slot or 0) + 1
  write_relations(P, id, relations)
  if relations.near then
    release_slot(P, relations.semaphore, relations.limit, id, relations.slot)
  else
    note_errand(P, 'l' .. id)
  end
end
