#!lua flags=allow-oom
-- serve: a worker is about to read a reserved stream: create what it needs, and make unserved executions runnable.
-- KEYS  1 the partition's prefix
-- ARGV  1 reserved stream  2 worker  3 how many executions at most
-- Returns how many are left.
-- #include reserved
local P, queue, worker, limit = KEYS[1], unpack(ARGV)
local unserved = index_of(P, 'unserved', queue)
open_reserved(P, queue)
redis.call('XGROUP', 'CREATECONSUMER', queue_key(P, queue), 'workers', worker)
for _, id in ipairs(redis.call('ZRANGE', unserved, 0, limit - 1)) do
  redis.call('ZREM', unserved, id)
  if redis.call('ZSCORE', P .. 'timers', 'p' .. id) == NEVER then
    redis.call('ZREM', P .. 'timers', 'p' .. id) -- first: repair goes on from there
    make_runnable(P, id)
  end
end
return redis.call('ZCARD', unserved)
