#!lua flags=allow-oom
-- create_group: create a queue's stream and its group, from the beginning of the stream, unless they exist.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue
-- Returns 1.
local P, queue = KEYS[1], unpack(ARGV)
local made = redis.pcall('XGROUP', 'CREATE', P .. 'queue:' .. queue, 'workers', '0', 'MKSTREAM')
if made.err and not string.find(made.err, '^BUSYGROUP') then return made end
redis.call('SADD', P .. 'queues', queue)
return 1
