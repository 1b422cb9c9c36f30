-- #include semaphore
-- wake: a wait of this execution was decided. If it is parked it becomes runnable; if an activation of it
-- lives, that one's worker is told (a notice may be lost: whoever waits re-checks).
local function wake(P, id, key, record)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'owner', 'workflow', 'created', 'run', 'queue', 'input', 'origin', 'relations')
  if e[1] == 'waiting' then
    reindex(P, id, e[3], e[4], 'waiting', 'queued')
    offer(P, id, e[3], e[5], e[6], read_relations(e[9]), inlined_payload(P, id, e[7], e[8], true))
  elseif e[1] == 'queued' and e[2] then
    local worker = string.match(e[2], '^[^:]*')
    redis.pcall('SPUBLISH', P .. 'reply:' .. worker, cmsgpack.pack({'wake', id, key, record}))
  end
end
