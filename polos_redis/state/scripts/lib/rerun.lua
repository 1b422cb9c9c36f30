-- #include ending
local LAST = {suspend = DECIDED, wait = 11, child = 8, race = 6} -- when it was decided, 0 while it is open

-- rerun: a failed execution goes on from its journal as a new run, after `delay` ms. What failed, timed out or
-- was closed is dropped from the journal; the rest is kept. `e` is HMGET of ENDING_FIELDS; it may have ended
-- before or be about to.
local function rerun(P, id, e, delay)
  local exec, journal = P .. 'exec:' .. id, P .. 'journal:' .. id
  local flat = redis.call('HGETALL', journal)
  local gone, newest, dropped = {}, 0, {}
  for i = 1, #flat, 2 do
    if string.byte(flat[i]) == 255 then
      local result = read_record(flat[i + 1])
      -- a child that was forgotten would begin anew, and repeat what it has done: its result stands
      local child = string.match(id, '^[^.]*') .. '.' .. string.sub(flat[i], 2)
      if result[1] ~= 'completed' and redis.call('EXISTS', P .. 'exec:' .. child) == 1 then
        dropped[flat[i]] = true
        if result[3] then dropped[result[3]] = true end -- begun again: results that are kept count at once
      end
    end
  end
  for i = 1, #flat, 2 do
    local key, r = flat[i], flat[i] ~= '' and string.byte(flat[i]) ~= 255 and read_record(flat[i + 1]) or {}
    if r[2] == 'step' then
      if r[3] == 'failed' then dropped[key] = true end
      if r[3] ~= 'abandoned' then newest = math.max(newest, r[#r] or 0) end
    elseif r[3] == 'closed' or (r[3] == 'expired' and not (r[2] == 'suspend' and r[ANSWER] ~= '')) then
      dropped[key] = true -- but not what was decided by the default for a timeout
    elseif r[2] then
      newest = math.max(newest, r[OPENED], r[LAST[r[2]]])
    end
  end
  for i = 1, #flat, 2 do
    local key, r = flat[i], flat[i] ~= '' and string.byte(flat[i]) ~= 255 and read_record(flat[i + 1]) or {}
    if r[2] == 'step' and r[3] == 'abandoned' and r[#r] >= newest then
      dropped[key] = true -- nothing has followed that relies on it
    elseif r[2] == 'race' then
      local members = {}
      for j = 1, #r[7], 2 do
        if not dropped[r[7][j]] then
          members[#members + 1] = r[7][j]
          members[#members + 1] = r[7][j + 1]
        elseif r[3] == 'won' and r[5] == r[7][j + 1] then
          dropped[key] = true
        end
      end
      if r[3] == 'open' and #members < #r[7] then
        r[7] = members
        redis.call('HSET', journal, key, cmsgpack.pack(r))
      end
    end
  end
  for key in pairs(dropped) do gone[#gone + 1] = key end
  for i = 1, #gone, 1000 do redis.call('HDEL', journal, unpack(gone, i, math.min(#gone, i + 999))) end
  if #flat > 0 then redis.call('HINCRBY', journal, '', 1) end

  local ended = e[1] ~= 'queued'
  if ended then
    redis.call('ZREM', P .. 'expiry', id)
    redis.call('ZREM', P .. 'timers', 'c' .. id) -- the children that its end has not reached go on
    redis.call('HDEL', exec, 'retried') -- its own retries are counted anew
    redis.call('PERSIST', exec)
    redis.call('PERSIST', journal)
    redis.call('PERSIST', P .. 'topic:' .. id) -- a child has none of these two of its own
    redis.call('PERSIST', P .. 'below:' .. id)
    for _, key in ipairs(e[9] and cmsgpack.unpack(e[9]) or {}) do
      redis.call('PERSIST', P .. 'topic:' .. key .. '/' .. id)
    end
    reindex(P, id, e[5], e[7], e[1], 'queued')
  elseif e[2] then
    take_off(P, e[6], e[2])
  end
  local error = redis.call('HGET', exec, 'error')
  if error then redis.call('HSET', exec, 'last_error', error) end
  redis.call('HDEL', exec, 'entry', 'owner', 'attempts', 'progress', 'output', 'error', 'cancelled_by', 'finished', 'unreached')
  redis.call('HSET', exec, 'status', 'queued')
  local run = redis.call('HINCRBY', exec, 'run', 1)
  local relations = read_relations(e[12])
  if not ended then leave(P, id, relations) end
  if ended and relations.timeout then
    relations.deadline = now + delay + relations.timeout
    redis.call('ZADD', P .. 'timers', relations.deadline, 't' .. id)
    write_relations(P, id, relations)
  end
  if ended then take_back(P, id, relations) end

  local root = string.match(id, '^[^.]*')
  local event = '\130' .. cmsgpack.pack('run') .. cmsgpack.pack(run) .. cmsgpack.pack('delay_ms') .. cmsgpack.pack(delay)
  redis.call('XADD', P .. 'topic:' .. root, '*', root == id and 'workflow_retry' or 'workflow_retry\0' .. id, event)
  if delay > 0 then
    redis.call('ZADD', P .. 'timers', now + delay, 'p' .. id)
  else
    offer(P, id, e[5], run, e[6], relations)
  end
  return run
end
