"""One account's session on Label Studio, as a browser has it; and what goes wrong between it and us, in one line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from instructdiffusion.model.errors import ConfigError, InstructDiffusionError, ServiceError

if TYPE_CHECKING:
    import httpx

ADDRESS = "INSTRUCTDIFFUSION_LABEL_URL"
TOKEN = "INSTRUCTDIFFUSION_LABEL_TOKEN"
TRIES = 6  # on SQLite a request fails (500, "database is locked") while others write


class Session:
    """What a person does with a browser: sign up with an invitation, log in, submit answers."""

    def __init__(self, url: str, timeout: float = 120) -> None:
        """Open a session of nobody yet."""
        import httpx

        self.url = url
        hooks = {"response": [self._keep]}
        self._browser = httpx.Client(base_url=url, timeout=timeout, event_hooks=hooks)

    def join(self, invitation: str, email: str, password: str) -> None:
        """Log in; an account that is not there yet is made with the invitation.

        Raises:
            ServiceError: it is there with another password, or the server takes no accounts.
        """
        with explained(self.url):
            if not any(self._enter(page, email, password) for page in ("/user/login/", invitation)):
                raise ServiceError(
                    f"Label Studio at {self.url} lets {email} neither in nor sign up; delete that account there"
                )

    def submit(self, task: int, result: Sequence[Any], name: str, seconds: float = 1.0) -> None:
        """Submit an answer to a task; a second one of the same name changes nothing."""
        body = {"result": result, "lead_time": seconds, "unique_id": str(uuid.uuid5(uuid.NAMESPACE_URL, name))}
        with explained(self.url):
            answer = self._post(f"/api/tasks/{task}/annotations/", json=body)
        if answer.status_code not in (201, 409):  # 409: one of that name is there
            raise ServiceError(f"Label Studio at {self.url} took no answer to task {task} ({answer.status_code})")

    def close(self) -> None:
        """Drop the connections."""
        self._browser.close()

    def _keep(self, _: httpx.Response) -> None:
        """Send cookies back over http too: a server whose public address is https reserves them for that."""
        for cookie in self._browser.cookies.jar:
            cookie.secure = False

    def _enter(self, page: str, email: str, password: str) -> bool:
        self._browser.get(page).raise_for_status()
        form = {"email": email, "password": password, "csrfmiddlewaretoken": self._browser.cookies.get("csrftoken")}
        return self._post(page, data=form).status_code == 302  # the form again: refused

    def _post(self, path: str, **body: Any) -> httpx.Response:
        """Send something that may come twice, and again where it met a database that others wrote to."""
        import httpx
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        tries = Retrying(
            retry=retry_if_exception_type(httpx.HTTPStatusError),
            stop=stop_after_attempt(TRIES),
            wait=wait_random_exponential(max=5),
            reraise=True,
        )
        return tries(self._posted, path, **body)

    def _posted(self, path: str, **body: Any) -> httpx.Response:
        answer = self._browser.post(path, **body)
        return answer.raise_for_status() if answer.is_server_error else answer


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what the clients raise into one line; their own text is left out: it may hold a token."""
    import httpx
    from label_studio_sdk.core.api_error import ApiError

    try:
        yield
    except InstructDiffusionError:
        raise
    except ApiError as error:
        raise _reason(url, error.status_code or 0, error.body) from None
    except httpx.HTTPStatusError as error:
        raise _reason(url, error.response.status_code, "") from None
    except httpx.TransportError as error:
        raise ServiceError(
            f"no usable answer from Label Studio at {url} ({type(error).__name__}); "
            f"start it (make label-studio), or set {ADDRESS}"
        ) from None
    except httpx.InvalidURL:
        raise ConfigError(f"{ADDRESS}={url} is no address; write it as http://host:port") from None


def _reason(url: str, status: int, body: Any) -> InstructDiffusionError:
    if status in (401, 403):
        return ConfigError(
            f"Label Studio at {url} refused the token ({status}); set {TOKEN} to the access token of an account there"
        )
    if status < 400:
        return ServiceError(f"what answers at {url} is no Label Studio; set {ADDRESS}")
    if status == 404:
        return ServiceError(
            f"Label Studio at {url} no longer has what was asked for (404): deleted meanwhile? Run the command again"
        )
    detail = body.get("validation_errors") or body.get("detail") if isinstance(body, dict) else ""
    told = " ".join(str(detail).split())[:200]
    return ServiceError(f"Label Studio at {url} answered {status} {told}".rstrip() + "; try again, or see its log")
