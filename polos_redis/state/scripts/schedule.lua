#!lua
-- schedule: change a schedule that is as the caller saw it, and begin the execution of the tick that was due. So a tick
-- is fired once, however many workers see it.
-- KEYS  1 the prefix of the schedule's partition
-- ARGV  1 schedule  2 as the caller saw it (msgpack), '' for none  3 as it is to be, '' to remove it
--       4 its next tick in ms, '' for none  5 execution to begin, '' for none  6 workflow  7 input (codec)
--       8 retention in ms  9 options (msgpack map, see creation.lua), or ''
-- Returns 1, or 0 when it has changed since (nothing is done).
-- #include creation
local P, name, schedules = KEYS[1], ARGV[1], KEYS[1] .. 'schedules'
if (redis.call('HGET', schedules, name) or '') ~= ARGV[2] then return 0 end
if ARGV[5] ~= '' and redis.call('EXISTS', P .. 'exec:' .. ARGV[5]) == 0 then
  create(P, ARGV[5], ARGV[6], ARGV[7], ARGV[8], now_us, ARGV[9] ~= '' and cmsgpack.unpack(ARGV[9]))
end
if ARGV[3] ~= '' then redis.call('HSET', schedules, name, ARGV[3]) else redis.call('HDEL', schedules, name) end
if ARGV[4] ~= '' then
  redis.call('ZADD', P .. 'errands', ARGV[4], 'k' .. name)
else
  redis.call('ZREM', P .. 'errands', 'k' .. name)
end
return 1
