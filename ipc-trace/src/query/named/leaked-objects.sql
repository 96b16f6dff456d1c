-- A limit is reached, or memory is short: which objects were left behind, and who left them?
SELECT
  host, ipc_ns, object_kind, object_id, object_key, object_name, size, created,
  creator_container, creator_comm, creator_pid, last_comm, last_pid, last_used
FROM objects
WHERE is_leaked AND destroyed IS NULL
ORDER BY size DESC, created_ns
