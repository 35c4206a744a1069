"""What `helm test` runs in a pod: does a service answer a client as clients reach it?

check.py http URL [HEADER]     the URL answers 200
check.py store                 the object store takes, gives back and forgets an object
"""

import os
import sys
import tempfile
import urllib.request
from uuid import uuid4


def http(url: str, header: str = "") -> None:
    request = urllib.request.Request(url)
    if header:
        name, _, value = header.partition(": ")
        request.add_header(name, os.path.expandvars(value))
    with urllib.request.urlopen(request, timeout=30) as answer:
        sys.stdout.write(f"{url} {answer.status}\n")


def store() -> None:
    from io import BytesIO

    from minio import Minio

    setting = {name.removeprefix("INSTRUCTDIFFUSION_STORE_"): value for name, value in os.environ.items()}
    secure = setting["SECURE"] == "true"
    client = Minio(
        setting["ENDPOINT"], access_key=setting["ACCESS_KEY"], secret_key=setting["SECRET_KEY"], secure=secure
    )
    name, content = f"check/{uuid4()}", b"written by helm test"
    client.put_object(setting["BUCKET"], name, BytesIO(content), len(content))
    answer = client.get_object(setting["BUCKET"], name)
    found = answer.read()
    answer.release_conn()
    client.remove_object(setting["BUCKET"], name)
    if found != content:
        sys.exit("the store gave back other bytes than it took")
    sys.stdout.write(f"{setting['ENDPOINT']} {setting['BUCKET']} ok\n")


def volume(folder: str) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        sys.stdout.write(f"{file.name} ok\n")


if __name__ == "__main__":
    {"http": http, "store": store, "volume": volume}[sys.argv[1]](*sys.argv[2:])
