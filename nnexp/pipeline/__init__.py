"""Wire the packages above together: plan, train, record, rerun, and look after what is recorded."""
