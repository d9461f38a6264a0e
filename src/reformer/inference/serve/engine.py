"""The thread in which the model runs: reads prompts piece by piece, and takes a step of all answers in between."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from transformers.utils import logging

from reformer.data.tokenizer import Tokenizer
from reformer.errors import InputError
from reformer.inference.evaluate import evaluating
from reformer.inference.generate import few_threads, unwanted_tokens
from reformer.inference.serve.answer import Answer
from reformer.inference.serve.job import Begun, Failed, Job
from reformer.inference.serve.prefixes import Prefixes, Tokens
from reformer.models import ReformerForCausalLM
from reformer.models.cache import ReformerCache, why_not_cached
from reformer.models.cache_copy import FrozenCache
from reformer.models.cache_rows import CacheRows

PIECE, SHORT_PIECE = 8192, 512
"""Tokens of a prompt that are read at a time: when no answer waits for a step, and when some do."""

logger = logging.get_logger(__name__)


class Full(Exception):
    """No more requests can wait."""


@dataclass
class Counts:
    """What was done so far."""

    prompt_tokens: int = 0
    known_tokens: int = 0
    """Of these, those that were known before."""
    new_tokens: int = 0
    steps: int = 0
    failures: int = 0
    answered: int = 0
    cancelled: int = 0


class Engine:
    """Runs jobs, `rows` answers at a time, each step for all of them; a prompt goes on behind a known beginning.

    Answers are what `generate` gives with the same seed. Raises InputError for a model that has no cache.
    """

    def __init__(
        self, model: ReformerForCausalLM, tokenizer: Tokenizer, prefixes: Prefixes, *, rows: int, queue: int
    ) -> None:
        if reason := why_not_cached(model.config.settings):
            raise InputError(f"this model has no cache ({reason}), and a server without one computes all text again")
        self.model, self.tokenizer, self.prefixes = model, tokenizer, prefixes
        self.rows, self.queue, self.counts = rows, queue, Counts()
        self.unwanted = unwanted_tokens(model, tokenizer)
        self.waiting: deque[Job] = deque()
        self.reading: deque[Job] = deque()
        self.batch = CacheRows(model.config)
        self.answers: list[tuple[Job, Answer]] = []  # of the batch's rows
        self._changed = threading.Condition()
        self._ends, self._threads = False, torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End; what has not come to its end fails."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive() and not self._ends

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs done, all or none. Raises `Full` if they cannot wait."""
        with self._changed:
            if self._ends:
                raise Full
            taken = len(self.answers) + sum(max(job.rows, 1) for job in (*self.reading, *self.waiting))
            if taken and taken + sum(max(job.rows, 1) for job in jobs) > self.rows + self.queue:
                raise Full
            self.waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            with torch.no_grad(), evaluating(self.model):
                while self._next():
                    if self.reading:
                        job = self.reading[0]
                        self._guarded(partial(self._read, job), {job})
                    if self.answers:
                        self._guarded(self._step, {job for job, _ in self.answers})
        finally:
            with self._changed:
                self._ends = True
            for job in {*self.waiting, *self.reading, *(job for job, _ in self.answers)}:
                job.tell(Failed("the server stops"))

    def _next(self) -> bool:
        """Wait for work; drop what was cancelled, admit what has room. False: it is over."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._ends:
                    return False
                while self.waiting and self.waiting[0].rows <= self.rows - len(self.answers) - sum(
                    job.rows for job in self.reading
                ):
                    self.reading.append(self.waiting.popleft())
                if self.reading or self.answers:
                    return True
                self._changed.wait()

    def _drop_cancelled(self) -> None:
        gone = {job for job in (*self.waiting, *self.reading) if job.cancelled}
        gone |= {job for job, _ in self.answers if job.cancelled}
        self.counts.cancelled += len(gone)
        for job in gone:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        for queue in (self.waiting, self.reading):
            if job in queue:
                queue.remove(job)
        for row in reversed(range(len(self.answers))):
            if self.answers[row][0] is job:
                self._leave(row)
        job.cache = None

    def _leave(self, row: int) -> None:
        self.batch.leave(row)
        del self.answers[row]

    def _guarded(self, work: Callable[[], None], concerned: set[Job]) -> None:
        """A failure ends the jobs that it concerns, and nothing else."""
        try:
            work()
        except Exception as error:
            logger.exception("a request failed")
            if not self.batch.whole(len(self.answers)):
                concerned = {*concerned, *(job for job, _ in self.answers)}
                self.answers, self.batch = [], CacheRows(self.model.config)
            self.counts.failures += len(concerned)
            for job in concerned:
                self._forget(job)
                job.tell(Failed(f"{type(error).__name__}: {error}"))

    def _read(self, job: Job) -> None:
        """Read a piece of a prompt; behind the last one its answers begin."""
        if job.cache is None:
            self._begin(job)
        assert job.cache is not None
        start, end = job.cache.seen, len(job.prompt)
        size = SHORT_PIECE if self.answers or job.of_prompt else PIECE
        stops = [end, start + size, *([job.fork] if job.fork is not None and job.fork > start else [])]
        piece = job.prompt[start : min(stops)]
        keep = 0 if job.of_prompt else 1
        tokens = torch.from_numpy(piece)[None].to(self.model.device)
        logits = self.model(tokens, past_key_values=job.cache, logits_to_keep=keep).logits[0]
        if job.of_prompt:
            job.note(self.tokenizer, start, logits)
        if job.cache.seen == job.fork:
            self._keep(job.prompt[: job.fork], job.cache, job.known)
        if job.cache.seen == end:
            self.reading.remove(job)
            self._answer(job, logits[-1])

    def _begin(self, job: Job) -> None:
        found = None if job.of_prompt else self.prefixes.longest(job.prompt)
        job.cache, job.known = found or (ReformerCache(self.model.config, room=len(job.prompt) + job.longest), 0)
        job.fork = self.prefixes.fork(job.prompt, job.known)
        self.counts.prompt_tokens += len(job.prompt)
        self.counts.known_tokens += job.known

    def _answer(self, job: Job, logits: torch.Tensor) -> None:
        """The first token of each answer; the cache is kept afterwards, and each answer goes on with its own."""
        job.tell(Begun(job.index, job.known, job.told))
        cache, job.cache = job.cache, None
        assert cache is not None
        going = []
        if job.longest:
            answers = job.answers(self.tokenizer, self.unwanted, self.model.device)
            going = [answer for answer in answers if self._take(job, answer, logits)]
        frozen = FrozenCache(cache) if len(going) > 1 else None
        self._keep(job.prompt, frozen or cache, job.known)
        for i, answer in enumerate(going):
            self.batch.join(cache if i == 0 or frozen is None else frozen.copy())
            self.answers.append((job, answer))
        if not going:
            self.counts.answered += 1

    def _keep(self, prompt: Tokens, cache: ReformerCache | FrozenCache, known: int) -> None:
        """Keep a prompt's cache; that there is no room for it is no reason for its request to fail."""
        try:
            self.prefixes.add(prompt, cache, known)
        except (OSError, MemoryError, RuntimeError):
            logger.exception("a prompt of %d tokens is not kept", len(prompt))

    def _take(self, job: Job, answer: Answer, logits: torch.Tensor) -> bool:
        """Whether an answer goes on behind its next token."""
        piece = answer.take(logits)
        self.counts.new_tokens += 1
        job.tell(piece)
        return piece.finish is None

    def _step(self) -> None:
        """A token for each answer."""
        tokens = torch.tensor([[answer.last] for _, answer in self.answers], device=self.model.device)
        with ExitStack() as threads:
            threads.enter_context(few_threads(self.model, self.batch))
            logits = self.model(tokens, past_key_values=self.batch, logits_to_keep=1).logits[:, -1]
        self.counts.steps += 1
        over, failed = [], {}
        for row, (job, answer) in enumerate(self.answers):
            try:
                if not self._take(job, answer, logits[row]):
                    over.append(row)
            except Exception as error:
                logger.exception("an answer failed")
                failed[job] = f"{type(error).__name__}: {error}"
        ended = {self.answers[row][0] for row in over}
        for row in reversed(over):
            self._leave(row)
        self.counts.answered += len(ended - {job for job, _ in self.answers} - failed.keys())
        self.counts.failures += len(failed)
        for job, message in failed.items():
            self._forget(job)
            job.tell(Failed(message))

    def preload(self, prompt: Tokens) -> None:
        """Read a prompt now and keep its cache as long as the server runs; before `start`."""
        found = self.prefixes.longest(prompt)
        cache, known = found or (ReformerCache(self.model.config, room=len(prompt)), 0)
        with torch.no_grad(), evaluating(self.model):
            for piece in torch.from_numpy(prompt[known:])[None].to(self.model.device).split(PIECE, dim=1):
                self.model.model(piece, past_key_values=cache)
        self.prefixes.add(prompt, cache, pinned=True)
