#!lua flags=allow-oom
-- leave_stream: a worker does not read a reserved stream any more: remove it from the consumers.
-- KEYS  1 the partition's prefix
-- ARGV  1 reserved stream  2 worker
-- Returns 1 when removed, 0 when it holds entries.
local P, queue, worker = KEYS[1], unpack(ARGV)
local stream = P .. 'queue:' .. queue
if redis.call('EXISTS', stream) == 0 then return 1 end
if #redis.call('XPENDING', stream, 'workers', '-', '+', 1, worker) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', worker)
return 1
