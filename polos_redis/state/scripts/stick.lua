#!lua flags=allow-oom
-- stick: end an activation that can't go on until somebody has seen to it: it is stuck, or has failed and is paused.
-- Its execution keeps its journal and its open waits, whose decisions are journaled without waking it, until it is
-- retried or ended.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 state of the workflow (codec), or ''
--       6 how many of the answers accepted since it was queued it has seen
--       7 the reason (see state/stuck.py), which is also the data of the event
--       8 the error of one that has failed, or ''  9.. events that come before it
-- Returns 0; -1 or -2 as write_step does; the journal's count of changes, having changed nothing, when it has not seen
-- all answers.
-- #include fence
-- #include clock
-- #include deactivate
local P, id, entry, owner, known, state, seen, reason, error = KEYS[1], unpack(ARGV, 1, 8)
local EVENTS <const> = 9
local count, _, is = fence(P, id, entry, owner, known, '', 'workflow', 'index', 'created', 'queue', 'relations',
  'answers')
if count < 0 then return count end
local workflow, index, created, queue, relations, answers = unpack(is, FURTHER)
if unseen(answers, seen) then return count end
if state ~= '' then redis.call('HSET', P .. 'exec:' .. id, 'state', state) end
claim(P, id, owner, is, now)
if error ~= '' then redis.call('HSET', P .. 'exec:' .. id, 'last_error', error) end
local events = {unpack(ARGV, EVENTS)}
append(events, event_of(id, root_of(id), error ~= '' and 'workflow_paused' or 'workflow_stuck'), reason)
tell(P, id, is, events)
deactivate(P, id, is, entry, 'stuck', index or workflow, created, queue, relations, {'stuck', reason})
return 0
