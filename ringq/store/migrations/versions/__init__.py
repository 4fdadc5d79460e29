"""Store: one module per released schema, never changed once released."""
