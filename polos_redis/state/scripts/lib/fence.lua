-- fence: may this activation write? -1: its entry is not the live one or another activation owns the
-- execution; -2: the journal has lost records it was told of. Otherwise the journal's count of changes, the
-- record under `key` ('' for none) and the fields: status, entry, owner, started and what else was asked for.
local function fence(P, id, entry, owner, known, key, ...)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'owner', 'started', ...)
  if e[1] ~= 'queued' or e[2] ~= entry or (e[3] and e[3] ~= owner) then return -1 end
  local j = redis.call('HMGET', P .. 'journal:' .. id, '', key)
  local n = tonumber(j[1] or 0)
  if n < tonumber(known) then return -2 end
  return n, j[2], e
end

-- claim: the first write of an activation makes it the owner; the first of all sets the start time (that need
-- not be the same one: an activation that was loaded is the owner before its first write).
local function claim(P, id, owner, e, now)
  if e[3] and e[4] then return end
  if e[4] then
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner)
  else
    redis.call('HSET', P .. 'exec:' .. id, 'owner', owner, 'started', now)
  end
end
