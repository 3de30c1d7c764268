"""What exits cost and save on a user's own data: answers, scores, FLOPs and time, side by side."""
