#!lua
-- change_schedule: change a schedule that is still as the caller saw it, and start the execution of the tick that was
-- due. So a tick fires once, however many workers see it.
-- KEYS  1 the prefix of the schedule's partition
-- ARGV  1 schedule  2 as the caller saw it (msgpack), '' for none  3 as it is to be, '' to remove it
--       4 its next tick in ms, '' for none  5 execution to start, '' for none  6 workflow  7 input (codec)
--       8 retention in ms  9 options (msgpack map, see creation.lua), or ''
-- Returns 1, or 0 when it has changed since (nothing is done).
-- #include creation
local P, name, seen, schedule, tick, id, workflow, input, retention, options = KEYS[1], unpack(ARGV)
local schedules = P .. 'schedules'
if (redis.call('HGET', schedules, name) or '') ~= seen then return 0 end
if id ~= '' then
  create(P, id, workflow, input, retention, now_us, options ~= '' and cmsgpack.unpack(options))
end
if schedule ~= '' then redis.call('HSET', schedules, name, schedule) else redis.call('HDEL', schedules, name) end
redis.call('HDEL', P .. 'errand_failures', 'k' .. name)
if tick ~= '' then
  redis.call('ZADD', P .. 'errands', tick, 'k' .. name)
else
  redis.call('ZREM', P .. 'errands', 'k' .. name)
end
return 1
