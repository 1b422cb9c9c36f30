#!lua flags=no-writes
-- read_schedule: read a schedule, and the time that counts for it.
-- KEYS  1 the prefix of the schedule's partition
-- ARGV  1 schedule
-- Returns {now in ms, schedule (msgpack) or nil}.
-- #include clock
local P, name = KEYS[1], unpack(ARGV)
return {now, redis.call('HGET', P .. 'schedules', name)}
