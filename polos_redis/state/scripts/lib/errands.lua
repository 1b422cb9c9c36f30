-- #include clock
-- note_errand: something that concerns another partition, or that only Python can do (see errands.py). Its due time
-- is now, to the microsecond: errands keep their order, and one that is noted again while it is run is another one.
-- The worker that holds timer leadership is told.
local noted = 0
local function note_errand(P, name)
  redis.call('ZADD', P .. 'errands', (now_us + noted) / 1000, name)
  if noted == 0 then
    local holder = redis.call('GET', P .. 'timer_leader')
    if holder then redis.pcall('SPUBLISH', P .. 'reply:' .. holder, cmsgpack.pack({'errand', P})) end
  end
  noted = noted + 1
end
