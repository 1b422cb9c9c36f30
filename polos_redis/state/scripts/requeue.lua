#!lua flags=allow-oom
-- requeue: entries go from a consumer back to the queue, as new ones at its end: acknowledged, deleted, added.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 consumer  3 'lost' (its worker died: counted) or 'back' (handed back: not counted)
--       4 how many losses in a row without progress fail an execution  5.. entries
-- Returns {requeued, failed for good, dropped (stale)}.
-- #include termination
local P, consumer, lost = KEYS[1], ARGV[2], ARGV[3] == 'lost'
local queue = queue_key(P, ARGV[1])
local requeued, failed, dropped = 0, 0, 0
for i = 5, #ARGV do
  local entry = ARGV[i]
  if #redis.call('XPENDING', queue, 'workers', entry, entry, 1, consumer) > 0 then
    local found = redis.call('XRANGE', queue, entry, entry)[1]
    local id
    if found then
      for j = 1, #found[2], 2 do if found[2][j] == 'id' then id = found[2][j + 1] end end
    end
    local e = id and redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS)) or {}
    if e[1] ~= 'queued' or e[2] ~= entry then
      dropped = dropped + 1
      take_off(P, ARGV[1], entry)
    else
      local exec = P .. 'exec:' .. id
      local losses = 0
      if lost then
        local n = tonumber(redis.call('HGET', P .. 'journal:' .. id, '') or 0)
        local before = redis.call('HMGET', exec, 'attempts', 'progress')
        losses = (before[1] and tonumber(before[2]) >= n) and tonumber(before[1]) + 1 or 1
        redis.call('HSET', exec, 'attempts', losses, 'progress', n)
      end
      if losses >= tonumber(ARGV[4]) then
        failed = failed + 1
        local text = 'its worker was lost ' .. losses .. ' times in a row while it ran; see what it does between its '
          .. 'last journaled step and the next'
        ending(P, id, e, 'failed', 'error', cmsgpack.pack({'WorkerLostError', text, ''}),
          finish_event(P, id, 'failed', 'error', 'WorkerLostError: ' .. text), {}, {})
      else
        requeued = requeued + 1
        take_off(P, ARGV[1], entry)
        redis.call('HDEL', exec, 'owner')
        put_on(P, id, e[5], redis.call('HGET', exec, 'run'), e[6])
      end
    end
  end
end
return {requeued, failed, dropped}
