#!lua flags=allow-oom
-- finish: end an execution as completed or failed from its activation, and acknowledge its entry.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 how many of the answers accepted since it was queued it has seen
--       6 'completed' or 'failed'  7 output (codec) or error  8 data of the finish event when
--       it has failed, or ''  9 further fields of the execution (msgpack list), or ''
--       10.. events that come before it
-- Returns 0; -1 or -2 as write_step does; the journal's count of changes, having changed nothing, when it has not seen
-- all answers.
-- #include fence
-- #include ended
-- #include queue
local P, id, entry, owner, known, seen, status, value, event, more = KEYS[1], unpack(ARGV, 1, 9)
local EVENTS <const> = 10
local count, _, e = fence(P, id, entry, owner, known, '', unpack(ENDING_FIELDS, FURTHER))
if count < 0 or unseen(e[EXEC_ANSWERS], seen) then return count end
local field = status == 'completed' and 'output' or 'error'
local fields = more ~= '' and cmsgpack.unpack(more) or {}
if not e[EXEC_STARTED] then append(fields, 'started', now) end
if status == 'completed' and root_of(id) == id
    and not (e[EXEC_STREAM] or e[EXEC_WAITS] or e[EXEC_EARLY] or e[EXEC_RELATIONS] or e[EXEC_VERSION]) then
  -- the usual end, as `ending` has it; to define what only others need would take as long as all of this
  local retention = tonumber(e[EXEC_RETENTION])
  if count ~= 0 then redis.call('HDEL', P .. 'journal:' .. id, WRITER) end
  redis.call('HSET', P .. 'exec:' .. id, 'status', status, 'finished', now, field, value, unpack(fields))
  if count ~= 0 then redis.call('PEXPIRE', P .. 'journal:' .. id, retention) end
  keep(P, id, e[EXEC_INDEX] or e[EXEC_WORKFLOW], retention)
  if e[EXEC_NOTIFY] then notify_of_end(P, id, e[EXEC_NOTIFY], status, field, value) end
  take_off(P, e[EXEC_QUEUE], entry)
  return 0
end

-- #include ending
ending(P, id, e, status, field, value, event, {unpack(ARGV, EVENTS)}, fields, count)
return 0
