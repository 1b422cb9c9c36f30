-- #include ending
-- #include index
-- forget: remove everything that is kept of an execution that has ended, except its audit. The row of its end goes
-- last: an execution that is forgotten by half is found there again. Returns false, having removed at most what an
-- expired execution has left, when it is not one that has ended in the indexes of this name.
local function forget(P, id, name)
  local workflow, index, status, waits, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'index', 'status', 'waits', 'relations'))
  if not workflow then -- nobody fired until its keys had expired
    redis.call('UNLINK', P .. 'children:' .. id)
    redis.call('SREM', P .. 'descendants:' .. root_of(id), id)
    return false
  end
  if is_live(status) or (index or workflow) ~= name then return false end
  for _, key in ipairs(read_waits(waits)) do
    redis.call('UNLINK', P .. 'topic:' .. key .. '/' .. id)
  end
  redis.call('UNLINK', P .. 'exec:' .. id, P .. 'journal:' .. id, P .. 'topic:' .. id, P .. 'below:' .. id,
    P .. 'children:' .. id)
  let_go(P, id, read_relations(relations))
  redis.call('SREM', P .. 'descendants:' .. root_of(id), id)
  if status ~= 'completed' then unlist(P, status, name, id) end
  unlist(P, 'all', name, id)
  unlist(P, 'ended', name, id)
  drop_name(P, name)
  return true
end

-- unlist_gone: remove the rows of executions that have expired. An execution with the same id may have started since:
-- it stays listed under its own name.
local function unlist_gone(P, ids, name)
  local gone = {}
  for _, id in ipairs(ids) do
    local workflow, index = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'workflow', 'index'))
    if not workflow or (index or workflow) ~= name then gone[#gone + 1] = id end
  end
  redis.call('ZREM', index_of(P, 'failed', name), unpack(ids))
  redis.call('ZREM', index_of(P, 'cancelled', name), unpack(ids))
  if #gone > 0 then redis.call('ZREM', index_of(P, 'all', name), unpack(gone)) end
  redis.call('ZREM', index_of(P, 'ended', name), unpack(ids))
  drop_name(P, name)
end
