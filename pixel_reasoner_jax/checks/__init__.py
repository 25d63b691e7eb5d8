"""What is measured on a checkpoint before it is trained: do rollout and trainer mean the same by a trajectory?"""
