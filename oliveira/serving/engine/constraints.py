"""The constraints of requests, compiled in a thread of their own: the streams go on, and a request joins them when what
holds its answer is there."""

from __future__ import annotations

import json
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.serving.calls import Function, Syntax, grammar
from oliveira.serving.engine.grammar import JSON_OPTIONS, Compiled, Grammars, checked
from oliveira.serving.engine.request import Request
from oliveira.serving.protocol import Constraint, Generate, Refused

LONGEST_SECONDS = 5.0  # for one constraint; the library's own limits come first
LOOK_SECONDS = 0.02  # at those that are compiled, while nothing else is to do


@dataclass
class _Waiting:
    request: Request
    seed: int
    compiled: Future[Compiled]
    until: float


class Constraints:
    """Asked by the engine's thread alone."""

    def __init__(self, tokenizer: Tokenizer, syntax: Syntax, *, threads: int = 1) -> None:
        self._tokenizer, self.syntax, self._threads = tokenizer, syntax, threads
        self._compiler = ThreadPoolExecutor(1, "constraints")
        self._waiting: list[_Waiting] = []

    @cached_property
    def _grammars(self) -> Grammars:
        """Made with the first constraint: a large vocabulary takes a third of a second."""
        return Grammars(self._tokenizer, threads=self._threads)

    def of(self, message: Generate) -> Constraint | None:
        """What holds the answer. Raises `Refused`."""
        tools, constraint = message.tools, message.constraint
        if constraint is not None and constraint.kind == "lark" and "%json" in constraint.text:
            raise Refused("a grammar with %json in it: give the schema as json instead.", "constraint_unsupported")
        if tools is None:
            return constraint
        content = None
        if constraint is not None and not tools.must:
            if constraint.kind != "json_schema":
                raise Refused("tools beside a regular expression or a grammar: give one of them.", "invalid_value")
            content = constraint
        try:
            functions = [Function(**function) for function in tools.functions]
            schemas = [function.schema for function in functions]
            checked({"anyOf": schemas})  # all together
            text = grammar(
                [replace(function, parameters=checked(function.schema)) for function in functions],
                self.syntax,
                must=tools.must,
                parallel=tools.parallel,
                json_options=JSON_OPTIONS,
                content=checked(json.loads(content.text)) if content else None,
            )
        except UserError as error:
            raise Refused(str(error), "invalid_value") from None
        except (ValueError, RecursionError) as error:
            raise Refused(f"the schemas of these tools are not covered: {error}.", "constraint_unsupported") from None
        return Constraint(kind="lark", text=text)

    def begin(self, request: Request, seed: int, constraint: Constraint) -> None:
        compiled = self._compiler.submit(lambda: self._grammars.compile(constraint))
        self._waiting.append(_Waiting(request, seed, compiled, time.monotonic() + LONGEST_SECONDS))

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def cancel(self, request_id: str) -> None:
        for one in self._waiting:
            if one.request.id == request_id:
                one.compiled.cancel()
        self._waiting = [one for one in self._waiting if one.request.id != request_id]

    def ready(self, *, idle: bool) -> list[tuple[Request, int, Exception | None]]:
        """Requests that may join now, each with its seed, and those that cannot. `idle`: nobody waits for an answer."""
        if not self._waiting:
            return []
        wait([one.compiled for one in self._waiting], LOOK_SECONDS if idle else 0, FIRST_COMPLETED)
        now = time.monotonic()
        out: list[tuple[Request, int, Exception | None]] = []
        left = []
        for one in self._waiting:
            if one.compiled.done():
                found = one.compiled.exception()
                if found is None:
                    one.request.grammar = one.compiled.result()
                elif not isinstance(found, Exception):  # a panic of the library
                    found = RuntimeError(repr(found))
                out.append((one.request, one.seed, found))
            elif now > one.until:
                one.compiled.cancel()
                slow = f"this constraint takes more than {LONGEST_SECONDS:g} s to prepare. Make it simpler."
                out.append((one.request, one.seed, Refused(slow, "constraint_too_costly")))
            else:
                left.append(one)
        self._waiting = left
        return out
