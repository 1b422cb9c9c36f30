#!lua flags=allow-oom
-- confirm: write something, so that a WAIT or WAITAOF that follows on this connection waits for this and all before.
-- KEYS  1 the partition's prefix
-- ARGV  1 how long the key it writes lasts, ms
-- Returns OK.
local P, ms = KEYS[1], unpack(ARGV)
return redis.call('SET', P .. 'confirmed', '1', 'PX', ms)
