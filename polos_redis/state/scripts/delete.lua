#!lua flags=allow-oom
-- delete: forget an execution before its time. Of a root's audit, and so of its descendants', who, when and what it was
-- about stay; the answers go.
-- KEYS  1 the partition's prefix
-- ARGV  1 id
-- Returns {'deleted', 1 or 0 when there was no such execution, entries of the audit} or {'status', how it stands}: it has
-- not ended, or descendants of it have not.
-- #include forgetting
local P, id = KEYS[1], ARGV[1]
local status = redis.call('HGET', P .. 'exec:' .. id, 'status')
if status == 'queued' or status == 'waiting' then return {'status', status} end
if redis.call('EXISTS', P .. 'children:' .. id) == 1 then return {'status', 'waiting for descendants'} end
local audit = P .. 'audit:' .. id
local entries = redis.call('LRANGE', audit, 0, -1)
for i, packed in ipairs(entries) do
  local entry = cmsgpack.unpack(packed)
  entry[10] = ''
  redis.call('LSET', audit, i - 1, cmsgpack.pack(entry))
end
if status then
  forget(P, id)
  redis.call('ZREM', P .. 'timers', 'c' .. id) -- there is no child to be ended any more
end
return {'deleted', status and 1 or 0, #entries}
