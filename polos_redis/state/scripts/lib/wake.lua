-- #include semaphore
-- #include notify
-- #include resolve
-- wake: resolve an open wait and wake its execution. If it is parked, it becomes runnable; if an activation of it
-- lives, its worker is notified. If it is queued, the field `answers` counts an answer, so that the activation can't
-- leave without having seen it.
local function wake(P, id, key, record, decision)
  local packed = resolve(P, id, key, record, decision)
  local status, owner, workflow, index, created, run, queue, input, origin, relations = unpack(redis.call('HMGET',
    P .. 'exec:' .. id, 'status', 'owner', 'workflow', 'index', 'created', 'run', 'queue', 'input', 'origin',
    'relations'))
  if status == 'waiting' then
    local name = index or workflow
    offer(P, id, name, created, workflow, run, queue, read_relations(relations),
      inlined_payload(P, id, input, origin, true))
    unlist(P, 'waiting', name, id)
  elseif status == 'queued' then
    local answers = decision == 'answered' and redis.call('HINCRBY', P .. 'exec:' .. id, 'answers', 1) or nil
    if owner then -- '<worker>:<number>'
      notify(P, string.match(owner, '^[^:]*'), {'wake', id, key, packed, answers})
    end
  end
end
