#!lua flags=allow-oom
-- reserve: move an execution to a reserved stream, whose workers run it: the one of its version as it starts, or of its
-- workflow, when it was delivered to a worker that does not know it.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 id  3 entry  4 reserved stream  5 the version to store, if it is to start with this one
-- Returns 1; 0 when the entry was not the live one (it is deleted); 2 when the execution has started before, and is
-- no fork that starts here: it is not to get a version any more (it stays).
-- #include queue
-- #include stream
-- #include versions
local P, queue, id, entry, to, version = KEYS[1], unpack(ARGV)
local exec = P .. 'exec:' .. id
local status, live, on, workflow, created, run, input, origin, started, before = unpack(redis.call('HMGET', exec,
  'status', 'entry', 'queue', 'workflow', 'created', 'run', 'input', 'origin', 'started', 'version'))
if status ~= 'queued' or live ~= entry or (on or 'default') ~= queue then -- entries of two streams may have one id
  take_off(P, queue, entry)
  return 0
end
if version then
  if started and redis.call('HDEL', exec, 'forked') == 0 then return 2 end
  if before then unlist_version(P, id, workflow, before) end -- that of an activation which has written nothing
  redis.call('HSET', exec, 'version', version)
  list_version(P, id, workflow, version, created)
end
disown(P, id)
open_reserved(P, to)
local moved = add_entry(P, id, workflow, run, to, inlined_payload(P, id, input, origin, started))
redis.call('HSET', exec, 'queue', to, 'entry', moved)
take_off(P, queue, entry)
return 1
