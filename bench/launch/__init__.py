"""From a request to a final plan: data, memory, cost, and the printed explanation."""
