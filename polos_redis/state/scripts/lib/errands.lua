-- #include clock
-- #include notify
-- note_errand: note something that concerns another partition, or that only Python can do (see errands.py), and notify
-- the timer leader. It is due now, to the microsecond: errands keep their order, and one noted again while it is being
-- run is a new one.
local noted = 0
local function note_errand(P, name)
  redis.call('ZADD', P .. 'errands', (now_us + noted) / 1000, name)
  if noted == 0 then
    local holder = redis.call('GET', P .. 'timer_leader')
    if holder then notify(P, holder, {'errand', P}) end
  end
  noted = noted + 1
end
