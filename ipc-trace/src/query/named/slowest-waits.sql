-- Something was slow: which calls waited longest in the kernel, for which object?
-- param limit=20: how many
SELECT
  time, duration_ns / 1000000.0 AS duration_ms, host, container, pid, tid, comm, op, error,
  object_kind, object_id, object_name
FROM calls
WHERE duration_ns IS NOT NULL
ORDER BY duration_ns DESC
LIMIT :limit
