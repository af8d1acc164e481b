"""The speed layer: agents and Views over records as they arrive, made durable at Checkpoints."""
