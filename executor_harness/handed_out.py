"""Registers the secrets that a program is handed out, before it has them in its hands.

They are the values of the Secrets API and the tokens of other calls that give credentials, whether the SDK,
its dbutils, `requests`, `urllib` or the dbutils of a runtime asks for them; and the bearer tokens that the
program sends. What a process of another interpreter fetches (a command line's, say) is not seen; what a fork
fetches is masked, but `rlm.vars` does not know it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib.abc
import importlib.machinery
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from executor_harness.redaction import names_a_secret

Register = Callable[[str], object]

_SECRETS = re.compile(r"/secrets/get$")
_CREDENTIALS = re.compile(r"/token(/create)?$|credentials?$")
_TOKEN_CHARS = 16  # at least, of a credential in a reply of another kind
_REPLY_BYTES = 1024 * 1024


class HandedOut(importlib.abc.MetaPathFinder):
    """Watches the modules that hand out secrets: those that are loaded, and others when they are imported."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self._replaced: list[tuple[type, str, Any]] = []
        self._watch: dict[str, Callable[[ModuleType], object]] = {
            "requests.sessions": self._requests,
            "urllib.request": self._urllib,
            "dbruntime.dbutils": self._dbutils,
            "pyspark.dbutils": self._dbutils,
        }

    def install(self) -> None:
        """Watch from now on."""
        for name, watch in self._watch.items():
            if name in sys.modules:
                watch(sys.modules[name])
        # A kernel's dbutils is there already, of whatever module it is.
        kernel = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        dbutils = getattr(kernel, "user_ns", {}).get("dbutils")
        self._dbutils_class(type(getattr(dbutils, "secrets", None)))
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Give back what was replaced: for a process that lives on."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._replaced.clear()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module as others find it, watched once it is loaded."""
        watch = self._watch.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if watch else None
        if spec is not None and spec.loader is not None and watch is not None:
            spec.loader = _watched(spec.loader, watch)
        return spec

    def _replace(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        original = vars(owner)[name]
        self._replaced.append((owner, name, original))
        setattr(owner, name, make(original))

    def _requests(self, module: ModuleType) -> None:
        def make(original: Any) -> Any:
            def send(session: Any, request: Any, **options: Any) -> Any:
                self._authorization(request.headers.get("Authorization"))
                response = original(session, request, **options)
                if _hands_out(request.url):
                    self._reply(request.url, response.content)
                return response

            return send

        self._replace(module.Session, "send", make)

    def _urllib(self, module: ModuleType) -> None:
        def make(original: Any) -> Any:
            def open_(opener: Any, request: Any, *arguments: Any, **options: Any) -> Any:
                url = request if isinstance(request, str) else request.full_url
                if not isinstance(request, str):
                    self._authorization(request.get_header("Authorization"))
                response = original(opener, request, *arguments, **options)
                if not _hands_out(url):
                    return response
                content = response.read()
                self._reply(url, content)
                return module.addinfourl(io.BytesIO(content), response.headers, url, response.status)

            return open_

        self._replace(module.OpenerDirector, "open", make)

    def _dbutils(self, module: ModuleType) -> None:
        """The class is known by its methods: where it stands in the module differs between runtimes."""
        for owner in _classes(module, set()):
            if "listScopes" in vars(owner):
                self._dbutils_class(owner)

    def _dbutils_class(self, class_: type) -> None:
        def make(original: Any) -> Any:
            def get(*arguments: Any, **options: Any) -> Any:
                value = original(*arguments, **options)
                self._value(value)
                return value

            return get

        for owner in class_.__mro__:
            for name in {"get", "getBytes"} & set(vars(owner)):
                self._replace(owner, name, make)

    def _authorization(self, header: Any) -> None:
        scheme, _, token = _text(header).partition(" ")
        if scheme.lower() == "bearer" and len(token) >= _TOKEN_CHARS:
            self._register(token)

    def _reply(self, url: str, content: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):  # no JSON: then it hands nothing out
            document = json.loads(content[:_REPLY_BYTES])
            if not _SECRETS.search(urlsplit(url).path):
                for token in _tokens(document):
                    self._register(token)
            elif isinstance(document, dict):
                self._value(document.get("value"))
                self._value(base64.b64decode(_text(document.get("value")), validate=True))

    def _value(self, value: Any) -> None:
        if text := _text(value):
            self._register(text)


def _watched(loader: Any, watch: Callable[[ModuleType], object]) -> Any:
    """A loader that loads a module as its own does, then has it watched."""
    loader = copy.copy(loader)  # that of a zip is shared by all modules in it
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        load(module)
        with contextlib.suppress(AttributeError, KeyError):  # of a version that has no such class
            watch(module)

    loader.exec_module = exec_module
    return loader


def _hands_out(url: str) -> bool:
    path = urlsplit(url).path
    return bool(_SECRETS.search(path) or _CREDENTIALS.search(path))


def _tokens(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if isinstance(value, str) and names_a_secret(name) and len(value) >= _TOKEN_CHARS:
                yield value
            yield from _tokens(value)


def _classes(owner: Any, seen: set[int]) -> Iterator[type]:
    home = getattr(owner, "__module__", owner.__name__)
    for value in list(vars(owner).values()):
        if isinstance(value, type) and value.__module__ == home and id(value) not in seen:
            seen.add(id(value))
            yield value
            yield from _classes(value, seen)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else ""
