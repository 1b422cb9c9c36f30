-- ending: an execution ends, whatever ended it. `e` is HMGET of ENDING_FIELDS; `fields` are written with its
-- status. Closes open waits, takes its entry off the queue, gives every key a TTL, writes the finish event
-- last, after `events`, and tells who registered for the result, which is `value`, kept as `field`.
-- `changes` 0 says that it has no journal.
local ENDING_FIELDS = {'status', 'entry', 'owner', 'started', 'workflow', 'queue', 'created', 'retention', 'waits', 'notify', 'early'}

local function ending(P, id, now, e, status, field, value, event, events, fields, changes)
  local exec, journal = P .. 'exec:' .. id, P .. 'journal:' .. id
  local retention = tonumber(e[8])
  if e[9] then
    for _, key in ipairs(cmsgpack.unpack(e[9])) do
      local packed = redis.call('HGET', journal, key)
      local record = packed and read_record(packed) or {}
      if record[STATUS] == 'open' then
        settle(P, id, key, record, 'closed', now)
      elseif record[STATUS] == 'backoff' then
        end_backoff(P, id, key, record)
      elseif not record[STATUS] then
        redis.call('ZREM', P .. 'suspensions', id .. ' ' .. key)
        redis.call('ZREM', P .. 'timers', 's' .. id .. ' ' .. key, 'b' .. id .. ' ' .. key)
      end
      redis.call('PEXPIRE', P .. 'topic:' .. key .. '/' .. id, retention)
    end
  end
  if e[2] then
    take_off(P, e[6], e[2])
  elseif e[1] == 'queued' then
    redis.call('ZREM', P .. 'timers', 'p' .. id)
  end
  reindex(P, id, e[5], e[7], e[1], status)
  redis.call('HSET', exec, 'status', status, 'finished', now, field, value, unpack(fields))
  redis.call('HDEL', exec, 'entry', 'owner', 'notify', 'attempts', 'progress', 'early')

  local root = string.match(id, '^[^.]*')
  local topic = P .. 'topic:' .. root
  events[#events + 1] = root == id and 'workflow_finish' or 'workflow_finish\0' .. id
  events[#events + 1] = event
  redis.call('XADD', topic, '*', unpack(events))
  local root_status = root ~= id and redis.call('HGET', P .. 'exec:' .. root, 'status')
  if root_status ~= 'queued' and root_status ~= 'waiting' then redis.call('PEXPIRE', topic, retention) end
  if changes ~= 0 then redis.call('PEXPIRE', journal, retention) end
  if e[11] then redis.call('UNLINK', P .. 'early:' .. id) end
  redis.call('PEXPIRE', exec, retention + 60000)
  redis.call('ZADD', P .. 'expiry', now + retention, id)

  if e[10] then
    local inline = #value <= 16384 and value or false
    local notice = cmsgpack.pack({'done', id, status, field, inline})
    for who in string.gmatch(e[10], '%S+') do redis.pcall('SPUBLISH', P .. 'reply:' .. who, notice) end
  end
end
