-- #include execution
-- may_write: what is read of an execution, by the positions in execution.lua, if this activation may write: its entry
-- has to be the live one, and no other activation the owner.
local function may_write(P, id, entry, owner, ...)
  local is = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'owner', 'started', 'stream', ...)
  local owned = is[EXEC_OWNER]
  if is[EXEC_STATUS] == 'queued' and is[EXEC_ENTRY] == entry and (not owned or owned == owner) then return is end
end

-- fence: check that this activation may write. Returns -1 when its entry is not the live one or another activation owns
-- the execution, -2 when the journal has lost records that the activation knows of. Otherwise returns the journal's
-- count of changes, the record under `key` ('' for none), and the execution's fields by the positions in execution.lua.
local function fence(P, id, entry, owner, known, key, ...)
  local is = may_write(P, id, entry, owner, ...)
  if not is then return -1 end
  local count, record = 0, false
  if is[EXEC_STARTED] then -- else nothing was journaled
    count, record = unpack(redis.call('HMGET', P .. 'journal:' .. id, '', key))
    count = tonumber(count or 0)
  end
  if count < tonumber(known) then return -2 end
  return count, record, is
end

-- unseen: whether answers were accepted since the execution was queued that its activation has not seen. The field
-- `answers` counts them, see wake.lua.
local function unseen(answers, seen)
  return tonumber(answers or 0) > tonumber(seen)
end

-- claim: make an activation the owner with its first write, and set the start time with the first write of all. These
-- can differ: an activation that has loaded is the owner before its first write.
local function claim(P, id, owner, is, now)
  if is[EXEC_OWNER] and is[EXEC_STARTED] then return end
  if is[EXEC_STARTED] then
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner)
  else
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner, 'started', now)
  end
end
