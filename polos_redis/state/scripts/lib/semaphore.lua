-- #include clock
-- #include errands
-- #include queue
-- #include relations
-- A semaphore is a queue with a limit, or one concurrency key of it: at most that many of its executions may be on the
-- queue or at work at a time. `slots:<semaphore>` maps executions to versions, for those that hold a slot and those
-- that wait for one; `waiters:<semaphore>` has the waiters. Both live in the semaphore's home partition; an execution
-- that lives in another one (not `near`) reaches them by errands. An execution counts its version up whenever it
-- changes its mind, so that a delayed request can't undo a newer one.

-- limit_of: the limit that workers have published for the semaphore's queue, else the one the execution came with, if
-- any.
local function limit_of(P, semaphore, own)
  return tonumber(redis.call('HGET', P .. 'limits', string.match(semaphore, '^[^%z]*'))) or own
end

-- admit: make an execution that holds a slot runnable, if it still wants to be. Returns whether it does.
local function admit(P, id)
  local status, entry, workflow, index, run, queue, input, origin, started = unpack(redis.call('HMGET',
    P .. 'exec:' .. id, 'status', 'entry', 'workflow', 'index', 'run', 'queue', 'input', 'origin', 'started'))
  if status ~= 'queued' or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return false end
  if not entry then
    put_on(P, id, workflow, run, queue, inlined_payload(P, id, input, origin, started))
    unlist(P, 'queued', index or workflow, id)
  end
  return true
end

-- move_up: give the free slots to the first waiters, at most a hundred in one go. Returns how many slots are left.
local function move_up(P, semaphore, limit)
  local slots, waiters = P .. 'slots:' .. semaphore, P .. 'waiters:' .. semaphore
  local waiting = redis.call('ZCARD', waiters)
  local free = limit_of(P, semaphore, limit) - redis.call('HLEN', slots) + waiting
  local moving = math.min(free, waiting, 100)
  for _ = 1, moving do
    local id = redis.call('ZRANGE', waiters, 0, 0)[1]
    if redis.call('EXISTS', P .. 'exec:' .. id) == 1 then
      admit(P, id)
    else
      note_errand(P, 'a' .. id .. ' ' .. redis.call('HGET', slots, id) .. ' ' .. limit .. ' ' .. semaphore)
    end
    redis.call('ZREM', waiters, id)
  end
  return moving == waiting and free - moving or 0
end

-- acquire_slot: give the execution a slot, or make it the last waiter. Returns whether it holds a slot now.
local function acquire_slot(P, semaphore, limit, id, version)
  local slots, waiters = P .. 'slots:' .. semaphore, P .. 'waiters:' .. semaphore
  local free = move_up(P, semaphore, limit)
  local seen = redis.call('HGET', slots, id)
  if not seen or tonumber(seen) < version then redis.call('HSET', slots, id, version) end
  if seen then return not redis.call('ZSCORE', waiters, id) end
  if free > 0 then return true end
  local _, last = unpack(redis.call('ZRANGE', waiters, -1, -1, 'WITHSCORES'))
  redis.call('ZADD', waiters, math.max(now_us, (last or 0) + 1), id)
  return false
end

-- release_slot: give up a slot, or the wait for one.
local function release_slot(P, semaphore, limit, id, version)
  local slots = P .. 'slots:' .. semaphore
  local seen = redis.call('HGET', slots, id)
  if seen and tonumber(seen) > version then return end
  redis.call('HDEL', slots, id)
  redis.call('ZREM', P .. 'waiters:' .. semaphore, id)
  move_up(P, semaphore, limit)
  local check = 'h' .. limit .. ' ' .. semaphore
  if redis.call('EXISTS', slots) == 0 and redis.call('ZREM', P .. 'errands', check) == 1 then
    redis.call('HDEL', P .. 'errand_failures', check)
  end
end

-- offer: make an execution runnable: at once, or when it gets a slot of its semaphore. `name` is that of its indexes.
-- Returns whether it has an entry now.
local function offer(P, id, name, created, workflow, run, queue, relations, more)
  if not relations.semaphore then
    put_on(P, id, workflow, run, queue, more)
    return true
  end
  list(P, 'queued', name, created, id)
  relations.slot = (relations.slot or 0) + 1
  redis.call('HSET', P .. 'exec:' .. id, 'status', 'queued', 'relations', cmsgpack.pack(relations))
  if not relations.near then
    note_errand(P, 'l' .. id)
  elseif acquire_slot(P, relations.semaphore, relations.limit, id, relations.slot) then
    put_on(P, id, workflow, run, queue, more)
    unlist(P, 'queued', name, id)
    return true
  end
  return false
end

-- offer_listed: as offer, for an execution that is listed as one without an entry.
local function offer_listed(P, id, name, created, workflow, run, queue, relations, more)
  if offer(P, id, name, created, workflow, run, queue, relations, more) then unlist(P, 'queued', name, id) end
end

-- leave: hand the slot of an execution that is no longer runnable to the first waiter.
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
