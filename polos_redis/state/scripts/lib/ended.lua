-- #include clock
-- #include index
-- #include notify
-- What the end of an execution and its next run need to know of it, by the positions in execution.lua.
local ENDING_FIELDS = {'status', 'entry', 'owner', 'started', 'stream', 'workflow', 'queue', 'created', 'retention',
  'waits', 'notify', 'early', 'relations', 'answers', 'index', 'version'}

-- keep: keep an execution that has ended for its retention, in ms. The TTL is the safety net below the index.
local function keep(P, id, name, retention)
  redis.call('PEXPIRE', P .. 'exec:' .. id, retention + 60000)
  list(P, 'ended', name, now + retention, id)
end

-- notify_of_end: notify the clients that await the result.
local function notify_of_end(P, id, clients, status, field, value)
  local notice = {'done', id, status, field, #value <= 16384 and value or false}
  for who in string.gmatch(clients, '%S+') do notify(P, who, notice) end
end
