-- #include ending
-- #include index
-- forget: remove everything that is kept of an execution that has ended, except its audit. Returns whether its rows in
-- the index are left, since its workflow is not known any more.
local function forget(P, id)
  redis.call('ZREM', P .. 'expiry', id)
  local workflow, status, waits, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'status', 'waits', 'relations'))
  if workflow and not is_live(status) then
    drop_from_index(P, id, workflow, status)
    for _, key in ipairs(read_waits(waits)) do
      redis.call('UNLINK', P .. 'topic:' .. key .. '/' .. id)
    end
    redis.call('UNLINK', P .. 'exec:' .. id, P .. 'journal:' .. id, P .. 'topic:' .. id, P .. 'below:' .. id,
      P .. 'children:' .. id)
    let_go(P, id, read_relations(relations))
    redis.call('SREM', P .. 'descendants:' .. root_of(id), id)
  else -- nobody fired until its keys had expired; an execution with the same id may have started since
    if not workflow then
      redis.call('UNLINK', P .. 'children:' .. id)
      redis.call('SREM', P .. 'descendants:' .. root_of(id), id)
    end
    return true
  end
  return false
end
