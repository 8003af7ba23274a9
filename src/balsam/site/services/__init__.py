"""What the agent does for its Site, one module for each duty."""
