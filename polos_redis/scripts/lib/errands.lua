-- #include clock
-- note_errand: something that concerns another partition, or that only Python can do (see errands.py). Its due time
-- is now, to the microsecond: errands keep their order, and one that is noted again while it is run is another one.
local noted = 0
local function note_errand(P, name)
  redis.call('ZADD', P .. 'errands', (now_us + noted) / 1000, name)
  noted = noted + 1
end
