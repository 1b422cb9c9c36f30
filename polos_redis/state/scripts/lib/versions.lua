-- #include index
-- The version of the code that has started an execution is its field `version`, if its workflow has one. Until its end
-- the execution is in the index `version` of the name <workflow> NUL <version>; `versions` has the names of these.
local function list_version(P, id, workflow, version, created)
  local name = workflow .. '\0' .. version
  local added = redis.call('ZADD', index_of(P, 'version', name), created, id)
  return added + redis.call('SADD', P .. 'versions', name) > 0
end

local function unlist_version(P, id, workflow, version)
  local name = workflow .. '\0' .. version
  local rows = index_of(P, 'version', name)
  local others = redis.call('ZCARD', rows) - (redis.call('ZSCORE', rows, id) and 1 or 0)
  if others == 0 then redis.call('SREM', P .. 'versions', name) end -- first: repair finds rows, and not names
  unlist(P, 'version', name, id)
end
