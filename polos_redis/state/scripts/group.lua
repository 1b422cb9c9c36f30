#!lua flags=allow-oom
-- group: make a queue's stream and its group, from the beginning of the stream, unless they are there.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue
-- Returns 1.
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1] .. 'queue:' .. ARGV[1], 'workers', '0', 'MKSTREAM')
if made.err and not string.find(made.err, '^BUSYGROUP') then return made end
redis.call('SADD', KEYS[1] .. 'queues', ARGV[1])
return 1
