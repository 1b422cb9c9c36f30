-- #include ending
-- forget: all that is kept of an execution that has ended, but its audit.
local function forget(P, id)
  redis.call('ZREM', P .. 'expiry', id)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'workflow', 'status', 'waits', 'relations')
  if e[1] and e[2] ~= 'queued' and e[2] ~= 'waiting' then
    redis.call('ZREM', P .. 'index:' .. e[2] .. ':' .. e[1], id)
    for _, key in ipairs(e[3] and cmsgpack.unpack(e[3]) or {}) do
      redis.call('UNLINK', P .. 'topic:' .. key .. '/' .. id)
    end
    redis.call('UNLINK', P .. 'exec:' .. id, P .. 'journal:' .. id, P .. 'topic:' .. id, P .. 'below:' .. id,
      P .. 'children:' .. id)
    let_go(P, id, read_relations(e[4]))
  else -- nobody fired until its keys had expired; one with the same id may have begun since
    if not e[1] then redis.call('UNLINK', P .. 'children:' .. id) end
    for _, workflow in ipairs(redis.call('SMEMBERS', P .. 'workflows')) do
      for _, status in ipairs({'completed', 'failed', 'cancelled'}) do
        redis.call('ZREM', P .. 'index:' .. status .. ':' .. workflow, id)
      end
    end
  end
end
