#!lua flags=allow-oom
-- renew: a worker says that it is alive, and what it serves. Allowed at maxmemory: who can't renew is held for dead.
-- KEYS  1 the partition's prefix
-- ARGV  1 worker  2 what it serves (msgpack)
-- Returns its lease counter.
local P, worker = KEYS[1], ARGV[1]
redis.call('HSET', P .. 'serves', worker, ARGV[2])
return redis.call('HINCRBY', P .. 'workers', worker, 1)
