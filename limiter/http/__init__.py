"""HTTP, one face of the Limiter: routes, bodies, problems, OpenAPI. It decides nothing."""
