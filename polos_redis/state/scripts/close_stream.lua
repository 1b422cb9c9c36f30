#!lua flags=allow-oom
-- close_stream: no worker reads a reserved stream: its executions wait without entries and slots until one does, and
-- the stream goes.
-- KEYS  1 the partition's prefix
-- ARGV  1 reserved stream  2 how many executions at most
-- Returns 1 when there are more, else 0.
-- #include reserved
local P, queue, limit = KEYS[1], unpack(ARGV)
local stream = queue_key(P, queue)
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'workers')
if not consumers.err and #consumers > 0 then return 0 end
local found = redis.call('XRANGE', stream, '-', '+', 'COUNT', limit)
for _, one in ipairs(found) do
  local entry, flat = unpack(one)
  local _, id = unpack(flat)
  local status, live, on, workflow, index, created, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'status', 'entry', 'queue', 'workflow', 'index', 'created', 'relations'))
  if status == 'queued' and live == entry and on == queue then
    list_unserved(P, id, queue, created)
    leave_queue(P, id, queue, entry, NEVER, index or workflow, created, relations)
  else
    take_off(P, queue, entry)
  end
end
if redis.call('XLEN', stream) > 0 then return 1 end
redis.call('UNLINK', stream)
redis.call('SREM', P .. 'queues', queue)
if redis.call('EXISTS', index_of(P, 'unserved', queue)) == 0 then redis.call('SREM', P .. 'reserved', queue) end
return 0
