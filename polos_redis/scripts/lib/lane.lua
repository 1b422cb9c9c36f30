-- #include clock
-- #include queue
-- #include ties
-- A lane is a queue with a limit (or one concurrency key of it): so many of its executions may be on the
-- queue or at work at a time. `places:<lane>` holds execution -> version for those that have a place or stand
-- in line, `line:<lane>` is the line. Both live in the lane's home partition; an execution whose own partition
-- is another one (not `near`) gets there by errands. A version is counted up by the execution at every change
-- of mind, so that what was delayed on the way can't undo what is newer.

-- take_place: does the execution hold a place now? Otherwise it stands in line.
local function take_place(P, lane, limit, id, version)
  local places, line = P .. 'places:' .. lane, P .. 'line:' .. lane
  local seen = redis.call('HGET', places, id)
  if not seen or tonumber(seen) < version then redis.call('HSET', places, id, version) end
  if seen then return not redis.call('ZSCORE', line, id) end
  local waiting = redis.call('ZCARD', line)
  if waiting == 0 and redis.call('HLEN', places) <= limit then return true end
  redis.call('ZADD', line, now_us, id)
  return false
end

-- admit: an execution that has a place becomes runnable, unless it has changed its mind meanwhile (returns 0).
local function admit(P, id)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'workflow', 'run', 'queue', 'input', 'about', 'started')
  if e[1] ~= 'queued' or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return 0 end
  if not e[2] then put_on(P, id, e[3], e[4], e[5], luggage(P, id, e[6], e[7], e[8])) end
  return 1
end

-- free_place: give up a place, or the turn in line; those whose turn has come are admitted.
local function free_place(P, lane, limit, id, version)
  local places, line = P .. 'places:' .. lane, P .. 'line:' .. lane
  local seen = redis.call('HGET', places, id)
  if seen and tonumber(seen) > version then return end
  redis.call('HDEL', places, id)
  redis.call('ZREM', line, id)
  local waiting = redis.call('ZCARD', line)
  local free = limit - (redis.call('HLEN', places) - waiting)
  for _ = 1, math.min(free, waiting) do
    local next = redis.call('ZPOPMIN', line)[1]
    if redis.call('EXISTS', P .. 'exec:' .. next) == 1 then
      admit(P, next)
    else
      redis.call('ZADD', P .. 'errands', now, 'a' .. next .. ' ' .. redis.call('HGET', places, next) .. ' ' .. lane)
    end
  end
end

-- offer: an execution becomes runnable: at once, or when it gets a place in its lane.
local function offer(P, id, workflow, run, queue, ties, more)
  if not ties.lane then return put_on(P, id, workflow, run, queue, more) end
  ties.place = (ties.place or 0) + 1
  redis.call('HSET', P .. 'exec:' .. id, 'status', 'queued', 'ties', cmsgpack.pack(ties))
  if not ties.near then
    redis.call('ZADD', P .. 'errands', now, 'l' .. id)
  elseif take_place(P, ties.lane, ties.limit, id, ties.place) then
    put_on(P, id, workflow, run, queue, more)
  end
end

-- leave: an execution is no longer runnable: its place is for the next.
local function leave(P, id, ties)
  if not ties.lane then return end
  ties.place = (ties.place or 0) + 1
  write_ties(P, id, ties)
  if ties.near then
    free_place(P, ties.lane, ties.limit, id, ties.place)
  else
    redis.call('ZADD', P .. 'errands', now, 'l' .. id)
  end
end
