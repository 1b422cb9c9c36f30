#!lua flags=allow-oom
-- requeue_entries: move entries from a consumer back to the queue, as new ones at its end: acknowledged, deleted,
-- added.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 consumer  3 'back' (handed back: not counted), or the lease counter of a worker presumed dead
--       (counted) that the caller has seen unchanged, '' for none
--       4 how many losses in a row without progress fail an execution
--       5 which workflows pause instead of failing (msgpack map of those that are known: true or false)  6.. entries
-- Returns {requeued, failed for good or paused, dropped (stale), {id, workflow, error} of those that have failed,
-- likewise of those that are paused, the workflows that have to be known, whose entries are left}; nil when
-- the lease was renewed since.
-- #include cancelling
-- #include deactivate
-- #include status
local P, queue, consumer, seen, most, pausing = KEYS[1], unpack(ARGV, 1, 5)
local ENTRIES <const> = 6
local is_lost = seen ~= 'back'
if is_lost and (redis.call('HGET', P .. 'workers', consumer) or '') ~= seen then return false end
local stream, requeued, dropped = queue_key(P, queue), 0, 0
local failed, paused, unknown = {}, {}, {}
pausing = cmsgpack.unpack(pausing)

-- execution_of: the execution that an entry stands for, and its workflow; nil when the entry is gone.
local function execution_of(entry)
  local _, flat = unpack(redis.call('XRANGE', stream, entry, entry)[1] or {})
  local fields = {}
  for i = 1, #(flat or {}), 2 do fields[flat[i]] = flat[i + 1] end
  return fields.id, fields.workflow
end

-- count_losses: how many activations in a row have been lost without progress in between, with this one.
local function count_losses(id)
  local losses, before = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'attempts', 'progress'))
  return losses and tonumber(before) >= changes(P, id) and tonumber(losses) + 1 or 1
end

-- pause: leave an execution paused that would fail, with this error.
local function pause(id, e, error, shown)
  local reason = cmsgpack.pack({kind = PAUSED, keys = {}, at = '', message = shown})
  redis.call('HSET', P .. 'exec:' .. id, 'last_error', error)
  tell(P, id, e, {event_of(id, root_of(id), 'workflow_paused'), reason})
  deactivate(P, id, e, e[EXEC_ENTRY], 'stuck', e[EXEC_INDEX] or e[EXEC_WORKFLOW], e[EXEC_CREATED], e[EXEC_QUEUE],
    e[EXEC_RELATIONS], {'stuck', reason})
end

for i = ENTRIES, #ARGV do
  local entry = ARGV[i]
  if #redis.pcall('XPENDING', stream, 'workers', entry, entry, 1, consumer) > 0 then -- 0 of a stream that is gone
    local id, workflow = execution_of(entry)
    local e = id and redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS)) or {}
    if e[EXEC_STATUS] ~= 'queued' or e[EXEC_ENTRY] ~= entry or (e[EXEC_QUEUE] or 'default') ~= queue then
      dropped = dropped + 1
      if workflow and not e[EXEC_STATUS] then unlist_uncreated(P, id, workflow) end
      take_off(P, queue, entry)
    else
      local losses = is_lost and count_losses(id) or 0
      if losses >= tonumber(most) and pausing[workflow] == nil then
        unknown[#unknown + 1] = workflow
      elseif losses >= tonumber(most) then
        local text = 'its worker was lost ' .. losses .. ' times in a row while it ran; see what it does between its '
          .. 'last journaled step and the next'
        local error, shown = cmsgpack.pack({1, 'WorkerLostError', text, ''}), 'WorkerLostError: ' .. text
        if pausing[workflow] then
          pause(id, e, error, shown)
          paused[#paused + 1] = {id, workflow, shown}
        else
          ending(P, id, e, 'failed', 'error', error, finish_event(P, id, 'failed', 'error', shown), {}, {})
          failed[#failed + 1] = {id, workflow, shown}
        end
      else
        requeued = requeued + 1
        if is_lost then redis.call('HSET', P .. 'exec:' .. id, 'attempts', losses, 'progress', changes(P, id)) end
        disown(P, id)
        put_on(P, id, e[EXEC_WORKFLOW], redis.call('HGET', P .. 'exec:' .. id, 'run'), e[EXEC_QUEUE])
        take_off(P, queue, entry)
      end
    end
  end
end
return {requeued, #failed + #paused, dropped, failed, paused, unknown}
