-- #include execution
-- read_roots: the ids of the workflows that a listing is restricted to, as a set; nil where it is not.
local function read_roots(packed)
  if not packed or packed == '' then return nil end
  local roots = {}
  for _, workflow in ipairs(cmsgpack.unpack(packed)) do roots[workflow] = true end
  return roots
end

-- has_root: whether the root of an execution of a workflow is of one of these. One that was forgotten is of none.
local function has_root(P, id, workflow, roots)
  if not roots then return true end
  local root = root_of(id)
  if root ~= id then workflow = redis.call('HGET', P .. 'exec:' .. root, 'workflow') end
  return workflow and roots[workflow] or false
end
