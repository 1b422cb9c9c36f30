#!lua flags=no-writes
-- scheduled: a schedule as it stands, and the time that counts for it.
-- KEYS  1 the prefix of the schedule's partition
-- ARGV  1 schedule
-- Returns {now in ms, schedule (msgpack) or nil}.
-- #include clock
return {now, redis.call('HGET', KEYS[1] .. 'schedules', ARGV[1])}
