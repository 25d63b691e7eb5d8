"""What the server answers where it does not answer a request, in the form of OpenAI's errors."""

from __future__ import annotations

from typing import Any

RETRY_SECONDS = 2  # what a client that is turned away is told to wait


class ApiError(Exception):
    """A request that is refused, or has failed.

    Attributes:
      status: of HTTP.
      message: what is wrong and what to do; nothing in it that the client did not send or may not know.
      param: the part of the request that it is about.
      code: a word for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that is wrong in itself."""
    return ApiError(400, message, param, code)
