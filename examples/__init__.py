"""Things to try: PRDs, workers, and a workflow of agents."""
