-- #include semaphore
-- #include notify
-- #include resolve
-- wake: resolve an open wait and wake its execution. If it is parked, it becomes runnable; if an activation of it
-- lives, its worker is notified.
local function wake(P, id, key, record, decision)
  local packed = resolve(P, id, key, record, decision)
  local status, owner, workflow, created, run, queue, input, origin, relations = unpack(redis.call('HMGET',
    P .. 'exec:' .. id, 'status', 'owner', 'workflow', 'created', 'run', 'queue', 'input', 'origin', 'relations'))
  if status == 'waiting' then
    reindex(P, id, workflow, created, 'waiting', 'queued')
    offer(P, id, workflow, run, queue, read_relations(relations), inlined_payload(P, id, input, origin, true))
  elseif status == 'queued' and owner then
    notify(P, string.match(owner, '^[^:]*'), {'wake', id, key, packed}) -- the owner is '<worker>:<number>'
  end
end
