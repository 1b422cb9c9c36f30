#!lua flags=allow-oom
-- delete_execution: forget an execution before its retention ends. The audit of a root and its descendants keeps who,
-- when and on what; it loses the answers.
-- KEYS  1 the partition's prefix
-- ARGV  1 id
-- Returns {'deleted', 1 or 0 when there was no such execution, entries of the audit}, or {'status', its status} when it
-- has not ended or descendants of it have not.
-- #include deletion
local P, id = KEYS[1], unpack(ARGV)
local ENTRY_ANSWER <const> = 11 -- in an entry of the audit, see add_to_audit
local status, workflow, index = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'workflow', 'index'))
if is_live(status) then return {'status', status} end
if redis.call('EXISTS', P .. 'children:' .. id) == 1 then return {'status', 'waiting for descendants'} end
local audit = P .. 'audit:' .. id
local entries = redis.call('LRANGE', audit, 0, -1)
for i, packed in ipairs(entries) do
  local entry = cmsgpack.unpack(packed)
  entry[ENTRY_ANSWER] = ''
  redis.call('LSET', audit, i - 1, cmsgpack.pack(entry))
end
if status then
  forget(P, id, index or workflow)
  redis.call('ZREM', P .. 'timers', 'c' .. id) -- there is no child to end any more
else
  redis.call('SREM', P .. 'descendants:' .. root_of(id), id)
end
return {'deleted', status and 1 or 0, #entries}
