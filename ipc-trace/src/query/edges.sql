SELECT
  touched.host, touched.run_id,
  touched.ipc_ns, touched.ipc_ns_gen, touched.container, touched.pid, touched.start_boot_ns, touched.comm, touched.exe,
  touched.object_kind, touched.object_id, touched.object_name, touched.object_ipc_ns, touched.object_ipc_ns_gen,
  touched.is_foreign,
  object.creator_container AS owner_container, object.creator_pid AS owner_pid, object.creator_comm AS owner_comm,
  touched.calls, touched.failed, touched.first_ns, touched.last_ns
FROM (
  SELECT
    host, run_id, ipc_ns, ipc_ns_gen, container, pid, start_boot_ns, comm, exe,
    object_kind, object_id, object_name, object_ipc_ns, object_ipc_ns_gen, is_foreign,
    count(*) AS calls, count(error) AS failed, min(time_ns) AS first_ns, max(time_ns) AS last_ns
  FROM calls
  WHERE object_id IS NOT NULL OR object_name IS NOT NULL
  GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
) AS touched
LEFT JOIN objects AS object
  ON object.host = touched.host AND object.run_id IS touched.run_id AND object.ipc_ns = touched.object_ipc_ns
  AND object.ipc_ns_gen = touched.object_ipc_ns_gen AND object.object_kind = touched.object_kind
  AND object.object_id IS touched.object_id AND object.object_name IS touched.object_name
