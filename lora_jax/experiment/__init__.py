"""What an experiment runs: settings, the schedule of runs, the command line."""
