#!lua
-- retry: continue a failed or paused execution from its journal as a new run, or a stuck one from its whole journal.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the run that the caller saw  3 when the execution that the caller saw was created, us, or '' for any
--       4 who has its code skip accepted answers, or ''  5 why  6 '1' when only a stuck or paused one may be retried
--       7.. the step keys of the answers to skip
-- Returns {'missing'}, {'run', current run} when it is another run by now, {'status', status} when it is neither failed
-- nor stuck, or may not be retried, {'no answer', step key} when this is not an answer that code has to reach, or
-- {'retried', new run}.
-- #include rerun
local P, id, seen, created, by, reason, only_stuck = KEYS[1], unpack(ARGV, 1, 6)
local SKIPPED <const> = 7
local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
if not e[EXEC_STATUS] or (created ~= '' and e[EXEC_CREATED] ~= created) then return {'missing'} end
local run = redis.call('HGET', P .. 'exec:' .. id, 'run')
if run ~= seen then return {'run', run} end
local stuck = e[EXEC_STATUS] == 'stuck'
if not stuck and (e[EXEC_STATUS] ~= 'failed' or only_stuck == '1') then return {'status', e[EXEC_STATUS]} end
for i = SKIPPED, #ARGV do
  if not may_mark(record_of(P, id, ARGV[i])) then return {'no answer', ARGV[i]} end
end

for i = SKIPPED, #ARGV do
  local record = record_of(P, id, ARGV[i])
  if may_mark(record) then -- not named twice
    mark(P, id, ARGV[i], record, 'skipped', by, reason)
    redis.call('HINCRBY', P .. 'journal:' .. id, '', 1)
    add_to_audit(P, id, ARGV[i], 'skipped', by, '', record[SHOWN_DIGEST], record[OPENED], record[ANSWER], record[AUDIT],
      reason)
  end
end
return {'retried', stuck and unstick(P, id, e) or rerun(P, id, e, 0)}
