"""What every task trains with: loop, optimiser groups, schedules, averages, distribution, checkpoints."""
