#!lua flags=allow-oom
-- prune: remove a consumer that holds nothing and whose worker is gone, and its lease row.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 consumer  3 the lease counter the caller has seen unchanged, '' for none
-- Returns 1 when removed, 0 when it holds entries or was renewed since.
local P, consumer = KEYS[1], ARGV[2]
local queue = P .. 'queue:' .. ARGV[1]
if (redis.call('HGET', P .. 'workers', consumer) or '') ~= ARGV[3] then return 0 end
if #redis.call('XPENDING', queue, 'workers', '-', '+', 1, consumer) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', queue, 'workers', consumer)
redis.call('HDEL', P .. 'workers', consumer)
redis.call('HDEL', P .. 'serves', consumer)
return 1
