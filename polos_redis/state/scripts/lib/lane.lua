-- #include clock
-- #include errands
-- #include queue
-- #include ties
-- A lane is a queue with a limit (or one concurrency key of it): so many of its executions may be on the
-- queue or at work at a time. `places:<lane>` holds execution -> version for those that have a place or stand
-- in line, `line:<lane>` is the line. Both live in the lane's home partition; an execution whose own partition
-- is another one (not `near`) gets there by errands. A version is counted up by the execution at every change
-- of mind, so that what was delayed on the way can't undo what is newer.

-- limit_of: what workers have made known of the lane's queue, else what the execution was begun with, if anything.
local function limit_of(P, lane, begun_with)
  return tonumber(redis.call('HGET', P .. 'limits', string.match(lane, '^[^%z]*'))) or begun_with
end

-- admit: an execution that has a place becomes runnable, if it still wants to be.
local function admit(P, id)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'workflow', 'run', 'queue', 'input', 'about', 'started')
  if e[1] ~= 'queued' or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return false end
  if not e[2] then put_on(P, id, e[3], e[4], e[5], luggage(P, id, e[6], e[7], e[8])) end
  return true
end

-- move_up: those at the head of the line take the places that are free, a hundred at the most in one go.
-- Returns how many places are free for others.
local function move_up(P, lane, limit)
  local places, line = P .. 'places:' .. lane, P .. 'line:' .. lane
  local waiting = redis.call('ZCARD', line)
  local free = limit_of(P, lane, limit) - redis.call('HLEN', places) + waiting
  local moving = math.min(free, waiting, 100)
  for _ = 1, moving do
    local id = redis.call('ZPOPMIN', line)[1]
    if redis.call('EXISTS', P .. 'exec:' .. id) == 1 then
      admit(P, id)
    else
      note_errand(P, 'a' .. id .. ' ' .. redis.call('HGET', places, id) .. ' ' .. limit .. ' ' .. lane)
    end
  end
  return moving == waiting and free - moving or 0
end

-- take_place: does the execution hold a place now? Otherwise it stands in line.
local function take_place(P, lane, limit, id, version)
  local places, line = P .. 'places:' .. lane, P .. 'line:' .. lane
  local free = move_up(P, lane, limit)
  local seen = redis.call('HGET', places, id)
  if not seen or tonumber(seen) < version then redis.call('HSET', places, id, version) end
  if seen then return not redis.call('ZSCORE', line, id) end
  if free > 0 then return true end
  local last = redis.call('ZRANGE', line, -1, -1, 'WITHSCORES')[2]
  redis.call('ZADD', line, math.max(now_us, (last or 0) + 1), id)
  return false
end

-- free_place: give up a place, or the turn in line.
local function free_place(P, lane, limit, id, version)
  local places = P .. 'places:' .. lane
  local seen = redis.call('HGET', places, id)
  if seen and tonumber(seen) > version then return end
  redis.call('HDEL', places, id)
  redis.call('ZREM', P .. 'line:' .. lane, id)
  move_up(P, lane, limit)
  if redis.call('EXISTS', places) == 0 then redis.call('ZREM', P .. 'errands', 'h' .. limit .. ' ' .. lane) end
end

-- offer: an execution becomes runnable: at once, or when it gets a place in its lane.
local function offer(P, id, workflow, run, queue, ties, more)
  if not ties.lane then return put_on(P, id, workflow, run, queue, more) end
  ties.place = (ties.place or 0) + 1
  redis.call('HSET', P .. 'exec:' .. id, 'status', 'queued', 'ties', cmsgpack.pack(ties))
  if not ties.near then
    note_errand(P, 'l' .. id)
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
    note_errand(P, 'l' .. id)
  end
end
