#!lua flags=allow-oom
-- requeue_entries: move entries from a consumer back to the queue, as new ones at its end: acknowledged, deleted,
-- added.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 consumer  3 'back' (handed back: not counted), or the lease counter of a worker presumed dead
--       (counted) that the caller has seen unchanged, '' for none
--       4 how many losses in a row without progress fail an execution  5.. entries
-- Returns {requeued, failed for good, dropped (stale), flat list of those that have failed, their workflows and
-- errors}; nil when the lease was renewed since.
-- #include cancelling
local P, queue, consumer, seen, most = KEYS[1], unpack(ARGV, 1, 4)
local ENTRIES <const> = 5
local is_lost = seen ~= 'back'
if is_lost and (redis.call('HGET', P .. 'workers', consumer) or '') ~= seen then return false end
local stream, requeued, failed, dropped = queue_key(P, queue), 0, 0, 0
local facts = {}

-- execution_of: the execution that an entry stands for, and its workflow; nil when the entry is gone.
local function execution_of(entry)
  local _, flat = unpack(redis.call('XRANGE', stream, entry, entry)[1] or {})
  local fields = {}
  for i = 1, #(flat or {}), 2 do fields[flat[i]] = flat[i + 1] end
  return fields.id, fields.workflow
end

-- count_losses: how many activations in a row have been lost without progress in between, with this one.
local function count_losses(id)
  local exec, progress = P .. 'exec:' .. id, changes(P, id)
  local losses, before = unpack(redis.call('HMGET', exec, 'attempts', 'progress'))
  losses = losses and tonumber(before) >= progress and tonumber(losses) + 1 or 1
  redis.call('HSET', exec, 'attempts', losses, 'progress', progress)
  return losses
end

for i = ENTRIES, #ARGV do
  local entry = ARGV[i]
  if #redis.call('XPENDING', stream, 'workers', entry, entry, 1, consumer) > 0 then
    local id, workflow = execution_of(entry)
    local e = id and redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS)) or {}
    if e[EXEC_STATUS] ~= 'queued' or e[EXEC_ENTRY] ~= entry then
      dropped = dropped + 1
      if workflow and not e[EXEC_STATUS] then unlist_uncreated(P, id, workflow) end
      take_off(P, queue, entry)
    else
      local losses = is_lost and count_losses(id) or 0
      if losses >= tonumber(most) then
        failed = failed + 1
        local text = 'its worker was lost ' .. losses .. ' times in a row while it ran; see what it does between its '
          .. 'last journaled step and the next'
        local shown = 'WorkerLostError: ' .. text
        ending(P, id, e, 'failed', 'error', cmsgpack.pack({1, 'WorkerLostError', text, ''}),
          finish_event(P, id, 'failed', 'error', shown), {}, {})
        for _, fact in ipairs({id, e[EXEC_WORKFLOW], shown}) do facts[#facts + 1] = fact end
      else
        requeued = requeued + 1
        disown(P, id)
        put_on(P, id, e[EXEC_WORKFLOW], redis.call('HGET', P .. 'exec:' .. id, 'run'), e[EXEC_QUEUE])
        take_off(P, queue, entry)
      end
    end
  end
end
return {requeued, failed, dropped, facts}
