-- #include clock
-- #include errands
-- #include queue
-- #include ties
-- A lane is a queue with a limit, or one concurrency key of it: at most that many of its executions may be on the queue
-- or at work at a time. `places:<lane>` maps executions to versions, for those that have a place and those that stand
-- in line; `line:<lane>` is the line. Both live in the lane's home partition. An execution that lives in another one
-- (not `near`) reaches them by errands. An execution counts its version up whenever it changes its mind, so that a
-- delayed request can't undo a newer one.

-- limit_of: the limit that workers have announced for the lane's queue, else the one the execution came with, if any.
local function limit_of(P, lane, own)
  return tonumber(redis.call('HGET', P .. 'limits', string.match(lane, '^[^%z]*'))) or own
end

-- admit: make an execution that has a place runnable, if it still wants to be. Returns whether it does.
local function admit(P, id)
  local status, entry, workflow, run, queue, input, about, started = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'status', 'entry', 'workflow', 'run', 'queue', 'input', 'about', 'started'))
  if status ~= 'queued' or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return false end
  if not entry then put_on(P, id, workflow, run, queue, luggage(P, id, input, about, started)) end
  return true
end

-- move_up: give the free places to the head of the line, at most a hundred in one go. Returns how many places are left.
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

-- take_place: give the execution a place, or the last turn in line. Returns whether it holds a place now.
local function take_place(P, lane, limit, id, version)
  local places, line = P .. 'places:' .. lane, P .. 'line:' .. lane
  local free = move_up(P, lane, limit)
  local seen = redis.call('HGET', places, id)
  if not seen or tonumber(seen) < version then redis.call('HSET', places, id, version) end
  if seen then return not redis.call('ZSCORE', line, id) end
  if free > 0 then return true end
  local _, last = unpack(redis.call('ZRANGE', line, -1, -1, 'WITHSCORES'))
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

-- offer: make an execution runnable: at once, or when it gets a place in its lane.
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

-- leave: hand the place of an execution that is no longer runnable to the next one.
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
