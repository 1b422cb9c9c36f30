#!lua flags=allow-oom
-- load: make an activation the owner of an execution that has a journal, or may have one, and return what is known.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 the version of the code, if it has one: stored unless the execution has started;
--       a fork has it from its first activation
-- Returns nil when the entry is not the live one or another activation owns the execution, else
-- {input, started in ms or nil, losses or nil, origin or nil, the journal as a flat list of field and record, answers
-- accepted since it was queued or nil, what its steps have reported as in heartbeats.lua or nil}.
-- #include fence
-- #include versions
local P, id, entry, owner, version = KEYS[1], unpack(ARGV)
local count, _, is = fence(P, id, entry, owner, 0, '')
if count < 0 then return false end
if not is[EXEC_OWNER] then redis.call('HSET', P .. 'exec:' .. id, 'owner', owner) end
if version and (not is[EXEC_STARTED] or redis.call('HDEL', P .. 'exec:' .. id, 'forked') == 1) then
  redis.call('HSETNX', P .. 'exec:' .. id, 'version', version)
  local workflow, created, first = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'workflow', 'created', 'version'))
  list_version(P, id, workflow, first, created)
end
local input, started, losses, origin, answers, heartbeats = unpack(redis.call('HMGET', P .. 'exec:' .. id,
  'input', 'started', 'attempts', 'origin', 'answers', 'heartbeats'))
return {input, started, losses, origin, redis.call('HGETALL', P .. 'journal:' .. id), answers, heartbeats}
