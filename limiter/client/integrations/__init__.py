"""The limiter inside of what calls models: SDKs and frameworks, one module each.

    openai         a transport for the OpenAI SDK's HTTP client
    anthropic      a transport for the Anthropic SDK's HTTP client
    litellm        a callback for LiteLLM, in its proxy and as a library
    pydantic_ai    a model that wraps another
    langchain      a callback handler

Each module imports its package, so it is imported by its own name. They share who pays (`payer`),
what a call may use at most (`bounds`), and what an error costs (`billing`). A denial is raised as
`limiter.client.CallDenied` before the model is asked. Nothing here imports the service.
"""

from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer, paid_by

__all__ = ["Bounds", "Payer", "paid_by"]
