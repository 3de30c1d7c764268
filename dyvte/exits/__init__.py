"""Who decides when visual tokens leave: policies, gates, and what a gate sees."""
