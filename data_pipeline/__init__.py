"""From seeds to stored trajectories to the batches a trainer reads."""
