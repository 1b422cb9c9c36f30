-- The field `heartbeats` of an execution: a list of what its steps have reported last: {version, step key, attempt,
-- value (codec), ms}.
local HEARTBEAT_STEP <const> = 2
local HEARTBEAT_VALUE <const> = 4
local HEARTBEAT_AT <const> = 5

-- read_heartbeats: those of a version that this release knows.
local function read_heartbeats(packed)
  local found = {}
  for _, one in ipairs(packed and cmsgpack.unpack(packed) or {}) do
    local version = unpack(one)
    if version == 1 then found[#found + 1] = one end
  end
  return found
end
