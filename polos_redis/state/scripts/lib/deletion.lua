-- #include ending
-- forget: remove everything that is kept of an execution that has ended, except its audit.
local function forget(P, id)
  redis.call('ZREM', P .. 'expiry', id)
  local workflow, status, waits, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'status', 'waits', 'relations'))
  if workflow and not is_live(status) then
    redis.call('ZREM', P .. 'index:' .. status .. ':' .. workflow, id)
    for _, key in ipairs(read_waits(waits)) do
      redis.call('UNLINK', P .. 'topic:' .. key .. '/' .. id)
    end
    redis.call('UNLINK', P .. 'exec:' .. id, P .. 'journal:' .. id, P .. 'topic:' .. id, P .. 'below:' .. id,
      P .. 'children:' .. id)
    let_go(P, id, read_relations(relations))
  else -- nobody fired until its keys had expired; an execution with the same id may have started since
    if not workflow then redis.call('UNLINK', P .. 'children:' .. id) end
    for _, other in ipairs(redis.call('SMEMBERS', P .. 'workflows')) do
      for _, ended in ipairs({'completed', 'failed', 'cancelled'}) do
        redis.call('ZREM', P .. 'index:' .. ended .. ':' .. other, id)
      end
    end
  end
end
