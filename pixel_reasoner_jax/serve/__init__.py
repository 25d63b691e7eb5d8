"""A server of chat completions in OpenAI's form, with the operations inside, and a page to talk to its models."""
