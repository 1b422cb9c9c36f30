-- fence: may this activation write? -1: its entry is not the live one or another activation owns the
-- execution; -2: the journal has lost records it was told of. Otherwise the journal's count of changes, and
-- the fields: status, entry, owner, started and what else was asked for.
local function fence(P, id, entry, owner, known, ...)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'owner', 'started', ...)
  if e[1] ~= 'queued' or e[2] ~= entry or (e[3] and e[3] ~= owner) then return -1 end
  local n = tonumber(redis.call('HGET', P .. 'journal:' .. id, '') or 0)
  if n < tonumber(known) then return -2 end
  return n, e
end

-- claim: the first write of an activation makes it the owner; the first of all sets the start time.
local function claim(P, id, owner, e, now)
  if e[3] then return end
  if e[4] then
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner)
  else
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner, 'started', now)
  end
end
