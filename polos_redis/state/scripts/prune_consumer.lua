#!lua flags=allow-oom
-- prune_consumer: remove a consumer that holds no entries and whose worker is gone, and its lease row.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 consumer  3 the lease counter that the caller has seen unchanged, '' for none
-- Returns 1 when removed, 0 when it holds entries or was renewed since.
local P, queue, consumer, seen = KEYS[1], unpack(ARGV)
local stream = P .. 'queue:' .. queue
if (redis.call('HGET', P .. 'workers', consumer) or '') ~= seen then return 0 end
if redis.call('EXISTS', stream) == 1 then -- a reserved one goes with its last reader
  if #redis.call('XPENDING', stream, 'workers', '-', '+', 1, consumer) > 0 then return 0 end
  redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', consumer)
end
redis.call('HDEL', P .. 'workers', consumer)
redis.call('HDEL', P .. 'serves', consumer)
return 1
