"""Decodes video files in child processes: `pool` hands them out, `worker` is what they run, `reader` decodes."""
