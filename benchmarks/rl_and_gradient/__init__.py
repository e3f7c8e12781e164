"""Where reinforcement learning finds what the exact gradient finds, and where neither does."""
