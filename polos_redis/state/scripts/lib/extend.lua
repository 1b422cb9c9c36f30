-- extend: let a key expire in `ms` from now, unless it expires later. For keys that belong to several executions, or
-- entries, each with a retention of its own.
local function extend(key, ms)
  if redis.call('PEXPIRE', key, ms, 'NX') == 0 then redis.call('PEXPIRE', key, ms, 'GT') end
end
