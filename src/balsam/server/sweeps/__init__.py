"""What the service does by timer and not by luck of traffic (L6): each `run_once(store, now)`."""
