"""Running texts under a policy: one text, batches, times, operations, costs."""
