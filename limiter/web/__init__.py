"""The page: what people see and set in a browser. It decides nothing: it asks the Limiter."""
