"""The choice of providers: of each fact the first one that this kernel has and takes.

What the kernel's types say is asked at once; what it refuses when it is loaded or attached is told by
`refuse`, and the fact goes on to its next provider.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from tcptrace.acquire.providers import NONE, SCHEDULER, Fact, Hook, Provider, function_of
from tcptrace.errors import HostError

LEFT_OUT = "it was left out on purpose"
_NOT_ASKED_FOR = "another one was asked for"


class Kernel(Protocol):
    """What a kernel says of itself; `kernel.KernelTypes` asks the running one."""

    def tracepoint_arguments(self, tracepoint: str) -> int | None: ...
    def has_function(self, function: str) -> bool: ...
    def has_member(self, struct: str, member: str) -> bool: ...
    def has_kprobes(self) -> bool: ...


class Choice:
    """Which provider each fact has, as far as is known.

    forced: fact -> the only provider it may have, or NONE. Raises HostError where a forced provider or a
    required fact cannot be had.
    """

    def __init__(
        self, facts: Iterable[Fact], kernel: Kernel, forced: Mapping[str, str] | None = None
    ) -> None:
        self.facts = tuple(facts)
        self._forced = dict(forced or {})
        self._arguments: dict[str, int | None] = {}
        self._reasons: dict[tuple[str, str], str] = {}  # (fact, provider) -> why it is not used
        self._absent: set[str] = set()  # programs at functions that this kernel does not have
        self._refused: dict[str, str] = {}  # programs that a provider does without
        self.lost: frozenset[str] = frozenset()  # programs refused that need no function of the kernel
        for fact in self.facts:
            for provider in fact.providers:
                reason = self._absence(provider, kernel)
                if reason:
                    self._reasons[fact.name, provider.name] = reason
                self._absent.update(p for p in provider.also if not kernel.has_function(function_of(p)))
        for fact in self.facts:
            if not self.provider(fact):
                self._insist(fact)

    def copy(self) -> "Choice":
        """A choice to go on with, apart from this one."""
        twin = object.__new__(Choice)
        twin.__dict__.update(self.__dict__)
        twin._reasons, twin._refused = dict(self._reasons), dict(self._refused)
        return twin

    def _absence(self, provider: Provider, kernel: Kernel) -> str | None:
        """Why this kernel cannot have the provider, by its types."""
        kind, target = provider.kind, provider.target
        if kind == "tp_btf":
            arguments = self._arguments[target] = kernel.tracepoint_arguments(target)
            if arguments is None:
                return f"this kernel has no tracepoint {target}"
            if arguments < provider.arguments:
                return f"this kernel's tracepoint {target} does not give the reason"
        elif kind in ("kprobe", "kretprobe") and not kernel.has_kprobes():
            return "this kernel has no kprobes"
        elif kind in ("fentry", "fexit", "kprobe", "kretprobe") and not kernel.has_function(target):
            return f"this kernel has no function {target}"
        elif target == SCHEDULER and not kernel.has_member(*target.split(".")):
            return "this kernel does not count it"
        return None

    def arguments(self, tracepoint: str) -> int:
        """How many the tracepoint passes, 0 when there is none."""
        return self._arguments.get(tracepoint) or 0

    def provider(self, fact: Fact) -> Provider | None:
        """The one in use; None when the fact is left out or no provider is left."""
        wanted = self._forced.get(fact.name)
        for provider in fact.providers:
            if wanted in (None, provider.name) and (fact.name, provider.name) not in self._reasons:
                return provider
        return None

    def used(self) -> dict[str, Provider]:
        """Fact's name -> provider, of the facts that have one."""
        found = {fact.name: self.provider(fact) for fact in self.facts}
        return {name: provider for name, provider in found.items() if provider}

    def programs_of(self, provider: Provider) -> list[str]:
        """In the order in which they are attached."""
        also = [p for p in provider.also if p not in self._absent and p not in self._refused]
        return [*provider.programs, *also]

    def programs(self) -> list[str]:
        """All in the order in which they are attached: transitions last, because a connection seen to close
        before resets are would be given a wrong reason."""
        used = self.used()
        return [
            p for fact in reversed(self.facts) if fact.name in used for p in self.programs_of(used[fact.name])
        ]

    def refuse(self, program: str, reason: str) -> bool:
        """Goes on without a program that the kernel refuses. False when it is none in use.

        Raises HostError where a forced provider or a required fact is lost with it.
        """
        known = False
        for fact in self.facts:
            provider = self.provider(fact)
            if provider and program in provider.programs:
                if provider.kind in ("tp_btf", "iter"):
                    self.lost |= {program}
                self.refuse_provider(fact, provider, reason)
                known = True
            elif provider and program in self.programs_of(provider):
                self._refused[program] = reason
                known = True
        return known

    def refuse_provider(self, fact: Fact, provider: Provider, reason: str) -> None:
        """The same for a whole provider."""
        self._reasons[fact.name, provider.name] = reason
        if not self.provider(fact):
            self._insist(fact)

    def _insist(self, fact: Fact) -> None:
        wanted = self._forced.get(fact.name)
        if wanted and wanted != NONE:
            raise HostError(f"--provider '{fact.name}={wanted}': {self._reasons[fact.name, wanted]}")
        if fact.required:
            raise HostError(f"{fact.name}: {self._why_none(fact)}, so {fact.consequence}")

    def hooks(self) -> list[Hook]:
        """What became of each fact, in the order of the facts."""
        return [self._hook(fact) for fact in self.facts]

    def _hook(self, fact: Fact) -> Hook:
        used = self.provider(fact)
        listed = tuple((provider, self._why_not(fact, provider, used)) for provider in fact.providers)
        if used is None:
            return Hook(fact.name, None, False, f"{self._why_none(fact)}, so {fact.consequence}", listed)
        return Hook(fact.name, used.name, used.exact, self._remarks(fact, used) or None, listed)

    def _why_not(self, fact: Fact, provider: Provider, used: Provider | None) -> str | None:
        """None for the one in use and for those that were not needed."""
        reason = self._reasons.get((fact.name, provider.name))
        if reason or provider is used:
            return reason
        wanted = self._forced.get(fact.name)
        return {None: None, NONE: LEFT_OUT}.get(wanted, _NOT_ASKED_FOR)

    def _why_none(self, fact: Fact) -> str:
        if self._forced.get(fact.name) == NONE:
            return LEFT_OUT
        return "; ".join(self._reasons_of(fact, fact.providers))

    def _reasons_of(self, fact: Fact, providers: Iterable[Provider]) -> list[str]:
        """Each reason once; those that do not name their provider after its name, where there are several."""
        found: list[str] = []
        for provider in providers:
            reason = self._reasons[fact.name, provider.name]
            plain = reason.startswith("this kernel") or len(fact.providers) == 1
            found.append(reason if plain else f"{provider.name}: {reason}")
        return list(dict.fromkeys(found))

    def _remarks(self, fact: Fact, used: Provider) -> str:
        """What makes it less than the best: an estimate, a part missing, the better ones' absence."""
        found = []
        if used.estimate:
            found.append(f"estimated: {used.estimate}")
        if self.arguments(used.target) < used.all_arguments:
            found.append(used.limitation)
        found += [
            f"sendfile() and splice() are not seen: {reason}"
            for program, reason in self._refused.items()
            if program in used.also
        ]
        better = fact.providers[: fact.providers.index(used)]
        if better and fact.name not in self._forced:
            found += self._reasons_of(fact, better)
        elif better:
            found.append("it was asked for")
        return "; ".join(found)
