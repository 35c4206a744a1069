"""The object store: files and folders by `s3://bucket/name`, checked on the way in and out.

A folder is complete when its list of files (`.files.json`, written last) is there: an upload that was
interrupted is not taken for whole, and the next try sends only what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from instructdiffusion.components.settings import Settings
from instructdiffusion.model.addresses import S3, parted
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError
from instructdiffusion.model.files import alone, digest_of, put_in_place

if TYPE_CHECKING:
    from minio import Minio

log = logging.getLogger(__name__)

FILES = ".files.json"
AT_ONCE = 8  # files that are sent, or fetched, at the same time
PIECE = 2**20  # bytes of a download that are written at once
SHA = "x-amz-meta-sha256"  # the digest travels with the object: an etag is none for files sent in parts
KEYS = "INSTRUCTDIFFUSION_STORE_ACCESS_KEY and INSTRUCTDIFFUSION_STORE_SECRET_KEY"
REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidAccessKey",
    "AuthorizationHeaderMalformed",
}
MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "ResourceNotFound"}
FULL = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}

Sent = Callable[[int, int], None]  # told the bytes done and the bytes in all


class Unanswered(ServiceError):
    """The store is down, or too busy: it may answer later."""


class Store:
    """One bucket of an S3-compatible store."""

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        *,
        secure: bool = False,
        timeout: float = 60,
    ) -> None:
        """Connect lazily: nothing is sent until the first call.

        Args:
            endpoint: host:port.
            access_key, secret_key: credentials.
            bucket: the one bucket that is used.
            secure: TLS or not.
            timeout: seconds without a byte before an answer is given up.
        """
        import urllib3
        from minio import Minio

        retries = urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
        pool = urllib3.PoolManager(
            maxsize=AT_ONCE,
            timeout=urllib3.Timeout(connect=5, read=timeout),
            retries=retries,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE"),
        )
        self.endpoint, self.bucket = endpoint, bucket
        try:
            self._client: Minio = Minio(
                endpoint, access_key=access_key, secret_key=secret_key, secure=secure, http_client=pool
            )
        except ValueError as error:
            raise ConfigError(f"INSTRUCTDIFFUSION_STORE_ENDPOINT={endpoint}: {error}; write host:port") from error

    @classmethod
    def open(cls, settings: Settings) -> Store:
        """The store that the settings name.

        Raises:
            ConfigError: they name none.
        """
        secret = settings.store_secret_key.get_secret_value()
        if not (settings.store_endpoint and settings.store_access_key and secret):
            raise ConfigError(f"no object store is set; set INSTRUCTDIFFUSION_STORE_ENDPOINT, {KEYS}")
        return cls(
            settings.store_endpoint,
            settings.store_access_key,
            secret,
            settings.store_bucket,
            secure=settings.store_secure,
        )

    def uri(self, name: str) -> str:
        """`s3://bucket/name`."""
        return f"s3://{self.bucket}/{name}"

    def ensure_bucket(self) -> None:
        """Make the bucket if it is not there."""
        with self._explained(self.uri("")):
            if not self._client.bucket_exists(self.bucket):
                self._client.make_bucket(self.bucket)

    def exists(self, uri: str) -> bool:
        """Whether a file, or a folder that was uploaded to its end, is there."""
        name = self._name(uri)
        return self._stat(name) is not None or self._stat(f"{name}/{FILES}") is not None

    def put_file(self, path: Path, name: str) -> str:
        """Upload one file unless the same bytes are there already; returns its URI."""
        if not path.is_file():
            raise DataError(f"{path} is not a file; nothing to upload")
        digest = digest_of(path)
        there = self._stat(name)
        if there is None or (there.size, _sha(there)) != (path.stat().st_size, digest):
            with self._explained(self.uri(name)):
                self._client.fput_object(self.bucket, name, str(path), metadata={SHA: digest})
        return self.uri(name)

    def get_file(self, uri: str, path: Path) -> Path:
        """Download one file to `path`, whole and checked, or not at all.

        Raises:
            ServiceError: it is not there, or the store does not answer.
            DataError: the bytes are not those that were uploaded.
        """
        name = self._name(uri)
        there = self._stat(name)
        if there is None:
            raise ServiceError(self._reason("NoSuchKey", uri))
        if path.is_file() and digest_of(path) == _sha(there):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            self._download(name, part, _sha(there))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def append(self, uri: str, path: Path) -> None:
        """Download what a file lacks at its end; what had come before an outage stays.

        Raises:
            Unanswered: the store is down, or went away meanwhile.
            ServiceError: the file is not there.
        """
        name = self._name(uri)
        there = self._stat(name)
        if there is None:
            raise ServiceError(self._reason("NoSuchKey", uri))
        with path.open("ab") as file, self._explained(uri):
            if file.tell() >= there.size:
                return
            answer = self._client.get_object(self.bucket, name, offset=file.tell())
            try:
                for piece in answer.stream(PIECE):
                    file.write(piece)
            finally:
                answer.close()
                answer.release_conn()

    def put_directory(self, path: Path, name: str, *, by_content: bool = False, sent: Sent | None = None) -> str:
        """Upload a folder; returns `s3://bucket/name`, or `s3://bucket/name/sha256-...` if named by content.

        Hidden files stay behind. Objects that are there with the same bytes are not sent again: a broken off
        upload goes on where it stopped, and a complete one is not repeated.

        Raises:
            DataError: the folder is missing or empty.
            ServiceError: the store did not take it; call again to go on.
        """
        listing = _listing(path)
        if by_content:
            name = f"{name}/{digest_of(path).replace(':', '-')}"
        known = self._files(name)
        if known == listing:
            return self.uri(name)
        if known is not None:  # what changes is not complete until it is whole again
            with self._explained(self.uri(name)):
                self._client.remove_object(self.bucket, f"{name}/{FILES}")
        total, done = sum(size for size, _ in listing.values()), 0

        def count(relative: str) -> None:
            nonlocal done
            done += listing[relative][0]
            if sent is not None:
                sent(done, total)

        _side_by_side(lambda relative: self.put_file(path / relative, f"{name}/{relative}"), listing, count)
        text = json.dumps({r: {"size": s, "sha256": d} for r, (s, d) in listing.items()}, indent=1).encode()
        with self._explained(self.uri(name)):
            self._client.put_object(
                self.bucket, f"{name}/{FILES}", io.BytesIO(text), len(text), content_type="application/json"
            )
        return self.uri(name)

    def get(self, uri: str, path: Path) -> Path:
        """Download a file, or a folder that was uploaded to its end, to `path`; see `get_file` and `get_directory`."""
        folder = self._stat(f"{self._name(uri)}/{FILES}") is not None
        return self.get_directory(uri, path) if folder else self.get_file(uri, path)

    def get_directory(self, uri: str, path: Path) -> Path:
        """Download a folder to `path`, whole and checked, or not at all; one with the same content is kept.

        What came before an outage stays beside it, and the next call fetches the rest. Of several processes that
        want the same one fetches, the others wait.

        Raises:
            ServiceError: it is not there or not complete, or the store does not answer.
            DataError: a file's bytes are not those that were uploaded.
        """
        name = self._name(uri)
        listing = self._files(name)
        if listing is None:
            raise ServiceError(f"{uri} is not in the store at {self.endpoint}, or not whole; upload it again")
        for relative in listing:
            _safe(relative, uri)
        with self._explained(uri), alone(path.with_name(f".{path.name}.lock")):
            if path.is_dir() and _listing(path, empty=True) == listing:
                return path
            part = path.with_name(f".{path.name}.part")
            part.mkdir(exist_ok=True)
            _side_by_side(lambda r: self._complete(f"{name}/{r}", part / r, *listing[r]), listing)
            for file in [file for file in part.rglob("*") if file.is_file()]:
                if file.relative_to(part).as_posix() not in listing:  # of an earlier version of the folder
                    file.unlink()
            return put_in_place(part, path)

    def _complete(self, name: str, path: Path, size: int, digest: str) -> None:
        """Download a file of a folder unless its bytes are there."""
        if path.is_file() and path.stat().st_size == size and digest_of(path) == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._download(name, path, digest)

    def keep_only(self, name: str, kept: Collection[str]) -> None:
        """Remove all that lies under a name but the files and folders called as `kept` says.

        A folder's list of files goes first: one whose removal was interrupted is not taken for whole.
        """
        with self._explained(self.uri(name)):
            found = self._client.list_objects(self.bucket, prefix=f"{name}/", recursive=True)
            names = [str(one.object_name) for one in found]
            gone = [n for n in names if n.removeprefix(f"{name}/").partition("/")[0] not in kept]
            for one in sorted(gone, key=lambda n: not n.endswith(f"/{FILES}")):
                self._client.remove_object(self.bucket, one)

    def _download(self, name: str, path: Path, digest: str) -> None:
        with self._explained(self.uri(name)):
            self._client.fget_object(self.bucket, name, str(path))
        if digest and digest_of(path) != digest:
            raise DataError(f"{self.uri(name)} is damaged: its bytes are not those uploaded; upload it again")

    def _stat(self, name: str) -> Any | None:
        from minio.error import S3Error

        with self._explained(self.uri(name)):
            try:
                return self._client.stat_object(self.bucket, name)
            except S3Error as error:
                if error.code in {"NoSuchKey", "ResourceNotFound"}:
                    return None
                raise

    def _files(self, name: str) -> dict[str, tuple[int, str]] | None:
        """The list of a complete folder: (bytes, digest) by relative name."""
        if self._stat(f"{name}/{FILES}") is None:
            return None
        with self._explained(self.uri(name)):
            answer = self._client.get_object(self.bucket, f"{name}/{FILES}")
            try:
                text = answer.read()
            finally:
                answer.close()
                answer.release_conn()
        try:
            return {r: (int(entry["size"]), str(entry["sha256"])) for r, entry in json.loads(text).items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self.uri(name)}/{FILES} is damaged; upload the folder again") from error

    def _name(self, uri: str) -> str:
        prefix = self.uri("")
        if not uri.startswith(prefix) or uri == prefix:
            raise ConfigError(f"{uri} is not in this store; write {prefix}NAME or set INSTRUCTDIFFUSION_STORE_BUCKET")
        return uri.removeprefix(prefix).rstrip("/")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what the client raises into one line; its own text is left out: it may quote a signature."""
        import urllib3
        from minio.error import MinioException, S3Error

        try:
            yield
        except InstructDiffusionError:
            raise
        except S3Error as error:
            code = error.code or "unknown error"
            kind = ServiceError if code in REFUSED | MISSING | FULL else Unanswered
            raise kind(self._reason(code, what)) from None
        except (MinioException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            reason = type(getattr(error, "reason", None) or error).__name__
            raise Unanswered(
                f"no usable answer from the object store at {self.endpoint} ({reason}) for {what}; "
                "start it, or set INSTRUCTDIFFUSION_STORE_ENDPOINT"
            ) from None
        except OSError as error:
            raise DataError(f"can't read or write a local copy of {what}: {error.strerror}; free space?") from error

    def _reason(self, code: str, what: str) -> str:
        if code in REFUSED:
            return f"the object store at {self.endpoint} refused the credentials ({code}); check {KEYS}"
        if code == "NoSuchBucket":
            return (
                f"the object store at {self.endpoint} has no bucket {self.bucket}; "
                "make it or set INSTRUCTDIFFUSION_STORE_BUCKET"
            )
        if code in MISSING:
            return f"{what} is not in the store at {self.endpoint}; upload it or correct the address"
        if code in FULL:
            return f"the object store at {self.endpoint} is full; free space there for {what}"
        return f"the object store at {self.endpoint} answered {code} for {what}; try again or see its log"


def _side_by_side(
    work: Callable[[str], object], names: Iterable[str], finished: Callable[[str], None] = lambda name: None
) -> None:
    """`work` of each name, several at a time; `finished` is told of each that is done."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(work, name): name for name in names}
        try:
            for done in as_completed(running):
                done.result()
                finished(running[done])
        finally:  # after a failure the rest would only fail one by one
            pool.shutdown(cancel_futures=True)


def _listing(path: Path, *, empty: bool = False) -> dict[str, tuple[int, str]]:
    """(bytes, digest) of every file that is not hidden, by name relative to the folder, sorted."""
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; nothing to upload")
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files and not empty:
        raise DataError(f"{path} is empty; nothing to upload")
    return {p.relative_to(path).as_posix(): (p.stat().st_size, digest_of(p)) for p in files}


def _sha(stat: Any) -> str:
    return str((stat.metadata or {}).get(SHA, ""))


def _safe(relative: str, uri: str) -> str:
    """A name that stays inside the folder it is put in."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{uri} lists the file {relative}, which lies outside its folder; upload it again")
    return relative


def located(address: str, copies: Path, store: Store | None) -> str:
    """The same address on this machine: a file or folder of the store is downloaded below `copies`, unless it is there.

    Raises:
        ConfigError: it is in a store and none is set.
        ServiceError: it is not there, or the store does not answer.
    """
    kind, place = parted(address)
    if not place.startswith(S3):
        return address
    folder = copies / hashlib.sha256(place.encode()).hexdigest()[:12]  # one copy for all that work here
    with alone(folder / ".lock"):
        return f"{kind}{needed(store, place).get(place, folder / place.rstrip('/').rpartition('/')[2])}"


def needed(store: Store | None, address: str) -> Store:
    """The store that an address asks for.

    Raises:
        ConfigError: none is set.
    """
    if store is None:
        raise ConfigError(f"{address} is in an object store and none is set; set INSTRUCTDIFFUSION_STORE_ENDPOINT")
    return store
