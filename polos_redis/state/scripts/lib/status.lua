-- The words for statuses that people see are more than those that are stored: a queued execution is running once a
-- worker has its entry, and a stuck one whose reason is of this kind is paused.
local PAUSED = 'exhausted'

-- worker_of: the worker that has the entry of a queued execution: the owner's, or that of whoever has read it.
local function worker_of(P, queue, entry, owner)
  if owner then return string.match(owner, '^[^:]*') end
  if not entry then return nil end
  local pending = redis.pcall('XPENDING', P .. 'queue:' .. (queue or 'default'), 'workers', entry, entry, 1)
  local delivery = unpack(pending) -- nothing of an error: there is no group yet
  local _, consumer = unpack(delivery or {})
  return consumer
end

-- last_delivered: the last entry of a queue that was delivered to a worker, of those it has or has had.
local function last_delivered(key)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  local group = unpack(groups)
  for i = 1, #(group or {}), 2 do if group[i] == 'last-delivered-id' then return group[i + 1] end end
  return '0-0'
end

-- is_paused: whether the stored reason of a stuck execution is that it has failed. One that is damaged is not.
local function is_paused(reason)
  local whole, found = pcall(cmsgpack.unpack, reason or '')
  return whole and type(found) == 'table' and found.kind == PAUSED
end

-- word_for: the word for an execution's status.
local function word_for(P, status, queue, entry, owner, reason)
  if status == 'queued' and worker_of(P, queue, entry, owner) then return 'running' end
  if status == 'stuck' and is_paused(reason) then return 'paused' end
  return status
end
