-- #include ending
-- #include versions
-- clear_runs: drop what belongs to the runs before the one that an execution has begun with an empty journal: that of
-- before, and what is kept of its waits, which are all decided. The field `continuing` says that this has to be done.
local function clear_runs(P, id, run, retention, waits, workflow, version)
  local exec, root = P .. 'exec:' .. id, root_of(id)
  redis.call('UNLINK', P .. 'journal:' .. id)
  for _, key in ipairs(read_waits(waits)) do
    redis.call('PEXPIRE', P .. 'topic:' .. key .. '/' .. id, retention)
    if root ~= id then redis.call('SREM', P .. 'below:' .. root, id .. ' ' .. key) end
  end
  if version then unlist_version(P, id, workflow, version) end
  local event = '\129' .. cmsgpack.pack('run', tonumber(run)) -- a map of one
  redis.call('XADD', P .. 'topic:' .. root, '*', event_of(id, root, 'workflow_continue'), event)
  redis.call('HDEL', exec, 'continuing', 'started', 'waits', 'version', 'forked', 'attempts', 'progress', 'held_back',
    'answers', 'retried', 'last_error', 'unreached', 'unreached_waits', 'running', 'heartbeats')
end
