#!lua flags=allow-oom
-- renew_lease: renew a worker's lease, and store what it serves. Allowed at maxmemory: a worker that can't renew is
-- presumed dead.
-- KEYS  1 the partition's prefix
-- ARGV  1 worker  2 what it serves (msgpack)
-- Returns its lease counter.
local P, worker, serves = KEYS[1], unpack(ARGV)
redis.call('HSET', P .. 'serves', worker, serves)
return redis.call('HINCRBY', P .. 'workers', worker, 1)
